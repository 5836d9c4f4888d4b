"""A folder from anywhere: nothing in it runs, and it cannot exhaust memory."""

import json
import os
import pickle
import shutil
import struct
import sys
import time

import pytest
import torch
from safetensors.torch import save_file
from small_run import finish_run, make_run, save_checkpoint

from muselq_modules import description
from muselq_modules.errors import UserError
from muselq_modules.pretrained import find_encoder, load_encoder

resource = pytest.importorskip("resource")  # not on Windows


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """config.json and model.safetensors, as in any exported folder."""
    folder, _ = finish_run(tmp_path_factory.mktemp("untrusted"))
    load_encoder(folder)  # what the first call imports is not counted below
    return folder / "encoder"


@pytest.fixture
def folder(exported, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(exported, tmp_path / "theirs")


def refusal(spec):
    with pytest.raises(UserError) as caught:
        load_encoder(spec)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 1000
    return sentence


def spoil(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    changed = change(config["arguments"], config)
    path.write_text(json.dumps(config if changed is None else changed))


DANGEROUS = [
    "os.system",
    "builtins.exec",
    "builtins.eval",
    "subprocess.run",
    "muselq_modules.pretrained.os.system",
    "muselq_modules.features.torch.load",
    "muselq_modules.features.torch",
    "muselq_modules.features.nn.Module",
    "muselq_modules.pretrained.load_encoder",
    "muselq_modules.segments.SegmentManifest",
    "muselq_modules.encoder.MusicEncoder",
    "muselq_modules.model.MaskedPredictor",
    "muselq_modules...features.LogMel",
    "../../features.LogMel",
    "torch.load",
    "torch.nn.Module.__init__",
    "torch.nn.Linear",
    "torch.nn.modules.module.torch.load",
    "torch.hub.load",
    "exec",
    "",
    None,
    ["os", "system"],
]


@pytest.mark.parametrize("name", DANGEROUS, ids=str)
@pytest.mark.parametrize("place", ["top", "layer", "log_mel", "deep"])
def test_a_config_that_names_other_code_is_refused(folder, name, place):
    trap = folder / "trap"
    call = {"command": f"touch {trap}"}

    def change(arguments, config):
        if place == "top" and name == config["new"]:
            config["new"] = "os.system"
        elif place == "top":
            config.update(new=name, arguments=call)
        elif place == "layer":
            arguments["layer"] = {"name": name, "arguments": call}
        elif place == "log_mel":
            arguments["log_mel"] = {"new": name, "arguments": call}
        else:
            arguments["dim"] = [{"a": {"new": name, "arguments": call}}]

    spoil(folder, change)
    assert "names" in refusal(folder)
    assert not trap.exists()


def test_only_the_features_are_built_before_the_weights_are_compared(folder):
    def change(arguments, _):
        arguments["layer"] = {
            "new": "muselq_modules.subsampling.ConvNeXtSubsampling",
            "arguments": {"n_mels": 1000, "dim": 10**6},
        }

    spoil(folder, change)
    assert "names" in refusal(folder)


ABSURD = {
    "dim": lambda a, c: a.update(dim=2**16 - 16),
    "dim beyond": lambda a, c: a.update(dim=10**12),
    "dim of many digits": lambda a, c: a.update(dim=10**4000),
    "negative": lambda a, c: a.update(dim=-8),
    "zero": lambda a, c: a.update(dim=0),
    "fraction": lambda a, c: a.update(dim=24.5),
    "text": lambda a, c: a.update(dim="24"),
    "list": lambda a, c: a.update(dim=[24]),
    "null": lambda a, c: a.update(log_mel=None),
    "no features": lambda a, c: a.pop("log_mel"),
    "layers": lambda a, c: a.update(n_layers=10**12),
    "many layers": lambda a, c: a.update(n_layers=100),
    "blocks": lambda a, c: a["subsampling"]["arguments"].update(n_blocks=10**9),
    "n_fft": lambda a, c: a["log_mel"]["arguments"].update(n_fft=10**9),
    "n_mels": lambda a, c: a["log_mel"]["arguments"].update(n_mels=10**9),
    "heads": lambda a, c: a["layer"]["arguments"]["mixer"]["arguments"].update(
        head_dim=0
    ),
    "hop": lambda a, c: a["log_mel"]["arguments"].update(hop_samples=0),
    "half a hop": lambda a, c: a["log_mel"]["arguments"].update(
        hop_samples=0.5
    ),
    "unknown argument": lambda a, c: a.update(tier=3),
    "mixer is text": lambda a, c: a["layer"]["arguments"].update(mixer="x"),
    "no arguments": lambda a, c: c.pop("arguments"),
    "arguments is text": lambda a, c: c.update(arguments="x"),
    "no class": lambda a, c: c.pop("new"),
    "newer": lambda a, c: c.update(format=2),
    "number": lambda a, c: 3,
    "of another library": lambda a, c: {"model_type": "hubert"},
    "wide": lambda a, c: a.update(x=[0] * 10**5),
    "deep": lambda a, c: a.update(x=nested(300)),
}


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_sizes_are_refused_before_memory_is_taken(folder, kind):
    spoil(folder, ABSURD[kind])
    started, before = time.process_time(), peak_megabytes()
    refusal(folder)
    assert peak_megabytes() - before < 100
    assert time.process_time() - started < 10


def peak_megabytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def test_a_trillion_parameters_are_refused_by_their_shapes(folder):
    """Sizes within every limit: what is told comes from the comparison."""
    spoil(folder, ABSURD["dim"])
    assert "instead of [65520" in refusal(folder)


def test_json_that_is_no_description(folder):
    path = folder / "config.json"
    for text in (
        "[" * 10**5,
        "x" * (description.MAX_CHARACTERS + 1),
        '{"new": NaN}',
        "[1" + "0" * 5000 + "]",
        "\ufeff{}",
    ):
        path.write_text(text, encoding="utf-8")
        assert str(path) in refusal(folder)
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in refusal(folder)


def header(length, text=b"{}"):
    return struct.pack("<Q", length) + text


def entry(shape, start, stop, dtype="F32"):
    content = {
        "norm.weight": {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [start, stop],
        }
    }
    text = json.dumps(content).encode()
    return header(len(text), text)


@pytest.mark.parametrize(
    "content",
    [
        header(2**62),
        header(99 * 10**6),
        header(2**22 + 1, b" " * 2**23),
        header(2),
        header(3, b"[1]"),
        entry([10**12], 0, 4 * 10**12),
        entry([2**62], 0, 0),
        entry([24], 0, 96),
        entry([24], 96, 0) + bytes(96),
        entry([6], 0, 24, "I32") + bytes(24),
        pickle.dumps({"a": 1}),
        b"PK\x03\x04" + bytes(100),
    ],
    ids=range(12),
)
def test_bad_weights_are_refused_before_memory_is_taken(folder, content):
    path = folder / "model.safetensors"
    path.write_bytes(content)
    before = peak_megabytes()
    assert str(path) in refusal(folder)
    assert peak_megabytes() - before < 100


def test_weights_that_do_not_fit_are_named(folder, exported):
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    state = load_file(exported / "model.safetensors")
    save_file({**state, "extra.weight": torch.zeros(3)}, path)
    assert "extra.weight is unexpected" in refusal(folder)
    save_file({k: v for k, v in state.items() if k != "norm.bias"}, path)
    assert "norm.bias is missing" in refusal(folder)
    save_file({f"x\n{name}": tensor for name, tensor in state.items()}, path)
    assert "more" in refusal(folder)


class Trap:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("forced", [False, True])
def test_pickles_never_run(tmp_path, monkeypatch, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    folder, model = make_run(tmp_path)
    trap = tmp_path / "trap"
    checkpoint = save_checkpoint(folder, model, 1) / "model.ckpt"
    torch.save(Trap(trap), checkpoint)
    refusal(folder)
    checkpoint.write_bytes(pickle.dumps(Trap(trap)))
    refusal(folder)
    for other in ([1, 2], {"encoder.norm.weight": 3}, {3: torch.ones(1)}):
        torch.save(other, checkpoint)
        refusal(folder)
    assert not trap.exists()


YAMLS = {
    "new": "encoder: !new:os.system\n    command: touch TRAP\n",
    "apply": "encoder: !apply:os.system [touch TRAP]\n",
    "apply elsewhere": "x: !apply:os.system [touch TRAP]\nencoder: 3\n",
    "python": "encoder: !!python/object/apply:os.system [touch TRAP]\n",
    "bomb": "a: &a [x, x]\n"
    + "".join(
        f"b{i}: &b{i} [*b{i - 1}, *b{i - 1}]\n" for i in range(1, 40)
    ).replace("*b0", "*a")
    + "encoder: *b39\n",
    "circle": "encoder: &a [*a]\n",
    "deep": "encoder: " + "[" * 10**3 + "\n",
    "no mapping": "- 1\n",
    "scalar": "3\n",
    "empty": "",
    "complex key": "? [encoder]\n: 3\n",
    "complex key inside": "encoder: !new:a.b\n    ? [c]\n    : 3\n",
    "no yaml": "a: [\n",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yaml_never_runs(tmp_path, kind):
    folder, model = make_run(tmp_path)
    save_checkpoint(folder, model, 1)
    trap = tmp_path / "trap"
    text = YAMLS[kind].replace("TRAP", str(trap))
    (folder / "hyperparams.yaml").write_text(text)
    started = time.process_time()
    refusal(folder)
    assert time.process_time() - started < 10
    assert not trap.exists()


def test_the_yaml_of_an_exported_folder_is_not_read(folder):
    (folder / "hyperparams.yaml").write_text(YAMLS["apply"])
    (folder / "custom.py").write_text("raise SystemExit")
    assert load_encoder(folder).n_layers == 2


@pytest.mark.parametrize(
    "spec", ["../x/y", "a/../b", "a/b@../../c", "a/b@v1/../..", "/a/b", "a//b"]
)
def test_paths_do_not_reach_the_hub(monkeypatch, spec):
    def reached(*_, **__):
        raise AssertionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", reached)
    with pytest.raises(UserError, match="does not exist"):
        find_encoder(spec)
    with pytest.raises(UserError, match="no branch"):
        find_encoder("org/name", "../../refs")
