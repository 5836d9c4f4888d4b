"""The fast depthwise convolution is the slow one, forward and backward."""

import pytest
import torch

from muselq_modules.depthwise import depthwise_conv


def plain(x, conv):
    return conv(x.transpose(1, 2)).transpose(1, 2)


def run(function, x, conv):
    """Values, and gradients of input, weights and bias."""
    conv.zero_grad()
    x = x.detach().requires_grad_()
    y = function(x, conv)
    weights = torch.linspace(-1, 1, y.numel()).view_as(y)
    (y * weights).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in conv.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 7, 31])
@pytest.mark.parametrize(
    "shape", [(2, 60, 48), (1, 1, 5), (3, 9, 16), (2, 310, 8)]
)
def test_equals_conv1d(shape, kernel_size, bias):
    torch.manual_seed(0)
    dim = shape[-1]
    conv = torch.nn.Conv1d(
        dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias
    )
    x = torch.randn(shape)
    found, expected = run(depthwise_conv, x, conv), run(plain, x, conv)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    # Also a view, as the gate of a gating unit is one.
    wide = torch.randn(*shape[:2], 2 * dim)[..., dim:]
    torch.testing.assert_close(
        depthwise_conv(wide, conv), plain(wide, conv), rtol=1e-4, atol=1e-5
    )


def test_frozen_weights_get_no_gradient():
    conv = torch.nn.Conv1d(4, 4, 3, padding=1, groups=4).requires_grad_(False)
    x = torch.randn(1, 6, 4, requires_grad=True)
    depthwise_conv(x, conv).sum().backward()
    assert x.grad is not None and conv.weight.grad is None


def test_gradient_is_that_of_finite_differences():
    conv = torch.nn.Conv1d(3, 3, 5, padding=2, groups=3).double()
    x = torch.randn(2, 6, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: depthwise_conv(x, conv), (x,))


def test_autocast_and_export():
    conv = torch.nn.Conv1d(8, 8, 3, padding=1, groups=8)
    x = torch.randn(1, 10, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, conv)
    # The fast kernel knows float32 only, and is faster than bf16 all the same.
    torch.testing.assert_close(y, plain(x, conv))

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return depthwise_conv(x, self.conv)

    exported = torch.export.export(Layer(), (x,)).module()
    torch.testing.assert_close(exported(x), plain(x, conv))
