"""Windows over blocks, and their join without seams."""

import pytest
import torch

from muselq_modules.crossfade import CrossFade, OverlappingWindows
from muselq_modules.errors import UserError


def cut(length, window, hop, unit=1, block=7):
    windows = OverlappingWindows(window, hop, unit)
    found = []
    for part in torch.arange(length).split(block):
        found += windows.add(part)
    return found + windows.finish()


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize("hop", [4, 7, 10])
@pytest.mark.parametrize("length", range(8, 45))
def test_windows_cover_the_sequence(length, hop, block):
    windows = cut(length, 10, hop, block=block)
    for start, piece in windows:
        expected = torch.arange(start, start + min(10, length))
        assert torch.equal(piece, expected)
    starts = [start for start, _ in windows]
    assert starts[:-1] == list(range(0, hop * (len(windows) - 1), hop))
    assert starts[-1] == max(0, length - 10)
    assert all(0 < b - a <= hop for a, b in zip(starts, starts[1:]))


def test_the_last_window_starts_on_a_token():
    windows = cut(101, 30, 20, unit=10)
    assert [start for start, _ in windows] == [0, 20, 40, 60, 70]
    assert all(len(piece) == 30 for _, piece in windows)
    # What is left is less than a token.
    assert [start for start, _ in cut(99, 30, 20, unit=10)][-1] == 60
    # A recording shorter than a window is taken as it is.
    assert [len(piece) for _, piece in cut(29, 30, 20, unit=10)] == [29]


def test_a_window_does_not_hold_the_recording():
    windows = OverlappingWindows(1000, 800)
    for _ in range(50):
        windows.add(torch.zeros(5000))
    assert windows._buffer.untyped_storage().nbytes() < 4 * 6000


def fade(windows):
    joint = CrossFade()
    parts = [joint.add(start, frames) for start, frames in windows]
    return torch.cat([*parts, joint.finish()])


@pytest.mark.parametrize("length", range(8, 45, 3))
@pytest.mark.parametrize("hop", [1, 4, 7, 10])
def test_equal_frames_stay_as_they_are(length, hop):
    """The weights of a token sum to 1, also where three windows meet."""
    sequence = torch.randn(length, 2, 3)
    windows = [(start, sequence[p]) for start, p in cut(length, 10, hop)]
    torch.testing.assert_close(fade(windows), sequence)


def test_outer_tokens_weigh_less():
    first, second = torch.zeros(10, 1), torch.ones(10, 1)
    joint = fade([(0, first), (6, second)])[:, 0]
    assert torch.all(joint[:6] == 0) and torch.all(joint[10:] == 1)
    assert joint[6:10].tolist() == [0.125, 0.375, 0.625, 0.875]


def test_three_windows():
    """The last one is moved back over two others."""
    frames = [torch.full((10, 1), value) for value in (0.0, 1.0, 2.0)]
    joint = fade(list(zip((0, 6, 8), frames)))[:, 0]
    assert len(joint) == 18
    assert torch.all(joint[:6] == 0) and torch.all(joint[16:] == 2)
    assert torch.all(joint[1:] >= joint[:-1])
    assert (joint[1:] - joint[:-1]).max() < 0.5


def test_a_token_in_no_window_is_refused():
    joint = CrossFade()
    joint.add(0, torch.zeros(9, 1))
    with pytest.raises(UserError, match="9 tokens of a window of 10"):
        joint.add(10, torch.zeros(9, 1))
