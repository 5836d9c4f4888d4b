"""How does the cost of a mixing cell grow with the length of the music?

    python benchmarks/mixing_cells.py

One layer's token mixing at dimension 1024, from 30 s to 10 minutes of music at
25 Hz: our SummaryMixing, the same equations written down literally, rotary
attention through PyTorch's fused kernel, and SpeechBrain's RelPosMHAXL. Growth
is the exponent e of a fit time = a * length ** e.
"""

import numpy as np
import side_by_side as bench
import torch
from speechbrain.nnet.attention import RelPosEncXL, RelPosMHAXL
from torch import nn
from torch.nn import functional as F

from muselq_modules.attention import RotarySelfAttention
from muselq_modules.summary_mixing import SummaryMixing

DIM, TOKENS_PER_S = 1024, 25
OURS, ROTARY = "SummaryMixing", "rotary attention"
LITERAL, RELATIVE = "SummaryMixing, literal", "RelPosMHAXL"
# Attention with relative positions holds several [heads, time, time].
LONGEST_S = {RELATIVE: 120, ROTARY: 600}
LONGEST_TRAINED_S = {RELATIVE: 120, ROTARY: 300}


class LiteralSummaryMixing(nn.Module):
    """The equations as they stand, with the weights of a SummaryMixing."""

    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, x):
        """[batch, time, dim] -> [batch, time, dim]."""
        mixer, parts = self.mixer, x.unflatten(-1, (self.mixer.n_heads, -1))
        cut = mixer.local_dim // mixer.n_heads

        def first(slice_):
            weight = mixer.input.weight[..., slice_]
            bias = mixer.input.bias[:, slice_]
            product = torch.einsum("bthi,hio->btho", parts, weight)
            return F.gelu(product + bias)

        local = first(slice(0, cut))
        local = F.gelu(mixer.local_function(local)).flatten(2)
        values = first(slice(cut, None))
        values = F.gelu(mixer.summary_function(values)).flatten(2)
        summary = values.mean(dim=1, keepdim=True)
        summary = summary.repeat(1, x.shape[1], 1)
        joined = torch.cat([local, summary], dim=-1)
        return F.gelu(mixer.combiner(joined))


class RelativeAttention(nn.Module):
    """SpeechBrain's RelPosMHAXL with its positions."""

    def __init__(self, dim):
        super().__init__()
        self.positions = RelPosEncXL(dim)
        self.attention = RelPosMHAXL(dim, dim // 64)

    def forward(self, x):
        """[batch, time, dim] -> [batch, time, dim]."""
        return self.attention(x, x, x, pos_embs=self.positions(x))[0]


def cells(dim):
    """The cells by name; the literal one gives what ours gives."""
    torch.manual_seed(0)
    mixer = SummaryMixing(dim)
    literal, x = LiteralSummaryMixing(mixer), torch.randn(1, 50, dim)
    torch.testing.assert_close(literal(x), mixer(x), rtol=1e-3, atol=1e-5)
    return {
        OURS: mixer,
        LITERAL: literal,
        ROTARY: RotarySelfAttention(dim),
        RELATIVE: RelativeAttention(dim),
    }


def runs(cells, seconds, dim, trained, limits):
    """Functions that run each cell, by name; too long ones are left out."""
    x = torch.randn(1, round(seconds * TOKENS_PER_S), dim)

    def forward(cell):
        with torch.no_grad():
            cell(x)

    def train(cell):
        cell(x.requires_grad_()).sum().backward()

    run = train if trained else forward
    return {
        name: lambda cell=cell: run(cell)
        for name, cell in cells.items()
        if seconds <= limits.get(name, seconds)
    }


def exponent(points):
    """Exponent of a fit through (length, time) on log axes."""
    lengths, times = np.log(np.array(points)).T
    return float(np.polyfit(lengths, times, 1)[0])


def measure(networks, lengths, dim, trained, repetitions):
    """A record for each cell and length."""
    limits = LONGEST_TRAINED_S if trained else LONGEST_S
    for length_s in lengths:
        functions = runs(networks, length_s, dim, trained, limits)
        seconds, peaks = bench.interleave(functions, repetitions, 40.0)
        for name, values in seconds.items():
            yield {
                "cell": name,
                "pass": "forward + backward" if trained else "forward",
                "length_s": length_s,
                "seconds": values,
                "peak_mib": peaks[name],
                "against_ours": bench.ratio(seconds, name, OURS),
            }


def main(argv=None):
    """Measure all lengths and report."""
    arguments = bench.parse(__doc__, argv)
    dim = 128 if arguments.quick else DIM
    lengths = (2, 4, 8) if arguments.quick else (30, 60, 120, 300, 600)
    networks, found = cells(dim), []
    for trained in (False, True):
        found += measure(networks, lengths, dim, trained, arguments.repetitions)
    curves, rows = {}, []
    for r in found:
        curve = curves.setdefault((r["cell"], r["pass"]), [])
        curve.append((r["length_s"], np.median(r["seconds"])))
        peak = r["peak_mib"]
        rows.append(
            [
                r["cell"],
                r["pass"],
                f"{r['length_s']} s",
                f"{np.median(r['seconds']):.3f}",
                bench.as_times(r["against_ours"]),
                "" if peak is None else f"{peak:.0f}",
            ]
        )
    rows.sort(key=lambda row: row[:2])
    growth = {", ".join(key): exponent(c) for key, c in curves.items()}
    for name, value in growth.items():
        print(f"{name}: grows with length ** {value:.2f}")

    def draw(axes):
        for (cell, kind), curve in curves.items():
            if kind == "forward":
                label = f"{cell} (T^{growth[f'{cell}, {kind}']:.2f})"
                axes.loglog(*zip(*curve), marker="o", label=label)
        axes.set_xlabel("music, seconds")
        axes.set_ylabel("forward, CPU seconds")
        axes.legend()

    header = ["cell", "pass", "music", "CPU-s", "against ours", "peak MiB"]
    record = {"cells": found, "exponents": growth}
    bench.report(arguments, "mixing_cells", header, rows, record, draw)


if __name__ == "__main__":
    main()
