"""Encoders on disk: a round trip, and nothing in a folder can run."""

import json

import pytest
import torch
from small_run import make_run, save_checkpoint

from muselq_modules.architecture import build
from muselq_modules.description import describe
from muselq_modules.errors import UserError
from muselq_modules.pretrained import load_encoder, save_encoder


@pytest.fixture
def run(tmp_path):
    """A run folder with its resolved YAML, and the model trained in it."""
    return make_run(tmp_path)


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
    older = save_checkpoint(folder, model, 9)
    newest = save_checkpoint(folder, model, 10)
    (older / "model.ckpt").write_bytes(b"old")
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
    for name, value in untrained.whitening.named_buffers():
        assert torch.equal(value, getattr(model.encoder.whitening, name))
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
