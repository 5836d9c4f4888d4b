"""MERT from transformers' HuBERT: exact, strict, and nothing of it runs."""

import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file
from small_mert import PREPROCESSOR, PUBLISHED_CONFIG, write_mert

from muselq_modules.baselines import load_any_encoder
from muselq_modules.errors import UserError
from muselq_modules.mert import PUBLISHED, MertEncoder, load_mert

transformers = pytest.importorskip("transformers")
SIZES = ["95M", "330M"]
# Without the vector for masked frames, which pre-training alone reads.
PARAMETERS = {"95M": 94_370_944, "330M": 315_427_968}


@pytest.fixture
def wav():
    """Two seconds that are neither centred nor of unit variance."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(3, 48000, generator=generator) + 0.05


def reference(model, clips):
    """Hidden states as the published code gives them, step by step."""
    extractor = transformers.Wav2Vec2FeatureExtractor(**PREPROCESSOR)
    x = extractor(clips.numpy(), sampling_rate=24000, return_tensors="pt")
    x = model.feature_extractor(x.input_values).transpose(1, 2)
    x = model.feature_projection(x)
    x = x + model.encoder.pos_conv_embed(x)
    if not model.config.do_stable_layer_norm:
        x = model.encoder.layer_norm(x)
    states = [x]
    for layer in model.encoder.layers:
        x = layer(states[-1])
        states.append(x[0] if isinstance(x, tuple) else x)  # transformers 5.0
    if model.config.do_stable_layer_norm:
        states[-1] = model.encoder.layer_norm(states[-1])
    return states


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_their_number_of_parameters(size):
    with torch.device("meta"):
        encoder = MertEncoder(PUBLISHED_CONFIG[size])
    count = sum(p.numel() for p in encoder.parameters())
    assert count == PARAMETERS[size]
    assert (encoder.token_rate_hz, encoder.min_samples) == (75.0, 400)
    sizes = {"95M": (768, 12), "330M": (1024, 24)}
    assert (encoder.dim, encoder.n_layers) == sizes[size]


@pytest.mark.parametrize("size", SIZES)
def test_a_published_folder_gives_the_published_features(tmp_path, wav, size):
    folder, model = write_mert(tmp_path / "mert", size)
    encoder = load_any_encoder(f"mert:{folder}")
    with torch.inference_mode():
        out = encoder(wav, 24000)
        expected = reference(model, wav)
    assert out.layers == [0, 1, 2, 3]
    for ours, theirs in zip(out.hidden_states, expected, strict=True):
        assert ours.std() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # 400 samples a token, 320 from one to the next.
    assert out.lengths.tolist() == [149] * 3
    assert out.times[:2].tolist() == pytest.approx([200 / 24e3, 520 / 24e3])
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_padding_changes_nothing(tmp_path, wav, size):
    folder, model = write_mert(tmp_path / "mert", size)
    encoder = load_mert(folder)
    lengths = torch.tensor([0.6, 1.0, 0.005])
    samples = [28800, 48000, 240]
    with torch.inference_mode():
        batch = encoder(wav, 24000, lengths)
        assert batch.lengths.tolist() == [89, 149, 1]
        for clip, n in enumerate(samples):
            alone = encoder(wav[clip, :n], 24000)
            n_tokens = alone.lengths.item()
            assert n_tokens == batch.lengths[clip]
            for one, many in zip(alone.hidden_states, batch.hidden_states):
                difference = (one[0] - many[clip, :n_tokens]).abs().max()
                assert difference < 1e-4
        # What it is for: transformers' own mask does not keep padding out.
        padded = torch.where(torch.arange(48000) < 28800, wav[:1], 0.0)
        mask = (torch.arange(48000) < 28800)[None].long()
        leaky = model(padded, mask).last_hidden_state[0, :89]
        alone = model(wav[:1, :28800]).last_hidden_state[0]
    assert (leaky - alone).abs().max() > 1e-2


def test_layers_and_rates_are_those_of_the_interface(tmp_path, wav):
    encoder = load_mert(write_mert(tmp_path / "mert")[0])
    with torch.inference_mode():
        every = encoder(wav, 24000)
        some = encoder(wav, 24000, layers=[-1, 1])
        assert some.layers == [3, 1]
        assert torch.equal(some.hidden_states[1], every.hidden_states[1])
        with pytest.raises(UserError, match="24000 Hz"):
            encoder(wav, 44100)
        other = encoder(wav[:, :44100], 44100, resample=True)
        assert other.lengths.tolist() == [74] * 3
        half = encoder.bfloat16()(wav, 24000).hidden_states[-1]
    assert half.dtype == torch.bfloat16
    assert (half.float() - every.hidden_states[-1]).abs().mean() < 0.1


def test_input_is_normalised_as_the_preprocessor_says(tmp_path, wav):
    folder, model = write_mert(tmp_path / "mert", "330M")
    normalised = load_mert(folder)
    text = json.dumps(PREPROCESSOR | {"do_normalize": False})
    (folder / "preprocessor_config.json").write_text(text, "utf-8")
    raw = load_mert(folder)
    with torch.inference_mode():
        one, other = normalised(wav, 24000), normalised(3 * wav + 0.2, 24000)
        for a, b in zip(one.hidden_states, other.hidden_states):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        expected = model(wav).last_hidden_state
        found = raw(wav, 24000).hidden_states[-1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert raw.digest() != normalised.digest()


def test_digest_is_that_of_weights_and_architecture(tmp_path):
    folder, _ = write_mert(tmp_path / "mert")
    digest = load_mert(folder).digest()
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    save_file(state, folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()
    assert load_mert(folder).digest() == digest
    state["encoder.layer_norm.bias"] += 1e-3
    save_file(state, folder / "model.safetensors")
    assert load_mert(folder).digest() != digest
    heads, _ = write_mert(tmp_path / "heads", num_attention_heads=2)
    assert load_mert(heads).digest() != digest


def refusal(name):
    with pytest.raises(UserError) as caught:
        load_mert(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_must_fit_exactly(tmp_path):
    folder, _ = write_mert(tmp_path / "mert")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    key = "encoder.layers.1.attention.q_proj.weight"
    changes = {
        "Missing key": {k: v for k, v in state.items() if k != key},
        "Unexpected key": state | {"final_proj.weight": torch.zeros(3)},
        "size mismatch": state | {key: torch.zeros(3, 3)},
    }
    for message, changed in changes.items():
        torch.save(changed, folder / "pytorch_model.bin")
        assert message in refusal(folder)
    # The one exception: what masked frames were replaced with.
    del state["masked_spec_embed"]
    torch.save(state, folder / "pytorch_model.bin")
    load_mert(folder)


@pytest.mark.parametrize("key", ["feature_extractor_cqt", "deepnorm"])
def test_another_architecture_is_refused(tmp_path, key):
    folder, _ = write_mert(tmp_path / "mert", **{key: True})
    assert key in refusal(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "pytorch_model.bin"]
)
@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"hidden_size": []}'])
def test_damaged_files_give_one_sentence(tmp_path, name, content):
    folder, _ = write_mert(tmp_path / "mert")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert str(folder) in refusal(folder)


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (print, ("trap",))


def test_no_code_of_a_folder_runs(tmp_path, capsys, monkeypatch):
    folder, _ = write_mert(tmp_path / "mert")
    for name in ("configuration_MERT.py", "modeling_MERT.py"):
        (folder / name).write_text("print('trap')\n", "utf-8")
    # Would have transformers fetch and run a kernel from the Hub.
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["_attn_implementation"] = "somebody/kernel"
    config["attn_implementation"] = "somebody/kernel"
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    encoder = load_mert(folder)
    assert encoder.hubert.config._attn_implementation == "sdpa"
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump({"weight": Trap()}, file, protocol=2)
    assert str(folder) in refusal(folder)
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    assert str(folder) in refusal(folder)
    assert "trap" not in capsys.readouterr().out


def test_revision_is_pinned_and_can_be_given(tmp_path, monkeypatch, caplog):
    folder, _ = write_mert(tmp_path / "mert")
    asked = []

    def download(repository, revision, allow_patterns):
        asked.append((repository, revision))
        assert not any(p.endswith(".py") for p in allow_patterns)
        if revision == "gone":
            raise OSError("no such\nrevision")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = load_any_encoder("mert:95M").source
    assert source == f"m-a-p/MERT-v1-95M@{folder.name}"
    assert "CC BY-NC 4.0" in caplog.text
    load_mert("330M@refs/pr/7")
    load_mert("330M", revision="v2")
    assert "no such revision" in refusal("95M@gone")
    large = PUBLISHED["330M"][0]
    assert asked[:3] == [PUBLISHED["95M"], (large, "refs/pr/7"), (large, "v2")]
    assert all(len(commit) == 40 for _, commit in PUBLISHED.values())


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    assert "95M nor 330M" in refusal(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "[mert]" in refusal("95M")
