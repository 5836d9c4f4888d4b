"""Small encoders of every kind, with weights of a realistic scale."""

from functools import partial

import torch

from muselq_modules.attention import RotarySelfAttention
from muselq_modules.branchformer import BranchformerLayer
from muselq_modules.conformer import ConformerLayer
from muselq_modules.encoder import MusicEncoder
from muselq_modules.features import LogMel
from muselq_modules.subsampling import (
    ConvNeXtSubsampling,
    ResidualConvSubsampling,
)
from muselq_modules.summary_mixing import SummaryMixing, SummaryMixingLite

LAYERS = {
    "branchformer": partial(BranchformerLayer, cgmlp_dim=48),
    "conformer": partial(ConformerLayer, d_ffn=48),
}
MIXERS = {
    "summary": SummaryMixing,
    "lite": SummaryMixingLite,
    "attention": partial(RotarySelfAttention, head_dim=8),
}
FRONT_ENDS = {
    "convnext": ConvNeXtSubsampling,
    "residual": partial(ResidualConvSubsampling, channels=6),
}


def small_encoder(
    layer="branchformer",
    mixer="summary",
    front_end="convnext",
    dim=24,
    n_layers=2,
    **options,
):
    """An encoder in evaluation mode; its features are normalised."""
    torch.manual_seed(0)
    log_mel = LogMel(n_mels=32)
    log_mel.set_statistics(torch.full((32,), -20.0), torch.full((32,), 20.0))
    return MusicEncoder(
        log_mel,
        FRONT_ENDS[front_end],
        partial(LAYERS[layer], mixer=MIXERS[mixer]),
        dim,
        n_layers,
        **options,
    ).eval()


@torch.no_grad()
def redraw(module, std=0.2):
    """Weights and biases from N(0, std), scales of norms from N(1, std).

    At initialisation gates are nearly closed, which hides what leaks through
    their convolutions.
    """
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        for name, values in layer.named_parameters(recurse=False):
            mean = float(
                isinstance(layer, torch.nn.LayerNorm) and name == "weight"
            )
            values.normal_(mean, std, generator=generator)
    return module
