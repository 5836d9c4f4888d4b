"""Segments at other levels, through other equalisers and bandwidths."""

import pytest
import torch

from muselq_modules.augmentation import Augmentation, mel_positions


def white_noise(n=65536):
    return 0.1 * torch.randn(n, generator=torch.Generator().manual_seed(3))


def draw(seed):
    return torch.Generator().manual_seed(seed)


def responses(augmentation, seeds=range(20), n=65536):
    """Decibels [seed, bin] that each seed adds to white noise."""
    wav = white_noise(n)
    before = torch.fft.rfft(wav).abs()
    changed = torch.stack([augmentation(wav, 24000, draw(s)) for s in seeds])
    return 20 * torch.log10(torch.fft.rfft(changed).abs() / before + 1e-9)


def test_gain_is_flat_and_within_its_bounds():
    decibels = responses(Augmentation(gain_db=10.0))
    assert (decibels.amax(1) - decibels.amin(1)).max() < 0.05
    gains = decibels.mean(1)
    assert gains.min() < -5 and gains.max() > 3 and gains.abs().max() <= 10.01


def test_equaliser_is_smooth_and_differs():
    decibels = responses(Augmentation(equaliser_db=6.0))
    assert decibels.std(0).mean() > 2  # from segment to segment
    assert decibels.std(1).mean() > 2  # from frequency to frequency
    largest = 6 * sum(k**-0.5 for k in range(1, 5))
    assert decibels.abs().max() <= largest + 0.1
    # A hundredth of the mel scale is a small part of its waves.
    place = mel_positions(decibels.shape[1], 24000)
    bands = [
        decibels[:, (place >= at) & (place < at + 0.01)]
        for at in torch.arange(0.2, 0.99, 0.01)
    ]
    assert max((b.amax(1) - b.amin(1)).max() for b in bands) < 2


def test_low_pass_takes_what_is_above_and_nothing_below():
    augmentation = Augmentation(lowpass_probability=0.5)
    decibels = responses(augmentation, range(40))
    place = mel_positions(decibels.shape[1], 24000)
    below = decibels[:, place < 0.5]
    assert below.abs().max() < 0.1
    limited = decibels[:, (place > 0.995) & (place < 1)].mean(1) < -60
    assert 10 <= limited.sum() <= 30
    cutoffs = (decibels > -3).float().sum(1)[limited]
    assert cutoffs.unique().numel() > 5


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_full_scale_is_never_exceeded_nor_clipped(dtype):
    time_s = torch.arange(24000) / 24000
    wav = 0.9 * torch.sin(2 * torch.pi * 440 * time_s)
    if dtype == torch.int16:
        wav = (wav * 32768).to(dtype)
    augmentation = Augmentation(gain_db=20.0)
    full = 32767 if dtype == torch.int16 else 1.0
    reached = []
    for seed in range(10):
        out = augmentation(wav, 24000, draw(seed))
        assert out.dtype == dtype and len(out) == 24000
        spectrum = torch.fft.rfft(out.double()[:24000])
        harmonics = spectrum.abs()[[880, 1320, 2200]].max()
        assert harmonics < 1e-3 * spectrum.abs()[440]
        reached.append(out.double().abs().max().item() / full)
    assert max(reached) == pytest.approx(1.0, abs=1e-3)


def test_the_generator_decides():
    augmentation = Augmentation([0.8, 1.25], 10.0, 6.0, 0.5)
    wav = white_noise(2400)
    first, again = (augmentation(wav, 24000, draw(1)) for _ in range(2))
    assert torch.equal(first, again)
    other = augmentation(wav, 24000, draw(2))
    assert len(other) != len(first) or not torch.equal(other, first)


@pytest.mark.parametrize("length", [0, 1, 2, 959])
def test_any_length(length):
    wav = torch.zeros(length, dtype=torch.int16)
    out = Augmentation([1.25], 10.0, 6.0, 1.0)(wav, 24000, draw(0))
    assert out.dtype == torch.int16 and len(out) == -(-length * 4 // 5)


def test_without_arguments_nothing_is_touched():
    wav = white_noise(100)
    assert Augmentation()(wav, 24000, draw(0)) is wav


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"speeds": []}, "speeds is"),
        ({"speeds": [0.1]}, "0.5 to 2.0"),
        ({"speeds": 1.0}, "must be a list"),
        ({"speeds": "fast"}, "must be a list"),
        ({"gain_db": -1.0}, "gain_db is -1.0"),
        ({"gain_db": float("nan")}, "gain_db is nan"),
        ({"equaliser_db": 100}, "from 0 to 60"),
        ({"lowpass_probability": 1.5}, "from 0 to 1"),
        ({"lowpass_probability": None}, "lowpass_probability is None"),
    ],
)
def test_what_does_not_fit_is_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=words):
        Augmentation(**arguments)
