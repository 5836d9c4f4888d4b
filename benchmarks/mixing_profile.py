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
from functools import partial

import mixing_cells
import side_by_side as bench
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

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


def flop_of(function, shape):
    """Floating-point operations of a module or function of a tensor.

    On the meta device: the counter does not know the CPU's fused attention.
    """
    if isinstance(function, torch.nn.Module):
        function = copy.deepcopy(function).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(torch.empty(shape, device="meta"))
    return counter.get_total_flops()


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


def square(x):
    """What the machine can do."""
    return x @ x


def measure(functions, length_s, dim, repetitions):
    """A record a function at a length of the music."""
    tokens = round(length_s * mixing_cells.TOKENS_PER_S)
    inputs = {name: torch.randn(1, tokens, dim) for name in functions}
    inputs[SQUARE] = torch.randn(2 * dim, 2 * dim)

    def forward(name):
        with torch.no_grad():
            functions[name](inputs[name])

    runs = {name: partial(forward, name) for name in functions}
    seconds, _ = bench.interleave(runs, repetitions)
    for name, run in runs.items():
        flop = flop_of(functions[name], inputs[name].shape)
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
    functions = {name: every[name] for name in CELLS} | {SQUARE: square}
    found = []
    for length_s in lengths:
        found += measure(functions, length_s, dim, arguments.repetitions)
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
    rates = {}
    for r in found:
        rates[f"{r['cell']}, {r['length_s']} s"] = r["gflop_s"]
    header = ["cell", "music", "GFLOP", "arithmetic against ours"]
    header += ["time against ours", "GFLOP/s", "in matrix products"]
    draw = bench.bars("GFLOP/s", rates)
    record = {"cells": found}
    bench.report(arguments, "mixing_profile", header, rows, record, draw)


if __name__ == "__main__":
    main()
