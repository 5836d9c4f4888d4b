"""Whitening: equal variances, an exact rotation when switched off."""

import pytest
import torch

from muselq_modules.tokenizer import RandomProjectionTokenizer, token_health
from muselq_modules.whitening import Whitening


@pytest.fixture
def frames():
    """Correlated frames: a loud common factor, and small details."""
    generator = torch.Generator().manual_seed(0)
    loudness = 3 * torch.randn(20000, 1, generator=generator)
    details = torch.randn(20000, 32, generator=generator)
    return loudness + details * torch.linspace(0.2, 1, 32) + 7


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_components_are_uncorrelated_with_mean_variance_one(frames, power):
    whitening = Whitening(32, 8, power)
    whitening.fit(frames)
    covariance = torch.cov(whitening(frames).T)
    variances = covariance.diagonal()
    assert torch.allclose(covariance, variances.diag(), atol=1e-3)
    assert float(variances.mean()) == pytest.approx(1.0, abs=1e-3)
    ratio = float(variances.max() / variances.min())
    # Loudness has some 300 times the variance of the eighth component.
    assert (ratio > 100, ratio < 1.01) == (power == 0.0, power == 1.0)


def test_power_0_with_all_components_is_a_scaled_rotation(frames):
    """Squared errors, and so the paper's losses, stay what they were."""
    whitening = Whitening(32, 32, 0.0)
    whitening.fit(frames)
    here, there = frames[:100], frames[100:200]
    scale = (whitening(here) - whitening(there)).square().sum(1)
    scale = scale / (here - there).square().sum(1)
    assert torch.allclose(scale, scale[:1].expand_as(scale), rtol=1e-3)


def test_tokens_of_whitened_frames_use_more_of_the_codebook(frames):
    def perplexity(power):
        whitening = Whitening(32, 16, power)
        whitening.fit(frames)
        tokens = RandomProjectionTokenizer(16, 512)(whitening(frames))
        return token_health(torch.bincount(tokens, minlength=512))["perplexity"]

    assert perplexity(1.0) > 2 * perplexity(0.0)


def test_a_constant_direction_is_not_blown_up(frames):
    frames = frames.clone()
    frames[:, 5:] = 2.0
    whitening = Whitening(32, 32, 1.0)
    whitening.fit(frames)
    # Silence of another kind than in training must not become infinite.
    assert whitening(frames + 1e-3).abs().max() < 100


def test_low_precision_does_not_change_targets(frames):
    whitening = Whitening(32, 8)
    whitening.fit(frames)
    expected = whitening(frames[:64])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whitening(frames[:64]), expected)


def test_rotated_back_an_output_stands_for_its_input(frames):
    """Whitened mel frames are still in order of frequency."""
    whitening = Whitening(32, shrinkage=1e-9, rotate_back=True)
    whitening.fit(frames)
    whitened = whitening(frames)
    both = torch.cat([whitened, frames - frames.mean(1, keepdim=True)], 1)
    related = torch.corrcoef(both.T)[:32, 32:]
    assert torch.equal(related.argmax(1), torch.arange(32))
    assert torch.allclose(torch.cov(whitened.T), torch.eye(32), atol=1e-3)


def test_measured_buffers_travel_in_the_state(frames):
    whitening, other = Whitening(32, 8), Whitening(32, 8)
    whitening.fit(frames)
    other.load_state_dict(whitening.state_dict())
    assert torch.equal(whitening(frames[:9]), other(frames[:9]))


@pytest.mark.parametrize("arguments", [(8, 9), (8, 0), (8, 4, 1.5), (8, 4, -1)])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="between"):
        Whitening(*arguments)
