"""Depthwise convolution over time, on tokens as the layers hold them.

On a CPU, PyTorch's ``conv1d`` first copies [batch, time, dim] to
[batch, dim, time] and then runs a slow kernel: in a Branchformer a fifth of the
forward pass, for a two-hundredth of its multiplications. The same convolution
as a 2-d one over a line of pixels finds a vectorised kernel that takes the
tokens as they lie, twenty times as fast; only its gradient of the weights is
slow, and fast again over a column of pixels.
"""

import torch
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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
        y = F.conv2d(_line(x), weight.unsqueeze(2), bias, **_options(weight, 3))
        return y.squeeze(2).transpose(1, 2)

    @staticmethod
    @custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.nn.grad.conv2d_input(
                _line(x).shape,
                weight.unsqueeze(2),
                _line(grad),
                **_options(weight, 3),
            )
            grad_x = grad_x.squeeze(2).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.nn.grad.conv2d_weight(
                x.transpose(1, 2).unsqueeze(3),
                weight.unsqueeze(3).shape,
                grad.transpose(1, 2).unsqueeze(3),
                **_options(weight, 2),
            ).squeeze(3)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 1))
        return grad_x, grad_weight, grad_bias


def _line(x):
    """[batch, time, dim] as pictures [batch, dim, 1, time], a view."""
    return x.transpose(1, 2).unsqueeze(2)


def _options(weight, axis):
    """Padding along an axis of the pictures, and groups."""
    padding = [0, 0]
    padding[axis - 2] = weight.shape[-1] // 2
    return {"padding": tuple(padding), "groups": weight.shape[0]}
