"""Random time masking: what the paper says, drawn the same everywhere."""

import subprocess
import sys

import pytest
import torch

from muselq_modules.masking import RandomTimeMasking, masked_frames

TOKENS = 750


def draw(masking, examples, epoch=0, tokens=TOKENS):
    return masking.draw(
        torch.full((len(examples),), tokens), [epoch] * len(examples), examples
    )


def test_windows_of_ten_tokens_on_the_grid():
    windows = draw(RandomTimeMasking(), range(50)).unflatten(1, (-1, 10))
    assert torch.equal(windows.all(-1), windows.any(-1))


def test_share_is_a_fifth():
    clips = 2000
    masked = draw(RandomTimeMasking(), range(clips))[:, ::10]
    count, n = int(masked.sum()), clips * TOKENS // 10
    # 99.9 % interval of a binomial; the draws are seeded, so never flaky.
    allowed = 3.29 * (n * 0.2 * 0.8) ** 0.5
    assert abs(count - 0.2 * n) < allowed
    # Every window of a clip has its turn, equally often.
    per_window = masked.float().mean(0)
    assert torch.all((per_window - 0.2).abs() < 4.5 * (0.16 / clips) ** 0.5)


@pytest.mark.parametrize("tokens", [1, 9, 10, 25])
def test_every_clip_has_a_window_and_padding_has_none(tokens):
    masking = RandomTimeMasking(probability=0.01)
    lengths = torch.tensor([tokens, 40, 0])
    for example in range(20):
        mask = masking.draw(lengths, [0] * 3, [example, 99, 100], time=60)
        assert mask.shape == (3, 60)
        assert mask[0].any() and mask[1].any()
        assert not mask[0, tokens:].any() and not mask[1, 40:].any()
        assert not mask[2].any()


def test_the_window_that_is_forced_varies():
    masking = RandomTimeMasking(probability=1e-6)
    windows = draw(masking, range(300))[:, ::10]
    assert torch.all(windows.sum(1) == 1)
    assert len(set(windows.int().argmax(1).tolist())) > 50


def test_differs_by_example_epoch_and_seed():
    masks = [
        draw(RandomTimeMasking(seed=seed), [example], epoch)
        for seed in (1, 2)
        for epoch in (0, 1)
        for example in (3, 4)
    ]
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert not torch.equal(first, second)


def test_does_not_depend_on_the_rest_of_the_batch_nor_on_global_state():
    masking = RandomTimeMasking()
    torch.manual_seed(0)
    together = draw(masking, [5, 6, 7])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(draw(masking, [7, 5])[0], together[2])
    longer = masking.draw(torch.tensor([TOKENS, 900]), [0, 0], [6, 5])
    assert torch.equal(longer[0, :TOKENS], together[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_is_the_same_in_another_process():
    code = (
        "import torch; from muselq_modules.masking import RandomTimeMasking\n"
        "m = RandomTimeMasking().draw(torch.tensor([750]), [3], [12345])\n"
        "print(m.flatten().nonzero().flatten().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    here = draw(RandomTimeMasking(), [12345], epoch=3)
    assert done.stdout.strip() == str(here.flatten().nonzero().ravel().tolist())


@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize("samples", [25 * 960, 25 * 960 + 17, 25 * 960 - 5])
def test_hides_exactly_the_masked_samples(fill, samples):
    masking = RandomTimeMasking(fill=fill)
    wav = torch.rand(2, samples) + 1.0  # nowhere 0, nowhere like the noise
    mask = torch.zeros(2, 25, dtype=torch.bool)
    mask[0, 3], mask[0, 24], mask[1, 0] = True, True, True
    masked = masking(wav, mask, [0, 0], [8, 9])
    for clip in range(2):
        for token in range(25):
            span = slice(token * 960, (token + 1) * 960)
            before, after = wav[clip, span], masked[clip, span]
            if not mask[clip, token]:
                assert torch.equal(after, before)
            elif fill == "zeros":
                assert torch.all(after == 0)
            else:
                assert not (after == before).any()
    assert torch.equal(masked[:, 25 * 960 :], wav[:, 25 * 960 :])


def test_noise_has_its_deviation_and_is_reproducible():
    masking = RandomTimeMasking(fill="noise", noise_std=0.1)
    wav, mask = torch.ones(2, 96000), torch.ones(2, 100, dtype=torch.bool)
    noise = masking(wav, mask, [0, 0], [1, 2])
    assert abs(float(noise.std()) - 0.1) < 0.001
    assert abs(float(noise.mean())) < 0.001
    assert not torch.equal(noise[0], noise[1])
    torch.manual_seed(5)
    alone = masking(wav[1:], mask[1:], [0], [2])
    assert torch.equal(alone[0], noise[1])
    next_epoch = masking(wav[1:], mask[1:], [1], [2])
    assert not torch.equal(next_epoch[0], noise[1])


@pytest.mark.parametrize(
    "sizes", [(2048, 240, 960), (400, 160, 640), (1024, 512, 512), (6, 3, 6)]
)
def test_masked_frames_are_those_whose_window_meets_a_masked_sample(sizes):
    n_fft, hop, token = sizes
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(3, 20, generator=generator) < 0.1
    mask[0] = False
    mask[1, 0] = mask[2, -1] = True
    expected = []
    for clip in range(3):
        for frame in range(20 * token // hop):
            window = range(frame * hop - n_fft // 2, frame * hop + n_fft // 2)
            met = {s // token for s in window if 0 <= s < 20 * token}
            if any(mask[clip, t] for t in met):
                expected.append((clip, frame))
    clips, frames = masked_frames(mask, n_fft, hop, token)
    assert list(zip(clips.tolist(), frames.tolist())) == expected


@pytest.mark.parametrize(
    "option",
    [
        {"mask_ms": 410},
        {"mask_ms": 0},
        {"mask_ms": -400},
        {"probability": 0.0},
        {"probability": 1.5},
        {"probability": float("nan")},
        {"fill": "silence"},
    ],
)
def test_bad_arguments_name_the_value(option):
    (value,) = option.values()
    with pytest.raises(ValueError, match=str(value)):
        RandomTimeMasking(**option)
