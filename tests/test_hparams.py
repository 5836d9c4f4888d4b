"""Every YAML: short, exact, checked, loadable, and read to its last key."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml.nodes import MappingNode, SequenceNode

from muselq_modules.baselines import BASELINES
from muselq_modules.configuration import (
    INCLUDE,
    RUN_OPTIONS,
    check_tree,
    entries,
    read_tree,
)
from muselq_modules.errors import UserError
from muselq_modules.features import LogMel
from muselq_modules.tokenizer import RandomProjectionTokenizer

ROOT = Path(__file__).parents[1]
PRETRAINING = sorted((ROOT / "hparams").glob("*.yaml"))
BLOCKS = sorted((ROOT / "hparams").glob("*/**/*.yaml"))
DOWNSTREAM = sorted((ROOT / "recipes").glob("*/hparams/**/*.yaml"))
RUNNABLE = PRETRAINING + DOWNSTREAM
PLACEHOLDERS = ("data_folder", "pretrained")
TORCHRUN_OPTIONS = {"nproc_per_node", "nnodes", "standalone"}
# Where the keys of a block are read, besides in the block itself.
PRETRAIN_READERS = [
    ROOT / "recipes" / "pretrain" / "train.py",
    *(
        ROOT / "muselq_modules" / f"{name}.py"
        for name in ("pretraining", "experiment", "checkpoints")
    ),
]
PROBE_READERS = [
    *(ROOT / "muselq_modules").glob("prob*.py"),
    *(
        ROOT / "muselq_modules" / f"{n}.py"
        for n in ("embeddings", "experiment")
    ),
]


def name_of(path):
    return str(path.relative_to(ROOT))


every_file = pytest.mark.parametrize(
    "path", PRETRAINING + BLOCKS + DOWNSTREAM, ids=name_of
)
every_run = pytest.mark.parametrize("path", RUNNABLE, ids=name_of)


def test_every_file_is_found():
    counts = len(PRETRAINING), len(BLOCKS), len(DOWNSTREAM)
    # Table 2 and the demo; the blocks; twelve tasks and the template.
    assert counts == (7, 5, 13)
    everywhere = {
        path
        for suffix in ("*.yaml", "*.yml")
        for folder in ("hparams", "recipes")
        for path in (ROOT / folder).rglob(suffix)
    }
    assert everywhere == {*PRETRAINING, *BLOCKS, *DOWNSTREAM}


@every_file
def test_is_short(path):
    limit = 65 if path in PRETRAINING else 25 if path in BLOCKS else 35
    assert len(path.read_text("utf-8").splitlines()) <= limit


def header(path):
    """Comment lines at the top as one text, continued lines joined."""
    lines = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines).replace("\\\n", " ")


@every_run
def test_first_lines_hold_the_exact_command(path):
    commands = re.findall(r"^torchrun .*$", header(path), re.MULTILINE)
    assert len(commands) == 1
    words = shlex.split(commands[0])[1:]
    while words[0].startswith("--"):
        option = words.pop(0).removeprefix("--").split("=")[0]
        assert option in TORCHRUN_OPTIONS
    script, yaml, *options = words
    assert (ROOT / script).is_file()
    assert ROOT / yaml == path
    if path in DOWNSTREAM:
        assert (ROOT / script).parent == path.parents[1]
    keys = set(entries(read_tree(path)))
    names, values = options[::2], options[1::2]
    assert {f"--{key}" for key in placeholders(path)} == set(names)
    for name, value in zip(names, values, strict=True):
        assert name.removeprefix("--") in keys
        # Paths of the user's machine are absolute; results/ is made by runs.
        if value not in BASELINES and not value.startswith(("/", "results/")):
            assert (ROOT / value).exists(), value


@every_run
def test_header_says_what_it_is_and_what_to_expect(path):
    lines = [line for line in header(path).splitlines() if line]
    assert len(lines) >= 3
    assert not any(re.fullmatch(r"[A-Z]+", line) for line in lines), lines


def placeholders(path):
    """Top-level keys that the command line must fill."""
    tree = entries(read_tree(path))
    return [key for key, node in tree.items() if node.tag == "!PLACEHOLDER"]


def filled(path):
    """The tree as if the placeholders were given on the command line."""
    tree = read_tree(path)
    for _, node in tree.value:
        if node.tag == "!PLACEHOLDER":
            node.tag, node.value = "tag:yaml.org,2002:str", "."
    return tree


@every_run
def test_passes_the_static_check(path):
    check_tree(filled(path), path)
    with pytest.raises(UserError, match="data_folder is missing"):
        check_tree(read_tree(path), path)
    assert placeholders(path) == [
        key
        for key in PLACEHOLDERS
        if path in DOWNSTREAM or key == "data_folder"
    ]


@pytest.fixture
def no_weights(monkeypatch):
    """Builds layers without memory; small tables stay on the CPU."""
    for kind in (LogMel, RandomProjectionTokenizer):

        def on_cpu(self, *args, original=kind.__init__, **kwargs):
            with torch.device("cpu"):
                original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", on_cpu)
    with torch.device("meta"):
        yield


@every_run
def test_loads(path, no_weights):
    given = dict.fromkeys(placeholders(path), ".")
    with open(path, encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, given)
    assert hparams["seed"] == 1234
    if path in DOWNSTREAM:
        assert hparams["monitor"] in hparams["metrics"]
        assert hparams["dataset"] == path.parents[1].name
        assert set(hparams["probe"]) == set(
            entries(read_tree(ROOT / "hparams" / "blocks" / "probe.yaml"))
        )
        return
    encoder = hparams["encoder"]
    assert hparams["model"].encoder is encoder
    assert encoder.log_mel is hparams["features"]["log_mel"]
    assert encoder.token_samples == hparams["masking"]["masking"].token_samples
    assert encoder.sample_rate == 24000 and encoder.token_rate_hz == 25
    tokenizer = hparams["tokenizer"]["tokenizer"]
    stacked = encoder.subsampling.factor * encoder.log_mel.n_mels
    components = hparams["tokenizer"]["whitening"].matrix
    assert components.shape[0] == stacked
    assert components.shape[1] == tokenizer.projection.shape[0]
    assert hparams["model"].mel_head.out_features == components.shape[1]
    codes = hparams["model"].token_head.out_features
    assert codes == tokenizer.codebook_size
    schedule = hparams["optimisation"]["schedule"]
    assert schedule.total_steps == hparams["n_steps"]
    assert schedule.warmup_steps == hparams["warmup_steps"]
    assert hparams["global_batch"] % hparams["local_batch"] == 0


# ------------------------------------------------------------- unread keys


def references(node):
    """Names that the !ref and !copy nodes below a node read."""
    found = set()
    if node.tag in ("!ref", "!copy"):
        found |= set(re.findall(r"<([^>\[.]*)", str(node.value)))
    if isinstance(node, MappingNode):
        for _, value in node.value:
            found |= references(value)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            found |= references(value)
    return found


def names_read_by(paths):
    """Quoted strings, and attributes of anything called hparams."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.Attribute):
                holder = node.value
                name = getattr(holder, "attr", getattr(holder, "id", None))
                if name == "hparams":
                    found.add(node.attr)
    return found


def unread(path, code):
    """Top-level keys that neither the file nor the code reads."""
    tree = read_tree(path)
    known = references(tree) | code
    return [
        key
        for key, node in entries(tree).items()
        if key not in known and not node.tag.startswith("!apply:")
    ]


@every_run
def test_every_key_is_read(path):
    readers = PROBE_READERS if path in DOWNSTREAM else PRETRAIN_READERS
    assert unread(path, names_read_by(readers) | RUN_OPTIONS) == []


@pytest.mark.parametrize("path", BLOCKS, ids=name_of)
def test_every_key_of_a_block_is_read(path):
    readers = PROBE_READERS if path.stem == "probe" else PRETRAIN_READERS
    assert unread(path, names_read_by(readers)) == []
    users = [p for p in RUNNABLE if f"/{path.name}" in p.read_text("utf-8")]
    assert users, "no file includes it"


def test_an_unread_key_is_found(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("read: 1\nforgotten: 2\nuser: !ref <read>\n")
    assert unread(path, {"user"}) == ["forgotten"]


@every_run
def test_includes_hold_no_run_option(path):
    for node in entries(read_tree(path)).values():
        if node.tag.startswith(INCLUDE):
            assert not set(entries(node)) & RUN_OPTIONS


@pytest.mark.parametrize(
    "path", [p for p in PRETRAINING if p.stem != "demo"], ids=name_of
)
def test_the_six_models_differ_in_the_encoder_only(path):
    """A row of Table 2 differs from another in its last lines alone."""

    def common(path):
        text = path.read_text("utf-8").replace(path.stem, "NAME")
        body, _, _ = text.partition("\nencoder: ")
        return [line for line in body.splitlines() if line[:1] != "#"]

    assert common(path) == common(ROOT / "hparams" / "brn_summary.yaml")
