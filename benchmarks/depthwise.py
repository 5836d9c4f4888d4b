"""What do depthwise convolutions over time cost on a CPU?

    python benchmarks/depthwise.py

Ours, as two-dimensional ones on the tokens as they lie, against torch's Conv1d,
with the copies that it needs; forward, and forward with all gradients. The
shapes are those of brn_summary and of the demo.
"""

import side_by_side as bench
import torch
from torch import nn

from muselq_modules.depthwise import depthwise_conv

OURS, THEIRS = "MuseLQ", "torch.nn.Conv1d"
SHAPES = {  # clips, tokens, features, kernel
    "gating of a layer, a clip": (1, 750, 2048, 31),
    "gating of a layer, 4 clips": (4, 750, 2048, 31),
    "gating of a layer of the demo, 16 clips": (16, 750, 288, 31),
    "front end, a clip": (1, 750, 1024, 7),
}


def plain(x, conv):
    """[batch, time, dim] -> [batch, time, dim] by torch."""
    return conv(x.transpose(1, 2)).transpose(1, 2)


def runners(clips, time, dim, kernel_size, trained):
    """A function for each competitor; they keep their last results."""
    torch.manual_seed(0)
    conv = nn.Conv1d(
        dim, dim, kernel_size, padding=kernel_size // 2, groups=dim
    )
    x = torch.randn(clips, time, dim)
    grad = torch.randn(clips, time, dim)
    results = {}

    def runner(name, function):
        def run():
            if not trained:
                with torch.no_grad():
                    results[name] = [function(x, conv)]
                return
            wanted = [x.requires_grad_(), *conv.parameters()]
            y = function(x, conv)
            results[name] = [y.detach(), *torch.autograd.grad(y, wanted, grad)]

        return run

    functions = {OURS: depthwise_conv, THEIRS: plain}
    return {n: runner(n, f) for n, f in functions.items()}, results


def largest_difference(results):
    """Of values and gradients, relative to the largest of each."""
    return max(
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(results[OURS], results[THEIRS], strict=True)
    )


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(__doc__, argv)
    rows, record, medians = [], {}, {}
    for place, shape in SHAPES.items():
        if arguments.quick:
            shape = (1, 50, 16, shape[-1])
        for trained in (False, True):
            kind = "forward + backward" if trained else "forward"
            runs, results = runners(*shape, trained)
            seconds, _ = bench.interleave(runs, arguments.repetitions, 15.0)
            against = bench.ratio(seconds, THEIRS, OURS)
            difference = largest_difference(results)
            record[f"{place}, {kind}"] = {
                "shape": shape,
                "seconds": seconds,
                "against_ours": against,
                "largest_difference": difference,
            }
            medians[f"{place}, {kind}"] = against[0]
            clips, time, dim, kernel_size = shape
            rows.append(
                [
                    place,
                    f"{clips} x {time} x {dim}, {kernel_size}",
                    kind,
                    f"{1000 * min(seconds[THEIRS]):.1f}",
                    f"{1000 * min(seconds[OURS]):.1f}",
                    bench.as_times(against),
                    f"{difference:.0e}",
                ]
            )
    header = ["where", "clips x tokens x features, kernel", "pass"]
    header += [f"{THEIRS}, CPU-ms", f"{OURS}, CPU-ms", "against ours"]
    header.append("relative difference")
    draw = bench.bars("times as long by torch.nn.Conv1d", medians)
    bench.report(arguments, "depthwise", header, rows, record, draw)


if __name__ == "__main__":
    main()
