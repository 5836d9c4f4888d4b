"""Log-mel features against torchaudio, and their partial recomputation."""

import pytest
import torch
import torchaudio

from muselq_modules import features
from muselq_modules.features import FrameStacking, LogMel
from muselq_modules.masking import RandomTimeMasking, masked_frames

SECOND = 24000


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 0.1


def reference(wav):
    """The same spectrogram by torchaudio."""
    transform = torchaudio.transforms.MelSpectrogram(
        SECOND, n_fft=2048, hop_length=240, n_mels=128, pad_mode="constant"
    )
    mels = transform(wav)[..., : wav.shape[-1] // 240].mT
    return 10 * torch.log10(mels.clamp_min(1e-10))


@pytest.mark.parametrize("samples", [SECOND, 2 * SECOND + 100, 960, 241])
def test_equals_torchaudio(samples):
    wav = noise(2, samples)
    decibels = LogMel().decibels(wav)
    assert decibels.shape == (2, samples // 240, 128)
    torch.testing.assert_close(decibels, reference(wav), atol=1e-3, rtol=0)


def test_silence_is_minus_100_db_and_no_frame_depends_on_the_loudest():
    wav = torch.zeros(1, SECOND)
    wav[:, SECOND // 2 :] = 1.0
    decibels = LogMel().decibels(wav)
    assert torch.all(decibels[:, :40] == -100.0)


def test_thirty_seconds_are_3000_frames_and_750_tokens():
    frames = LogMel(n_mels=4)(torch.zeros(1, 30 * SECOND))
    assert frames.shape == (1, 3000, 4)
    assert FrameStacking(4)(frames).shape == (1, 750, 16)


def test_stacking_keeps_the_order_and_drops_an_incomplete_stack():
    frames = torch.arange(2 * 11 * 3).reshape(2, 11, 3)
    stacked = FrameStacking(4)(frames)
    for clip in range(2):
        for time in range(2):
            neighbours = [frames[clip, 4 * time + i] for i in range(4)]
            assert torch.equal(stacked[clip, time], torch.cat(neighbours))


def test_statistics_are_stored_and_used():
    log_mel = LogMel()
    wav = noise(1, SECOND)
    mean, std = torch.linspace(-60, -20, 128), torch.linspace(5, 15, 128)
    log_mel.set_statistics(mean.tolist(), std.tolist())
    assert set(log_mel.state_dict()) == {"mean", "std"}
    expected = (reference(wav) - mean) / std
    torch.testing.assert_close(log_mel(wav), expected, atol=1e-3, rtol=0)
    loaded = LogMel()
    loaded.load_state_dict(log_mel.state_dict())
    assert torch.equal(loaded(wav), log_mel(wav))


def test_a_constant_bin_stays_finite():
    log_mel = LogMel()
    log_mel.set_statistics(torch.full((128,), -100.0), torch.zeros(128))
    assert torch.all(log_mel(torch.zeros(1, SECOND)) == 0)


def test_autocast_and_half_precision_input_give_float32():
    log_mel, wav = LogMel(), noise(1, SECOND)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = log_mel(wav)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, log_mel(wav))


def test_cpu_blocks_do_not_matter(monkeypatch):
    log_mel, wav = LogMel(), noise(2, SECOND)
    whole = log_mel(wav)
    for block in (1, 7, 64):
        monkeypatch.setattr(features, "CPU_BLOCK_FRAMES", block)
        torch.testing.assert_close(log_mel(wav), whole, atol=1e-4, rtol=0)


def mask_of(case):
    mask = torch.zeros(2, 75, dtype=torch.bool)
    if case == "first":
        mask[0, 0] = True
    elif case == "last":
        mask[1, -1] = True
    elif case == "all":
        mask[:] = True
    elif case == "random":
        mask = RandomTimeMasking(probability=0.5).draw(
            torch.tensor([75, 75]), [0, 0], [1, 2]
        )
    return mask


@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize("case", ["none", "first", "last", "all", "random"])
def test_refresh_equals_recomputing_everything(fill, case):
    # Not torch.equal: a block of a matrix product sums in its own order.
    log_mel, wav = LogMel(), noise(2, 3 * SECOND)
    log_mel.set_statistics(torch.full((128,), -30.0), torch.full((128,), 9.0))
    mask, clean = mask_of(case), log_mel(wav)
    masked = RandomTimeMasking(fill=fill)(wav, mask, [0, 0], [1, 2])
    clips, frames = masked_frames(mask)
    refreshed = log_mel.refresh(clean, masked, clips, frames)
    torch.testing.assert_close(refreshed, log_mel(masked), atol=1e-4, rtol=0)
    changed = (log_mel(masked) - clean).abs().amax(-1) > 1e-4
    touched = torch.zeros_like(changed)
    touched[clips, frames] = True
    assert torch.all(touched | ~changed)
    assert bool(changed.any()) == (case != "none")
    assert torch.equal(clean, log_mel(wav))  # a new tensor was returned


def test_floor_bounds_silence_and_nothing_else():
    """Digital silence must not lie where masked frames are."""
    plain, floored = LogMel(), LogMel(floor=-3.0)
    wav = noise(1, SECOND)
    statistics = plain.decibels(wav).flatten(0, 1)
    for log_mel in (plain, floored):
        log_mel.set_statistics(statistics.mean(0), statistics.std(0))
    wav[:, SECOND // 2 :] = 0.0
    assert plain(wav).min() < -5
    assert floored(wav).min() == -3.0
    assert torch.equal(floored(wav), plain(wav).clamp(min=-3.0))
    assert str(plain) != str(floored)  # another encoder, another cache
