"""What gpu.py compares with the CPU in float32."""

from functools import partial

import networks
import torch

from muselq_modules.attention import RotarySelfAttention
from muselq_modules.branchformer import BranchformerLayer
from muselq_modules.conformer import ConformerLayer
from muselq_modules.features import LogMel
from muselq_modules.summary_mixing import SummaryMixing, SummaryMixingLite
from muselq_modules.tokenizer import RandomProjectionTokenizer, full_precision

# Length of the difference from the CPU, relative to that of the values.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}


def modules_to_check(dim):
    """Name -> module from [batch, time, dim]."""
    summary = partial(BranchformerLayer, mixer=SummaryMixing, cgmlp_dim=2 * dim)
    return {
        "SummaryMixing": SummaryMixing(dim),
        "SummaryMixingLite": SummaryMixingLite(dim),
        "rotary attention": RotarySelfAttention(dim),
        "Branchformer layer": summary(dim),
        "Conformer layer": ConformerLayer(
            dim, mixer=RotarySelfAttention, d_ffn=2 * dim
        ),
    }


def compare(module, x, padding_mask, device, precision):
    """Forward and gradient on the device against the CPU in float32."""
    expected = _values_and_gradient(module.cpu(), x, padding_mask)
    module.to(device)
    mask = None if padding_mask is None else padding_mask.to(device)
    kind = torch.device(device).type
    with full_precision(kind):  # no TF32: float32 means float32
        if precision == "bf16":
            with torch.autocast(kind, torch.bfloat16):
                found = _values_and_gradient(module, x.to(device), mask)
        else:
            found = _values_and_gradient(module, x.to(device), mask)
    errors = [
        float((a.cpu().float() - b).norm() / b.norm())
        for a, b in zip(found, expected)
    ]
    return {
        "error": max(errors),
        "right": max(errors) <= TOLERANCE[precision],
    }


def _values_and_gradient(module, x, padding_mask):
    x = x.detach().requires_grad_()
    values = module(x, padding_mask)
    if padding_mask is not None and values.shape[1] == x.shape[1]:
        values = values.masked_fill(padding_mask.unsqueeze(-1), 0.0)
    values.float().square().mean().backward()
    return values.detach(), x.grad


def compare_tokens(device, clips):
    """Features and tokens on the device against the CPU."""
    log_mel, tokenizer = LogMel(), RandomProjectionTokenizer()
    log_mel.set_statistics(torch.full((128,), -20.0), torch.full((128,), 20.0))
    wav = networks.noise(10, clips)
    mels = log_mel(wav)
    stacked = mels.unflatten(1, (-1, 4)).flatten(2)
    tokens = tokenizer(stacked)
    found = log_mel.to(device)(wav.to(device)).cpu()
    same = tokenizer.to(device)(stacked.to(device)).cpu() == tokens
    error = float((found - mels).abs().max())
    share = float(same.float().mean())
    return {
        "mel_error": error,
        "same_tokens": share,
        # Two codes may be nearest alike, to the last bit.
        "right": error < 1e-3 and share > 0.9995,
    }
