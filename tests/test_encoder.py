"""Hidden states, layer drop, recomputed activations and the digest."""

import copy

import pytest
import torch
from small_encoders import LAYERS, redraw, small_encoder

from muselq_modules.attention import RotarySelfAttention
from muselq_modules.branchformer import BranchformerLayer
from muselq_modules.features import LogMel
from muselq_modules.summary_mixing import SummaryMixing


def mels(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 81, 32, generator=generator)


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_hidden_states(layer):
    encoder = redraw(small_encoder(layer, n_layers=3))
    wav = torch.randn(2, 24000)
    output = encoder(wav, 24000)
    assert len(output.hidden_states) == 4
    for state in output.hidden_states:
        assert state.shape == (2, 25, 24)
    assert output.lengths.tolist() == [25, 25]
    assert output.lengths.dtype == torch.int64
    x = encoder.subsampling(encoder.log_mel(wav))
    assert torch.equal(output.hidden_states[0], x)
    for i, block in enumerate(encoder.layers, start=1):
        x = block(x)
        if i < 3:
            assert torch.equal(output.hidden_states[i], x)
    assert torch.equal(output.hidden_states[-1], encoder.norm(x))


@torch.no_grad()
def test_all_layers_and_the_last_agree():
    encoder = redraw(small_encoder())
    states = encoder.encode(mels(), layers=range(3))
    assert torch.equal(states[-1], encoder.encode(mels()))


def test_rates():
    encoder = small_encoder()
    assert (encoder.sample_rate, encoder.token_samples) == (24000, 960)
    assert encoder.token_rate_hz == 25.0


@torch.no_grad()
def test_relative_lengths_are_those_of_speechbrain():
    output = small_encoder()(
        torch.randn(3, 30 * 960), 24000, torch.tensor([1.0, 0.5, 1 / 30])
    )
    assert output.lengths.tolist() == [30, 15, 1]


@torch.no_grad()
def test_layer_drop_skips_layers_in_training_only():
    encoder = redraw(small_encoder(n_layers=12, layer_drop=0.5))
    expected = encoder.encode(mels())
    assert torch.equal(encoder.encode(mels()), expected)
    encoder.train()
    torch.manual_seed(0)
    skipped = []
    for _ in range(40):
        states = encoder.encode(mels(), layers=range(13))
        assert len(states) == 13
        skipped.append(
            [torch.equal(states[i], states[i - 1]) for i in range(1, 12)]
        )
    share = torch.tensor(skipped).double().mean()
    assert abs(float(share) - 0.5) < 3.3 * (0.25 / 440) ** 0.5
    encoder.layer_drop = 1.0
    last = encoder.encode(mels())
    assert torch.equal(last, encoder.norm(encoder.subsampling(mels()[:, :80])))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("padded", [False, True])
def test_recomputed_activations_give_the_same_gradients(layer, padded):
    stored = redraw(small_encoder(layer)).train()
    recomputed = copy.deepcopy(stored)
    recomputed.checkpoint_activations = True
    calls = []
    recomputed.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    mask = None
    if padded:
        mask = torch.arange(20) >= torch.tensor([[20], [13]])
    for encoder in (stored, recomputed):
        encoder.encode(mels(), mask).square().sum().backward()
    assert len(calls) == 2  # forward, and again in the backward pass
    pairs = zip(stored.named_parameters(), recomputed.parameters(), strict=True)
    for (name, first), second in pairs:
        assert first.grad is not None, name
        torch.testing.assert_close(first.grad, second.grad, msg=name)


def test_digest_follows_weights_and_settings():
    encoder = small_encoder()
    before = encoder.digest()
    assert len(before) == 64 and int(before, 16) >= 0
    assert small_encoder(layer_drop=0.1).digest() == before
    changed = []
    for name in encoder.state_dict():
        other = small_encoder()
        other.state_dict()[name].view(-1)[0] += 1
        changed.append(other.digest())
    settings = small_encoder()
    settings.log_mel.hop_samples = 480
    changed.append(settings.digest())
    assert before not in changed
    assert len(set(changed)) == len(changed)


def test_settings_without_a_weight_are_part_of_the_digest():
    assert str(LogMel(n_fft=1024)) != str(LogMel())
    assert str(RotarySelfAttention(16, 4)) != str(RotarySelfAttention(16, 8))


def test_gate_of_a_branchformer_sees_other_tokens_from_the_first_step():
    torch.manual_seed(0)
    x = torch.randn(1, 40, 16)
    changed = x.clone()
    changed[:, 20] = torch.randn(16)
    for gate_scale, sees in ((1.0, True), (0.0, False)):
        layer = BranchformerLayer(
            16, SummaryMixing, cgmlp_dim=32, gate_scale=gate_scale
        )
        with torch.no_grad():
            difference = layer._local(x, None) - layer._local(changed, None)
        assert (difference[0, 15].abs().max() > 1e-3) == sees
