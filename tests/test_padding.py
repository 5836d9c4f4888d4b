"""A clip alone and the same clip in a padded batch have equal features."""

from itertools import product

import pytest
import torch
from small_encoders import (
    FRONT_ENDS,
    LAYERS,
    MIXERS,
    redraw,
    small_encoder,
)
from speechbrain.lobes.models.transformer.Branchformer import (
    BranchformerEncoderLayer,
)
from torch import nn

from muselq_modules.hidden_states import EncoderOutput

TOLERANCE = 1e-4
KINDS = pytest.mark.parametrize(
    "kinds", list(product(LAYERS, MIXERS, FRONT_ENDS)), ids="-".join
)
LENGTHS = [24000, 960, 240, 12345, 7200, 19200]


def clips():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, generator=generator) * 0.1 for n in LENGTHS]


def padded_batch(fill):
    """Clips in one tensor [batch, 24000]; what lies beyond is ``fill``."""
    generator = torch.Generator().manual_seed(1)
    wav = torch.zeros(len(LENGTHS), max(LENGTHS))
    if fill == "garbage":
        wav.normal_(std=3.0, generator=generator)
    elif fill == "nan":
        wav.fill_(float("nan"))
    for row, clip in zip(wav, clips()):
        row[: len(clip)] = clip
    return wav, torch.tensor(LENGTHS) / max(LENGTHS)


def largest_difference(encoder, fill):
    """Over clips, layers and valid tokens."""
    wav, lengths = padded_batch(fill)
    together = encoder(wav, 24000, lengths)
    worst = 0.0
    for i, clip in enumerate(clips()):
        alone = encoder(clip, 24000)
        n_tokens = max(1, len(clip) // 960)
        assert alone.lengths.tolist() == [n_tokens]
        assert together.lengths[i] == n_tokens
        states = zip(together.hidden_states, alone.hidden_states, strict=True)
        for padded, single in states:
            assert single.shape[:2] == (1, n_tokens)
            difference = (padded[i, :n_tokens] - single[0]).abs().max()
            worst = max(worst, float(difference.nan_to_num(torch.inf)))
    return worst


@pytest.mark.parametrize("fill", ["zeros", "garbage", "nan"])
@KINDS
@torch.no_grad()
def test_padding_never_changes_a_valid_token(kinds, fill):
    encoder = redraw(small_encoder(*kinds))
    assert largest_difference(encoder, fill) <= TOLERANCE


class Upstream(nn.Module):
    """SpeechBrain's own layer in our encoder."""

    def __init__(self, dim):
        super().__init__()
        self.layer = BranchformerEncoderLayer(
            dim, nhead=2, attention_type="regularMHA", csgu_linear_units=48
        )

    def forward(self, x, padding_mask=None):
        return self.layer(x, src_key_padding_mask=padding_mask)[0]


@torch.no_grad()
def test_the_check_finds_the_leak_of_speechbrains_own_layer(monkeypatch):
    # Its gate cannot take 15 tokens or fewer: longer clips.
    monkeypatch.setattr("test_padding.LENGTHS", [48000, 24000])
    encoder = small_encoder()
    encoder.layers = nn.ModuleList([Upstream(24), Upstream(24)])
    encoder = redraw(encoder).eval()
    assert largest_difference(encoder, "zeros") > 1e-2
    # Our layers pass on the same clips.
    assert largest_difference(redraw(small_encoder()), "zeros") <= TOLERANCE


@KINDS
def test_nothing_looks_across_the_batch(kinds):
    for layer in small_encoder(*kinds).modules():
        assert not isinstance(layer, nn.modules.batchnorm._NormBase)
    encoder = redraw(small_encoder(*kinds)).train()
    # ... in training either: a clip's features are its own.
    wav = torch.randn(3, 9600, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = encoder(wav, 24000).hidden_states[-1]
        alone = encoder(wav[1:2], 24000).hidden_states[-1]
    assert (together[1] - alone[0]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("seconds", [0.01, 0.04, 0.3])
@KINDS
def test_very_short_clips_work(kinds, seconds):
    output = small_encoder(*kinds)(
        torch.randn(2, round(seconds * 24000)), 24000
    )
    assert isinstance(output, EncoderOutput)
    n_tokens = max(1, int(seconds / 0.04 + 1e-6))
    for state in output.hidden_states:
        assert state.shape == (2, n_tokens, 24)
        assert state.isfinite().all()
    assert output.lengths.tolist() == [n_tokens] * 2


def test_no_mask_is_built_when_lengths_are_whole(monkeypatch):
    encoder, masks = small_encoder(mixer="attention"), []
    encode = encoder.encode

    def keep(mels, padding_mask, layers):
        masks.append(padding_mask)
        return encode(mels, padding_mask, layers)

    monkeypatch.setattr(encoder, "encode", keep)
    wav = clips()[0].expand(2, -1)
    whole = encoder(wav, 24000, torch.ones(2)).hidden_states[-1]
    encoder(wav, 24000, torch.tensor([1.0, 0.5]))
    assert masks[0] is None and masks[1].any()
    assert torch.equal(whole, encoder(wav, 24000).hidden_states[-1])
