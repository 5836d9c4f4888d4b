"""The Hub: two files of a pinned revision come down, an export goes up."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
from fake_hub import COMMITS, FakeHub
from small_run import finish_run

from muselq_modules import hub
from muselq_modules.baselines import load_any_encoder
from muselq_modules.encoder import MusicEncoder
from muselq_modules.errors import UserError
from muselq_modules.experiment import _missing_folder
from muselq_modules.export import export_encoder
from muselq_modules.pretrained import load_encoder

ERRORS = pytest.importorskip("huggingface_hub.errors")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    parent = tmp_path_factory.mktemp("hub")
    folder, encoder = finish_run(parent)
    return export_encoder(folder, parent / "exported"), encoder


@pytest.fixture
def cached(exported, tmp_path, monkeypatch):
    """snapshot_download finds the export, as commit aaa...; the calls."""
    folder, _ = exported
    snapshot = tmp_path / COMMITS["main"]
    shutil.copytree(folder, snapshot)
    calls = []

    def snapshot_download(repository, **options):
        calls.append((repository, options))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return calls


def refusal(call, *args, **options):
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


CLIENT = """\
import json, sys
from muselq_modules import MusicEncoder
from muselq_modules.errors import UserError

def load(spec, **options):
    try:
        encoder = MusicEncoder.from_pretrained(spec, **options)
        print(json.dumps([encoder.source, encoder.digest()]), flush=True)
    except UserError as error:
        print(json.dumps(["refused", str(error)]), flush=True)

load("org/name")
load("org/name", revision="v1")
load("org/name@v2")
load("org/other")
sys.stdin.readline()  # from here on nobody answers
load("org/name")
load("org/name@" + "b" * 40)
load("org/third")
"""


def test_the_real_client_fetches_two_files_and_then_works_offline(
    exported, tmp_path
):
    folder, encoder = exported
    (folder / "trap.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    server = FakeHub({"main": folder, "v1": folder})
    (tmp_path / "client.py").write_text(textwrap.dedent(CLIENT))
    client = subprocess.Popen(
        [sys.executable, str(tmp_path / "client.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_TOKEN": "",
        },
    )
    answers = [client.stdout.readline() for _ in range(4)]
    server.close()
    rest, errors = client.communicate("\n", timeout=300)
    answers = [json.loads(a) for a in answers + rest.splitlines() if a.strip()]
    (folder / "trap.py").unlink()
    (folder / "pytorch_model.bin").unlink()
    assert len(answers) == 7, errors
    main, v1 = f"org/name@{'a' * 40}", f"org/name@{'b' * 40}"
    digest = encoder.digest()
    assert answers[:2] == [[main, digest], [v1, digest]]
    assert "no revision v2" in answers[2][1]
    assert "neither a folder here nor a model" in answers[3][1]
    # Offline: from the cache.
    assert answers[4:6] == [[main, digest], [v1, digest]]
    assert "nor can the Hub be reached" in answers[6][1]
    asked = {path.rpartition("/")[2] for _, path in server.requests}
    assert {"config.json", "model.safetensors"} <= asked
    names = {p.name for p in folder.iterdir()} | {"trap.py"}
    assert asked & (names - set(hub.FILES)) == set()
    kept = {p.name for p in (tmp_path / "cache").rglob("*")}
    assert not {"README.md", "trap.py", "hyperparams.yaml"} & kept


def test_the_revision_is_pinned_and_recorded(exported, cached):
    pinned = f"org/name@{COMMITS['main']}"
    for spec, revision, asked in (
        ("org/name", None, None),
        ("org/name@v1", None, "v1"),
        ("org/name", "refs/pr/1", "refs/pr/1"),
        ("org/name@v1", "v1", "v1"),
        (pinned, None, COMMITS["main"]),
    ):
        encoder = MusicEncoder.from_pretrained(spec, revision)
        assert encoder.source == pinned
        assert encoder.digest() == exported[1].digest()
        assert cached[-1] == (
            "org/name",
            {"revision": asked, "allow_patterns": list(hub.FILES)},
        )
    random = load_any_encoder("random:org/name@v1")
    assert random.source == f"random:{pinned}"
    assert random.digest() != exported[1].digest()


def test_a_folder_goes_before_the_hub(exported, cached, tmp_path):
    (tmp_path / "org").mkdir()
    shutil.copytree(exported[0], tmp_path / "org" / "name")
    load_encoder("org/name")
    assert not cached


def test_two_revisions_are_refused(cached):
    sentence = refusal(load_encoder, "org/name@v1", revision="v2")
    assert "v1" in sentence and "v2" in sentence
    assert not cached


def test_a_run_folder_on_the_hub_is_not_searched_for_pickles(
    cached, exported, monkeypatch, tmp_path
):
    """Cached beside what was asked for there may be a whole repository."""
    other = tmp_path / ("c" * 40)
    (other / "save" / "CKPT+1").mkdir(parents=True)
    (other / "save" / "CKPT+1" / "model.ckpt").write_bytes(b"a pickle")
    shutil.copytree(exported[0], other / "encoder")
    (other / "hyperparams.yaml").write_text("encoder: 3")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: str(other)
    )
    assert "config.json" in refusal(load_encoder, "org/name")


def http_error(kind, status):
    response = SimpleNamespace(
        status_code=status, headers={}, request=None, text=""
    )
    return kind("several\nlines", response=response)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda: http_error(ERRORS.RepositoryNotFoundError, 404), "log in"),
        (lambda: http_error(ERRORS.GatedRepoError, 403), "log in"),
        (lambda: http_error(ERRORS.RevisionNotFoundError, 404), "revision"),
        (lambda: http_error(ERRORS.HfHubHTTPError, 500), "several lines"),
        (lambda: ERRORS.LocalEntryNotFoundError("no\ncache"), "the cache"),
        (lambda: ERRORS.OfflineModeIsEnabled("offline"), "offline"),
        (lambda: OSError(28, "No space left on device"), "No space left"),
        (lambda: RuntimeError(), "RuntimeError"),
    ],
)
def test_every_failure_is_one_sentence(monkeypatch, error, words):
    def fails(*_, **__):
        raise error()

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    assert words in refusal(load_encoder, "org/name@v1")


def test_recipes_take_hub_ids():
    for spec in ("org/name", "org/name@v1", "random:org/name"):
        assert _missing_folder({"pretrained": spec}, False) is None
    for spec in ("a/b/c", "./none", "random:none"):
        assert "does not exist" in _missing_folder({"pretrained": spec}, False)


class Api:
    """What `upload` uses of HfApi; remembers the calls."""

    def __init__(self, private=True):
        self.private, self.calls = private, []

    def create_repo(self, repository, private, exist_ok):
        self.calls.append(("create", repository, private, exist_ok))

    def repo_info(self, repository):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **options):
        self.calls.append(("upload", options))
        return SimpleNamespace(oid=COMMITS["main"])


@pytest.fixture
def api(monkeypatch):
    api = Api()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    return api


@pytest.mark.parametrize("public", [False, True])
def test_upload_is_private_unless_told(exported, api, public):
    folder, _ = exported
    api.private = not public
    pinned = hub.upload(folder, "org/name", public)
    assert pinned == f"org/name@{COMMITS['main']}"
    create, (kind, options) = api.calls
    assert create == ("create", "org/name", not public, True)
    assert kind == "upload" and options["folder_path"] == folder
    assert set(options["allow_patterns"]) == {p.name for p in folder.iterdir()}


def test_a_public_repository_gets_nothing_by_accident(exported, api):
    api.private = False
    assert "--public" in refusal(hub.upload, exported[0], "org/name")
    assert [call[0] for call in api.calls] == ["create"]


def test_upload_without_token_or_network(exported, api, monkeypatch):
    def fails(**_):
        raise ERRORS.OfflineModeIsEnabled("no network")

    monkeypatch.setattr(api, "upload_folder", fails)
    assert "no network" in refusal(hub.upload, exported[0], "org/name")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "hf auth login" in refusal(hub.upload, exported[0], "org/name")
