"""SummaryMixing against loops written from its equations."""

import pytest
import torch
from small_encoders import redraw
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from muselq_modules import summary_mixing
from muselq_modules.attention import RotarySelfAttention
from muselq_modules.summary_mixing import (
    GroupedLinear,
    SummaryMixing,
    SummaryMixingLite,
    summarise,
)

DIM, HEADS, LOCAL, SUMMARY = 16, 4, 8, 24


def dense(layer, head, x):
    """One layer of one head for one token: GELU(x W + b)."""
    return F.gelu(x @ layer.weight[head] + layer.bias[head])


def two_layers(mixer, x, second, first, last):
    """f or s for one token, head by head; columns first:last of the input."""
    parts = []
    for head in range(HEADS):
        width = DIM // HEADS
        part = x[head * width : (head + 1) * width]
        weight = mixer.input.weight[head][:, first:last]
        hidden = F.gelu(part @ weight + mixer.input.bias[head][first:last])
        parts.append(dense(second, head, hidden))
    return torch.cat(parts)


def slow(mixer, clip):
    """h_t = c(f(x_t), 1/T sum_t s(x_t)) for a clip [time, dim]."""
    local, summary = LOCAL // HEADS, SUMMARY // HEADS
    s_bar = torch.zeros(SUMMARY)
    for x in clip:
        s_bar += two_layers(
            mixer, x, mixer.summary_function, local, local + summary
        ) / len(clip)
    combined = []
    for x in clip:
        f = two_layers(mixer, x, mixer.local_function, 0, local)
        combined.append(F.gelu(mixer.combiner(torch.cat([f, s_bar]))))
    return torch.stack(combined)


@pytest.fixture
def mixer():
    return redraw(SummaryMixing(DIM, HEADS, LOCAL, SUMMARY), 0.5)


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def padding(lengths, time):
    return torch.arange(time) >= torch.tensor(lengths).unsqueeze(1)


def test_equals_the_equations(mixer):
    x = tokens(2, 7, DIM)
    expected = torch.stack([slow(mixer, clip) for clip in x])
    torch.testing.assert_close(mixer(x), expected, atol=1e-5, rtol=1e-5)


def test_padding_is_no_part_of_the_summary(mixer):
    x = tokens(2, 9, DIM)
    mixed = mixer(x, padding([9, 5], 9))
    torch.testing.assert_close(mixed[0], slow(mixer, x[0]))
    torch.testing.assert_close(mixed[1, :5], slow(mixer, x[1, :5]))
    assert not torch.allclose(mixer(x)[1, :5], mixed[1, :5], atol=1e-3)


@pytest.mark.parametrize("kind", [SummaryMixing, SummaryMixingLite])
@pytest.mark.parametrize("lengths", [None, [23, 23], [23, 9], [4, 0]])
@pytest.mark.parametrize("block", [1, 5, 22])
def test_blocks_of_long_clips_change_nothing(kind, lengths, block, monkeypatch):
    mixer, x = redraw(kind(DIM, HEADS), 0.5), tokens(2, 23, DIM)
    mask = None if lengths is None else padding(lengths, 23)
    whole = mixer(x, mask)
    monkeypatch.setattr(summary_mixing, "CPU_BLOCK_TOKENS", block)
    calls, branches = [], mixer.branches
    monkeypatch.setattr(
        mixer, "branches", lambda x: calls.append(x.shape[1]) or branches(x)
    )
    assert torch.equal(mixer(x, mask), whole)  # with gradients: at once
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, mask), whole)
    assert calls == [
        23,
        *[block] * (23 // block),
        *[23 % block] * (23 % block > 0),
    ]


def test_lite_is_the_mean_of_s():
    mixer = redraw(SummaryMixingLite(DIM, HEADS), 0.5)
    x = tokens(2, 9, DIM)
    mixed = mixer(x, padding([9, 5], 9))
    assert mixed.shape == (2, 1, DIM)
    for clip, length in zip(range(2), (9, 5)):
        values = [
            two_layers(mixer, token, mixer.summary_function, 0, DIM // HEADS)
            for token in x[clip, :length]
        ]
        torch.testing.assert_close(mixed[clip, 0], sum(values) / length)
    torch.testing.assert_close(mixer(x, padding([9, 9], 9)), mixer(x))


def test_default_widths_are_those_of_table_2():
    mixer = SummaryMixing(1024)
    assert mixer.local_function.weight.shape == (4, 128, 128)
    assert mixer.summary_function.weight.shape == (4, 256, 256)
    assert mixer.combiner.weight.shape == (1024, 512 + 1024)


def test_order_of_the_tokens_does_not_matter(mixer):
    x = tokens(1, 30, DIM)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixer(x[:, order]), mixer(x)[:, order])
    # ... while every token reaches every other one.
    changed = x.clone()
    changed[0, -1] += 10.0
    moved = (mixer(changed) - mixer(x)).abs().amax(-1)[0]
    assert torch.all(moved > 1e-4)


def test_masked_mean():
    values = tokens(3, 6, 4)
    means = summarise(values, padding([6, 1, 4], 6))
    for clip, length in enumerate((6, 1, 4)):
        torch.testing.assert_close(
            means[clip, 0], values[clip, :length].mean(0)
        )
    assert torch.equal(summarise(values), values.mean(1, keepdim=True))
    # A clip without a valid token (an unreadable file) is not NaN.
    assert torch.all(summarise(values, padding([6, 0, 4], 6))[1] == 0)


@pytest.mark.parametrize("length", [257, 380, 750, 755])
def test_masked_mean_counts_exactly_in_bf16(length):
    ones = torch.ones(1, 1000, 1, dtype=torch.bfloat16)
    mean = summarise(ones, padding([length], 1000))
    assert mean.dtype == torch.bfloat16
    assert abs(float(mean) - 1) <= 0.004  # one rounding of 8 bits
    weight = torch.tensor(1 / length).bfloat16()
    assert float(mean) == float((length * weight.float()).bfloat16())


def test_heads_must_divide():
    with pytest.raises(ValueError, match="10 and 16 .* 4 heads"):
        GroupedLinear(4, 10, 16)


def flops(module, time):
    # Only the plain attention kernel is counted on a CPU.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, plain:
        module(torch.randn(1, time, 64))
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", [SummaryMixing, SummaryMixingLite])
def test_cost_is_linear_in_time(kind):
    ratio = flops(kind(64), 2000) / flops(kind(64), 250)
    assert abs(ratio / 8 - 1) < 0.01
    assert flops(RotarySelfAttention(64), 2000) > 20 * flops(
        RotarySelfAttention(64), 250
    )


def test_autocast_keeps_grouped_layers_in_low_precision():
    layer, x = (
        GroupedLinear(HEADS, DIM, LOCAL),
        tokens(2, 9, HEADS, DIM // HEADS),
    )
    expected = torch.einsum("bthi,hio->btho", x, layer.weight) + layer.bias
    torch.testing.assert_close(layer(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
