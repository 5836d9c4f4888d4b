"""Rotary attention against explicit rotation matrices."""

import math

import pytest
import torch
from small_encoders import redraw

from muselq_modules.attention import RotarySelfAttention, rotate

DIM, HEAD_DIM = 24, 8


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(position, size, base=10000.0):
    """Matrix that turns the pairs (i, i + size / 2) by position * angle_i."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size // 2):
        j = i + size // 2
        angle = position * base ** (-2 * i / size)
        matrix[i, i] = matrix[j, j] = math.cos(angle)
        matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix


def slow(layer, clip):
    """Attention of a clip [time, dim], token by token and head by head."""
    q, k, v = (layer.qkv(clip).double()).split(DIM, dim=-1)
    result = torch.zeros(len(clip), DIM, dtype=torch.float64)
    for head in range(DIM // HEAD_DIM):
        part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        for t in range(len(clip)):
            query = rotation(t, HEAD_DIM) @ q[t, part]
            logits = torch.stack(
                [
                    query @ (rotation(s, HEAD_DIM) @ k[s, part])
                    for s in range(len(clip))
                ]
            )
            weights = torch.softmax(logits / math.sqrt(HEAD_DIM), 0)
            result[t, part] = weights @ v[:, part]
    return layer.output(result.float())


@pytest.fixture
def layer():
    return redraw(RotarySelfAttention(DIM, HEAD_DIM), 0.4).eval()


def test_equals_the_equations(layer):
    x = tokens(2, 9, DIM)
    expected = torch.stack([slow(layer, clip) for clip in x])
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


def test_padding_is_not_attended_to(layer):
    x = tokens(2, 9, DIM)
    mask = torch.arange(9) >= torch.tensor([[9], [4]])
    mixed = layer(x, mask)
    torch.testing.assert_close(
        mixed[0], slow(layer, x[0]), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        mixed[1, :4], slow(layer, x[1, :4]), atol=1e-5, rtol=1e-4
    )


def test_logits_depend_on_the_distance_only():
    # The same vector at every time: logit (t, s) may depend on t - s alone.
    q = tokens(1, 1, 1, 16).expand(1, 1, 40, 16)
    k = tokens(1, 1, 1, 16, seed=1).expand(1, 1, 40, 16)
    logits = (rotate(q) @ rotate(k).mT)[0, 0]
    for shift in (1, 7, 20):
        torch.testing.assert_close(
            logits[shift:, shift:],
            logits[:-shift, :-shift],
            atol=1e-4,
            rtol=1e-4,
        )
    assert (logits[0] - logits[0, 0]).abs().max() > 0.1


def test_bf16_keeps_late_positions_apart():
    x = torch.ones(1, 1, 1002, 8, dtype=torch.bfloat16)
    rotated = rotate(x)
    assert rotated.dtype == torch.bfloat16
    expected = rotate(x.float())
    torch.testing.assert_close(rotated.float(), expected, atol=0.02, rtol=0)
    assert not torch.equal(rotated[0, 0, 1000], rotated[0, 0, 1001])


def test_inference_mode_then_training(layer):
    x = tokens(1, 6, DIM)
    with torch.inference_mode():
        before = layer(x)
    layer.train()
    after = layer(x)
    after.sum().backward()
    assert torch.equal(before, after)
    assert layer.qkv.weight.grad.abs().sum() > 0


def test_dropout_in_training_only():
    layer = redraw(RotarySelfAttention(DIM, HEAD_DIM, dropout=0.5), 0.4)
    x = tokens(1, 6, DIM)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("dim, head_dim", [(24, 7), (24, 16), (15, 5)])
def test_bad_sizes_name_the_values(dim, head_dim):
    with pytest.raises(ValueError, match=f"{dim} .* {head_dim}"):
        RotarySelfAttention(dim, head_dim)
