"""What does each front end cost for 30 s of music?

    python benchmarks/front_ends.py

From log-mel frames to tokens at 25 Hz: ours, the residual 3x3 convolutions
that the literature's music models use, and the CNN of SpeechBrain's BEST-RQ.
"""

import networks
import side_by_side as bench
import torch
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from torch import nn

from muselq_modules.subsampling import (
    ConvNeXtSubsampling,
    ResidualConvSubsampling,
)

OURS = "ConvNeXt (ours)"


class BestRqFrontEnd(nn.Module):
    """As SpeechBrain's BEST-RQ recipe builds it, with its linear layer."""

    def __init__(self, n_mels, dim):
        super().__init__()
        self.cnn = ConvolutionFrontEnd(
            (None, None, n_mels),
            num_blocks=2,
            num_layers_per_block=1,
            out_channels=(128, 32),
            kernel_sizes=(3, 3),
            strides=(2, 2),
            residuals=(False, False),
        )
        self.linear = nn.Linear(32 * n_mels // 4, dim)

    def forward(self, mels):
        """[batch, 4 * time, n_mels] -> [batch, time, dim]."""
        return self.linear(self.cnn(mels).flatten(2))


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(__doc__, argv)
    dim, seconds_of_music = (16, 2) if arguments.quick else (1024, 30)
    torch.manual_seed(0)
    front_ends = {
        OURS: ConvNeXtSubsampling(128, dim),
        "residual 3x3, 512 channels": ResidualConvSubsampling(
            128, dim, 8 if arguments.quick else 512
        ),
        "SpeechBrain BEST-RQ CNN": BestRqFrontEnd(128, dim),
        "one linear layer": networks.LinearPatches(128, dim),
    }
    mels = torch.randn(1, 100 * seconds_of_music, 128)

    def runner(front_end):
        def run():
            with torch.no_grad():
                front_end(mels)

        return run

    runs = {name: runner(module) for name, module in front_ends.items()}
    seconds, peaks = bench.interleave(runs, arguments.repetitions)
    rows, record = [], {}
    for name, module in front_ends.items():
        found = {
            "parameters": sum(p.numel() for p in module.parameters()),
            "flop": bench.flop_of(runs[name]),
            "seconds": seconds[name],
            "peak_mib": peaks[name],
            "against_ours": bench.ratio(seconds, name, OURS),
        }
        record[name] = found
        peak = found["peak_mib"]
        rows.append(
            [
                name,
                f"{found['parameters'] / 1e6:.1f} M",
                f"{found['flop'] / 1e9:.1f}",
                f"{min(found['seconds']):.3f}",
                bench.as_times(found["against_ours"]),
                "" if peak is None else f"{peak:.0f}",
            ]
        )
    header = ["front end", "parameters", "GFLOP", "CPU-s", "against ours"]
    header.append("peak MiB")
    times = {name: min(values) for name, values in seconds.items()}
    draw = bench.bars("CPU-s for 30 s of music", times)
    bench.report(arguments, "front_ends", header, rows, record, draw)


if __name__ == "__main__":
    main()
