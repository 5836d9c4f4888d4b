"""The pass in blocks gives what one call of the encoder gives."""

from itertools import product

import pytest
import torch
from small_encoders import FRONT_ENDS, LAYERS, redraw, small_encoder

from muselq_modules.baselines import MelBaseline
from muselq_modules.errors import UserError
from muselq_modules.full_context import FullContext
from muselq_modules.token_store import TokenStore

TOLERANCE = 1e-4
STREAMED = ["summary", "lite"]
KINDS = list(product(LAYERS, STREAMED, FRONT_ENDS))


def music(samples, seed=0):
    """Noise whose level changes: blocks have unlike means."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.linspace(0.01, 0.5, samples) ** 2
    return torch.randn(samples, generator=generator) * level


def in_blocks(encoder, wav, layers, piece=7001, **options):
    """[time, layer, dim] of audio that arrives in pieces."""
    full = FullContext(encoder, layers, **options)
    for part in wav.split(piece):
        full.add(part)
    return torch.cat(list(full.frames()))


@torch.no_grad()
def at_once(encoder, wav, layers):
    states = encoder(wav, 24000, layers=layers).hidden_states
    return torch.stack(states, 2)[0]


@pytest.mark.parametrize("in_file", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_equals_one_call(kinds, in_file, tmp_path):
    encoder = redraw(small_encoder(*kinds, n_layers=3))
    wav = music(24000 * 8 + 501)
    layers = [0, 1, 2, 3]
    expected = at_once(encoder, wav, layers)
    assert expected.shape == (200, 4, 24)
    for block_tokens in (17, 64, 200, 1000):
        options = {"duration_s": 9e9, "folder": tmp_path} if in_file else {}
        frames = in_blocks(
            encoder, wav, layers, block_tokens=block_tokens, **options
        )
        assert frames.shape == expected.shape
        assert (frames - expected).abs().max() <= TOLERANCE
    assert not list(tmp_path.iterdir())


def test_weights_are_such_that_errors_show(monkeypatch):
    """The halo and the mean matter: without them the results differ."""
    encoder = redraw(small_encoder("conformer", "summary", n_layers=2))
    wav, layers = music(24000 * 8), [2]
    expected = at_once(encoder, wav, layers)
    exact = in_blocks(encoder, wav, layers, block_tokens=50)
    assert (exact - expected).abs().max() <= TOLERANCE
    cut = torch.cat([at_once(encoder, w, layers) for w in wav.split(48000)])
    assert (cut - expected).abs().max() > 0.05
    for part in (encoder.layers[0], encoder.subsampling):
        with monkeypatch.context() as patch:
            patch.setattr(type(part), "halo", 0)
            wrong = in_blocks(encoder, wav, layers, block_tokens=50)
        assert (wrong - expected).abs().max() > 0.01


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_halos_are_no_larger_than_needed(front_end, monkeypatch):
    """One token less, and the result changes."""
    encoder = redraw(small_encoder(front_end=front_end))
    # Without layers, and with a spectrogram that sees its own hop only.
    encoder.log_mel.n_fft = 0
    encoder.log_mel.decibels = lambda wav: wav.unflatten(-1, (-1, 240))[
        ..., :32
    ]
    wav = music(24000 * 4)
    expected = in_blocks(encoder, wav, [0], block_tokens=1000)
    for missing, right in ((0, True), (1, False)):
        halo = encoder.subsampling.halo
        with monkeypatch.context() as patch:
            patch.setattr(type(encoder.subsampling), "halo", halo - missing)
            frames = in_blocks(encoder, wav, [0], block_tokens=20)
        same = (frames - expected).abs().max() <= 1e-5
        assert same == right


@pytest.mark.parametrize("samples", [1, 959, 960, 24000, 24000 + 959])
def test_short_recordings(samples):
    encoder = redraw(small_encoder())
    wav = music(samples)
    frames = in_blocks(encoder, wav, [2], piece=100, block_tokens=5)
    expected = at_once(encoder, wav, [2])
    assert frames.shape == expected.shape
    assert (frames - expected).abs().max() <= TOLERANCE


def test_layers_in_the_order_asked_for():
    encoder, wav = redraw(small_encoder(n_layers=3)), music(48000)
    calls = []
    encoder.layers[2].register_forward_hook(lambda *_: calls.append(3))
    frames = in_blocks(encoder, wav, [2, 0, 2], block_tokens=20)
    expected = at_once(encoder, wav, [2, 0, 2])
    assert (frames - expected).abs().max() <= TOLERANCE
    assert not calls


def test_bf16_is_close():
    encoder, wav = redraw(small_encoder(), std=0.1), music(24000 * 4)
    exact = in_blocks(encoder, wav, [2], block_tokens=30)
    frames = in_blocks(
        encoder, wav, [2], block_tokens=30, autocast=torch.bfloat16
    )
    assert frames.dtype == torch.float32
    assert 0 < (frames - exact).abs().max() < 0.1
    for part in (encoder.subsampling, encoder.layers, encoder.norm):
        part.bfloat16()
    frames = in_blocks(encoder, wav, [2], block_tokens=30)
    assert frames.dtype == torch.float32
    assert 0 < (frames - exact).abs().max() < 0.1


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_takes_all_tokens_at_once_or_none(layer):
    encoder = redraw(small_encoder(layer, "attention"))
    wav = music(24000 * 8)
    frames = in_blocks(encoder, wav, [0, 2], block_tokens=50)
    expected = at_once(encoder, wav, [0, 2])
    assert (frames - expected).abs().max() <= TOLERANCE
    with pytest.raises(UserError, match="RotarySelfAttention over 0.1 min"):
        in_blocks(encoder, wav, [0, 2], memory_gb=1e-6)


def test_encoders_of_unknown_parts_are_refused():
    with pytest.raises(UserError, match="not MelBaseline"):
        FullContext(MelBaseline(), [0])


@pytest.mark.parametrize("in_file", [False, True])
def test_store(tmp_path, in_file):
    store = TokenStore(5, tmp_path if in_file else None)
    tokens = torch.randn(100, 5)
    for block in tokens.split([1, 30, 0, 69]):
        store.append(block)
    assert len(store) == 100
    for start, stop in ((0, 100), (0, 1), (30, 32), (99, 100), (40, 60)):
        assert torch.equal(store.read(start, stop), tokens[start:stop])
    store.append(tokens)
    assert torch.equal(store.read(90, 110)[10:], tokens[:10])
