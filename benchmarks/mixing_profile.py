"""Where does the time of a mixing cell go, and how much is arithmetic?

    python benchmarks/mixing_profile.py

Our SummaryMixing and rotary attention at dimension 1024, forward: the
arithmetic that PyTorch's counter finds, the rate at which it is done, beside
that of one square matrix product in turns with them on the same thread, and
the share of the time in matrix products. The ratio of the arithmetic is what
two implementations that work at the same rate can gain.
"""

import copy
import statistics

import mixing_cells
import side_by_side as bench
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

CELLS = [mixing_cells.OURS, mixing_cells.ROTARY]
SQUARE = "square matrix product"
# aten::linear and its kin call these, or run as one of them.
PRODUCTS = {
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
}


def share_of_products(run):
    """Share of the CPU time of a function that is in matrix products."""
    with profile(
        activities=[ProfilerActivity.CPU], acc_events=True
    ) as profiler:
        run()
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    products = sum(
        event.self_cpu_time_total for event in events if event.key in PRODUCTS
    )
    return products / total


def cases(cells, length_s, dim):
    """Functions that run each cell, and a square product, by name."""
    side = torch.randn(2 * dim, 2 * dim)
    runs = mixing_cells.runs(cells, length_s, dim, trained=False, limits={})
    return {**runs, SQUARE: lambda: side @ side}


def measure(cells, length_s, dim, repetitions):
    """A record a case at a length of the music."""
    runs = cases(cells, length_s, dim)
    with torch.device("meta"):
        counted = cases(copy.deepcopy(cells).to("meta"), length_s, dim)
    seconds, _ = bench.interleave(runs, repetitions)
    for name, run in runs.items():
        flop = bench.flop_of(counted[name])
        yield {
            "cell": name,
            "length_s": length_s,
            "flop": flop,
            "seconds": seconds[name],
            "gflop_s": flop / statistics.median(seconds[name]) / 1e9,
            "products_share": share_of_products(run),
            "against_ours": bench.ratio(seconds, name, mixing_cells.OURS),
        }


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(__doc__, argv)
    dim = 128 if arguments.quick else mixing_cells.DIM
    lengths = (2, 8) if arguments.quick else (30, 300, 600)
    every = mixing_cells.cells(dim)
    cells = nn.ModuleDict({name: every[name] for name in CELLS})
    found = []
    for length_s in lengths:
        found += measure(cells, length_s, dim, arguments.repetitions)
    rows, flop = [], {(r["cell"], r["length_s"]): r["flop"] for r in found}
    for r in found:
        length_s, is_cell = r["length_s"], r["cell"] != SQUARE
        ours = flop[mixing_cells.OURS, length_s]
        rows.append(
            [
                r["cell"],
                f"{length_s} s" if is_cell else "",
                f"{r['flop'] / 1e9:.3g}",
                f"{r['flop'] / ours:.3g}x" if is_cell else "",
                bench.as_times(r["against_ours"]) if is_cell else "",
                f"{r['gflop_s']:.0f}",
                f"{100 * r['products_share']:.0f} %",
            ]
        )
    rates = {f"{r['cell']}, {r['length_s']} s": r["gflop_s"] for r in found}
    header = ["cell", "music", "GFLOP", "arithmetic against ours"]
    header += ["time against ours", "GFLOP/s", "in matrix products"]
    draw = bench.bars("GFLOP/s", rates)
    record = {"cells": found}
    bench.report(arguments, "mixing_profile", header, rows, record, draw)


if __name__ == "__main__":
    main()
