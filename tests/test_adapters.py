"""Other people's encoders: any callable, and through a whole recipe."""

import json
import subprocess
import sys

import pytest
import torch
from pretrain_runs import ROOT
from small_mert import write_mert
from test_recipes import launch

from muselq_modules import results, table
from muselq_modules.adapters import CallableEncoder
from muselq_modules.baselines import load_any_encoder
from muselq_modules.errors import UserError
from muselq_modules.probing import encoder_name
from muselq_modules.windows import plan_windows

MODULE = '''
"""An encoder of 16 kHz: three states of 20 ms steps."""
import torch
from muselq_modules.adapters import CallableEncoder

LENGTHS = set()

class Spectra(torch.nn.Module):
    """Leaks padding on purpose: it subtracts the mean of the whole clip."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3, 161, 24, generator=generator)
        self.weight = torch.nn.Parameter(weight)

    def forward(self, wav):
        LENGTHS.add(wav.shape[1])
        frames = wav.unfold(1, 320, 320)
        power = torch.fft.rfft(frames).abs().add(1e-3).log()
        power = power - power.mean(1, keepdim=True)
        return torch.tanh(power @ self.weight[:, None] / 13)

def my_encoder():
    return CallableEncoder(
        Spectra(), sample_rate=16000, token_rate_hz=50.0, dim=24, n_layers=2,
        name="spectra", min_samples=320,
    )
'''
TEMPLATE = ROOT / "recipes" / "template" / "hparams" / "timbre.yaml"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with their_module.py in it."""
    (tmp_path / "their_module.py").write_text(MODULE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "their_module", raising=False)
    yield tmp_path
    sys.modules.pop("their_module", None)


def adapter(function, **changes):
    """An adapter of 50 Hz and 4 dimensions around a function."""
    options = {"token_rate_hz": 50.0, "dim": 4, "n_layers": 1, "version": "1"}
    return CallableEncoder(function, 16000, name="it", **(options | changes))


def two_states(wav):
    """[2, batch, time, 4], a time step for 320 samples."""
    return wav.unfold(1, 320, 320)[..., :4].expand(2, -1, -1, -1)


def test_it_is_called_as_our_encoders(folder):
    encoder = load_any_encoder("python:their_module.my_encoder")
    wav = torch.randn(3, 16000, generator=torch.Generator().manual_seed(0))
    out = encoder(wav, 16000, torch.tensor([1.0, 0.5, 0.01]), [-1, 0])
    assert encoder.source == "python:their_module.my_encoder"
    assert out.layers == [2, 0] and out.token_rate_hz == 50.0
    assert [list(s.shape) for s in out.hidden_states] == [[3, 50, 24]] * 2
    assert out.lengths.tolist() == [50, 25, 1]
    assert out.times[:2].tolist() == pytest.approx([0.01, 0.03])
    # Although the function lets padding in, a batch gives what clips give.
    alone = encoder(wav[1, :8000], 16000, layers=[2]).hidden_states[0]
    assert torch.equal(out.hidden_states[0][1, :25], alone[0])
    assert not out.hidden_states[0][1, 25:].any()
    with pytest.raises(UserError, match="16000 Hz"):
        encoder(wav, 24000)
    assert encoder(wav, 48000, resample=True).lengths.tolist() == [16] * 3
    assert encoder_name("python:their_module.my_encoder") == (
        "their_module.my_encoder"
    )


def test_lists_of_states_are_as_good():
    wav = torch.randn(2, 3200)
    listed = adapter(lambda wav: list(two_states(wav)))
    one, other = listed(wav, 16000), adapter(two_states)(wav, 16000)
    for a, b in zip(one.hidden_states, other.hidden_states, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "function",
    [
        lambda wav: two_states(wav)[0],  # no layers
        lambda wav: two_states(wav)[:1],  # too few
        lambda wav: two_states(wav).transpose(0, 1),  # batch first
        lambda wav: two_states(wav).transpose(2, 3),  # dim before time
        lambda wav: two_states(wav)[..., :3],
        lambda wav: two_states(wav)[:, :, :0],
        lambda wav: [two_states(wav)[0], two_states(wav)[0, :, 1:]],
        lambda wav: None,
    ],
)
def test_another_shape_is_told(function):
    with pytest.raises(UserError, match=r"expected \[2, 3, time, 4\]"):
        adapter(function)(torch.randn(3, 3200), 16000)


def test_another_token_rate_is_told():
    encoder = adapter(two_states, token_rate_hz=75.0)
    with pytest.raises(UserError, match="50 time steps for 1 s"):
        encoder(torch.randn(1, 16000), 16000)


def test_digest_tells_one_from_another():
    with pytest.raises(UserError, match="needs a version"):
        adapter(two_states, version=None)
    digests = {
        adapter(two_states, **changes).digest()
        for changes in ({}, {"version": "2"}, {"dim": 5}, {"min_samples": 9})
    }
    assert len(digests) == 4
    model = torch.nn.Linear(2, 2)
    before = adapter(model, version=None).digest()
    assert adapter(model, version=None).digest() == before
    with torch.no_grad():
        model.bias += 1e-3
    assert adapter(model, version=None).digest() != before


@pytest.mark.parametrize(
    "spec",
    ["their_module", "no_module.it", "their_module.nothing", ".it", ""],
)
def test_what_does_not_exist_is_one_sentence(folder, spec):
    with pytest.raises(UserError, match="does not exist"):
        load_any_encoder(f"python:{spec}")


def test_faults_of_the_module_are_shown_as_they_are(folder):
    path = folder / "their_module.py"
    path.write_text("import no_such_dependency\n", "utf-8")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_any_encoder("python:their_module.my_encoder")


def test_what_is_no_encoder_is_told(folder):
    with pytest.raises(UserError, match="CallableEncoder"):
        load_any_encoder("python:their_module.LENGTHS")
    with pytest.raises(UserError, match="lacks sample_rate"):
        load_any_encoder("python:their_module.Spectra")


def test_windows_follow_the_rate_of_the_encoder(folder):
    encoder = load_any_encoder("python:their_module.my_encoder")
    row = {"path": "a.wav", "duration": "75.1"}
    windows = plan_windows(row, 30.0, "marble", encoder)
    assert [w.samples for w in windows] == [480000, 480000, 241600]


def test_a_whole_recipe_with_other_encoders(folder, monkeypatch):
    """16 and 24 kHz encoders of others as rows beside mel."""
    write_mert(folder / "their_mert", "330M")
    scores = []
    for spec in ("mel", "mert:their_mert", "python:their_module.my_encoder"):
        result = launch(
            TEMPLATE, folder / "tones", folder / "out", monkeypatch, spec
        )
        scores.append(result["test"]["accuracy"]["mean"])
        assert result["encoder"]["spec"] == spec
    # Audio of 24 kHz and 2 s came at 16 kHz.
    assert sys.modules["their_module"].LENGTHS == {32000}
    assert scores[-1] > 0.4
    page = results.write_report(folder / "out")
    report = json.loads((page.parent / "results.json").read_text("utf-8"))
    assert [run["row"] for run in report["runs"]] == [
        "mel",
        "mert_their_mert",
        "their_module.my_encoder",
    ]


def test_the_table_draws_no_random_twin_of_them(tmp_path, monkeypatch):
    (tmp_path / "gtzan").mkdir()
    specs = []

    def run(line, check=False):
        if "--pretrained" in line:
            specs.append(line[line.index("--pretrained") + 1])
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.setattr(table.subprocess, "run", run)
    table.main([str(tmp_path), "mert:95M", str(tmp_path / "out")])
    assert specs == ["mert:95M", "mel", "mfcc", "chroma"]
    specs.clear()
    table.main([str(tmp_path), "runs/mine", str(tmp_path / "out")])
    assert specs[:2] == ["runs/mine", "random:runs/mine"]
