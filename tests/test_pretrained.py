"""Encoders on disk: a round trip, and nothing in a folder can run."""

import json

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references

from muselq_modules.architecture import build
from muselq_modules.description import describe
from muselq_modules.errors import UserError
from muselq_modules.pretrained import load_encoder, save_encoder

YAML = """\
dim: 24
features: !include:log_mel.yaml
encoder: !new:muselq_modules.encoder.MusicEncoder
    dim: !ref <dim>
    n_layers: 2
    log_mel: !ref <features[log_mel]>
    subsampling: !name:muselq_modules.subsampling.ConvNeXtSubsampling
        n_blocks: 1
    layer: !name:muselq_modules.branchformer.BranchformerLayer
        cgmlp_dim: !ref <dim> * 2
        mixer: !name:muselq_modules.attention.RotarySelfAttention
            head_dim: 8
model: !new:muselq_modules.model.MaskedPredictor
    encoder: !ref <encoder>
    codebook_size: 50
"""
BLOCK = """\
log_mel: !new:muselq_modules.features.LogMel
    n_mels: 32
"""


@pytest.fixture
def run(tmp_path):
    """A run folder with its resolved YAML, and the encoder trained in it."""
    (tmp_path / "log_mel.yaml").write_text(BLOCK)
    (tmp_path / "small.yaml").write_text(YAML)
    folder = tmp_path / "run"
    folder.mkdir()
    with open(tmp_path / "small.yaml") as stream:
        resolved = resolve_references(stream).getvalue()
    (folder / "hyperparams.yaml").write_text(resolved)
    with open(tmp_path / "small.yaml") as stream:
        model = load_hyperpyyaml(stream)["model"]
    encoder = model.encoder.eval()
    encoder.log_mel.set_statistics(torch.rand(32) - 20, torch.rand(32) + 9)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return folder, model


def features(encoder):
    wav = torch.randn(1, 9600, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return encoder(wav, 24000).hidden_states


def assert_same(first, second):
    assert first.digest() == second.digest()
    for one, other in zip(features(first), features(second), strict=True):
        assert torch.equal(one, other)


def test_round_trip(run):
    folder, model = run
    encoder = model.encoder
    written = save_encoder(encoder, folder)
    assert sorted(p.name for p in written.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    for spec in (folder, str(folder), written):
        loaded = load_encoder(spec)
        assert_same(loaded, encoder)
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())


def test_description_is_that_of_the_objects(run):
    folder, model = run
    found = describe(folder / "hyperparams.yaml", "encoder")
    assert json.loads(json.dumps(found)) == found
    assert found["arguments"]["layer"]["arguments"]["cgmlp_dim"] == 48
    assert str(build(found)) == str(model.encoder)


def test_a_run_that_has_not_finished_gives_its_checkpoint(run):
    folder, model = run
    older = folder / "save" / "CKPT+000000009"
    newest = folder / "save" / "CKPT+000000010"
    for checkpoint in (older, newest):
        checkpoint.mkdir(parents=True)
    (older / "model.ckpt").write_bytes(b"old")
    torch.save(model.state_dict(), newest / "model.ckpt")
    assert_same(load_encoder(folder), model.encoder)
    (newest / "model.ckpt").write_bytes(b"cut")
    assert str(newest) in refusal(folder)


def test_random_keeps_the_mel_statistics_and_nothing_else(run):
    folder, model = run
    save_encoder(model.encoder, folder)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    untrained = load_encoder(f"random:{folder}")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(untrained.log_mel.mean, model.encoder.log_mel.mean)
    assert torch.equal(untrained.log_mel.std, model.encoder.log_mel.std)
    trained = dict(model.encoder.named_parameters())
    for name, weight in untrained.named_parameters():
        assert not torch.equal(weight, trained[name]), name
    assert_same(untrained, load_encoder(f"random:{folder}"))
    other = load_encoder(f"random:{folder}", seed=5)
    assert other.digest() != untrained.digest()


def refusal(spec):
    with pytest.raises(UserError) as caught:
        load_encoder(spec)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


DANGEROUS = [
    "os.system",
    "builtins.exec",
    "builtins.eval",
    "subprocess.run",
    "muselq_modules.pretrained.os.system",
    "muselq_modules.pretrained.importlib",
    "muselq_modules.pretrained.load_file",
    "muselq_modules.segments.SegmentManifest",
    "torch.load",
    "torch.nn.Module.__init__",
    "torch.nn.modules.module.torch.load",
    "torch.hub.load",
    "exec",
    "",
]


@pytest.mark.parametrize("name", DANGEROUS)
@pytest.mark.parametrize("place", ["top", "layer"])
def test_a_config_that_names_other_code_is_refused(run, name, place):
    folder, model = run
    path = save_encoder(model.encoder, folder) / "config.json"
    config = json.loads(path.read_text())
    trap = folder / "trap"
    call = {"new": name, "arguments": {"command": f"touch {trap}"}}
    if place == "top":
        config = call
    else:
        config["arguments"]["layer"] = {**call, "name": name}
    path.write_text(json.dumps(config))
    assert f"names {name}" in refusal(folder)
    assert not trap.exists()


def test_a_yaml_that_names_other_code_is_refused(run):
    folder, model = run
    path = folder / "hyperparams.yaml"
    path.write_text("encoder: !new:os.system\n    command: 'true'\n")
    (folder / "save" / "CKPT+000000001").mkdir(parents=True)
    state = folder / "save" / "CKPT+000000001" / "model.ckpt"
    torch.save(model.state_dict(), state)
    assert "names os.system" in refusal(folder)
    path.write_text("encoder: !apply:os.system ['true']\n")
    assert refusal(folder)


def test_what_is_missing_is_named(run, tmp_path):
    folder, model = run
    assert "nothing" in refusal(tmp_path / "nothing")
    assert "save/" in refusal(folder)
    (folder / "hyperparams.yaml").write_text("model: 3\n")
    assert "no key encoder" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text"])
def test_damaged_files_give_one_sentence(run, name, damage):
    folder, model = run
    path = save_encoder(model.encoder, folder) / name
    content = path.read_bytes()
    path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif damage == "text":
        path.write_bytes(b"[1, 2]")
    assert str(folder) in refusal(folder)


def test_weights_of_another_shape_are_told(run):
    folder, model = run
    path = save_encoder(model.encoder, folder) / "config.json"
    path.write_text(path.read_text().replace('"dim": 24', '"dim": 48'))
    assert "do not fit" in refusal(folder)


def test_weights_are_replaced_atomically(run, monkeypatch):
    folder, model = run
    save_encoder(model.encoder, folder)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("muselq_modules.weights.save", killed)
    before = load_encoder(folder).digest()
    with torch.no_grad():
        model.encoder.norm.weight.add_(1)
    with pytest.raises(KeyboardInterrupt):
        save_encoder(model.encoder, folder)
    assert load_encoder(folder).digest() == before
