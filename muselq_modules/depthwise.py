"""Depthwise convolution over time, on tokens as the layers hold them.

On a CPU, PyTorch's ``conv1d`` first copies [batch, time, dim] to
[batch, dim, time] and then runs a slow kernel: in a Branchformer a fifth of the
forward pass, for a two-hundredth of its multiplications. The same convolution
as a 2-d one over a line of pixels finds a vectorised kernel that takes the
tokens as they lie, many times as fast. Its own gradients are slow; both are
written as such convolutions here.
"""

import torch
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Tokens whose gradient is one kernel, in the gradient of the weights.
BLOCK_TOKENS = 150


def depthwise_conv(x, conv):
    """Convolve each feature over time, with zeros beyond both ends.

    Parameters
    ----------
    x : torch.Tensor
        Tokens [batch, time, dim].
    conv : torch.nn.Conv1d
        Its weights: ``groups=dim``, an odd kernel, stride 1. Its own padding
        does not matter.

    Returns
    -------
    torch.Tensor
        [batch, time, dim].

    Example
    -------
    >>> conv = torch.nn.Conv1d(4, 4, 3, padding=1, groups=4)
    >>> x = torch.randn(2, 7, 4)
    >>> expected = conv(x.transpose(1, 2)).transpose(1, 2)
    >>> torch.allclose(depthwise_conv(x, conv), expected, atol=1e-6)
    True
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        y = F.conv1d(
            x.transpose(1, 2),
            conv.weight,
            conv.bias,
            padding=conv.kernel_size[0] // 2,
            groups=conv.groups,
        )
        return y.transpose(1, 2)
    return _OnCpu.apply(x, conv.weight, conv.bias)


class _OnCpu(torch.autograd.Function):
    """The 2-d convolutions that are fast on a CPU."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        y = F.conv2d(_line(x), weight.unsqueeze(2), bias, **_options(weight))
        return y.squeeze(2).transpose(1, 2)

    @staticmethod
    @custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            # The same convolution, backwards in time.
            mirrored = weight.flip(2).unsqueeze(2)
            grad_x = F.conv2d(_line(grad), mirrored, **_options(weight))
            grad_x = grad_x.squeeze(2).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            grad_weight = _correlate(x, grad, weight.shape[2])
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 1))
        return grad_x, grad_weight, grad_bias


def _line(x):
    """[batch, time, dim] as pictures [batch, dim, 1, time], a view."""
    return x.transpose(1, 2).unsqueeze(2)


def _options(weight):
    """Padding of the pictures, and groups."""
    return {"padding": (0, weight.shape[2] // 2), "groups": weight.shape[0]}


def _correlate(x, grad, kernel_size):
    """Gradient of the weights [dim, 1, kernel_size].

    The correlation of input and gradient at each shift is a convolution too,
    whose kernel is a piece of the gradient.
    """
    x = F.pad(x, (0, 0, kernel_size // 2, kernel_size // 2))
    total = 0.0
    for clip, of_clip in zip(x, grad):
        for start in range(0, len(of_clip), BLOCK_TOKENS):
            piece = of_clip[start : start + BLOCK_TOKENS]
            seen = clip[start : start + len(piece) + kernel_size - 1]
            kernel = piece.T[:, None, None].contiguous()
            total = total + F.conv2d(
                _line(seen.unsqueeze(0)), kernel, groups=len(kernel)
            )
    return total.transpose(0, 1).squeeze(2)
