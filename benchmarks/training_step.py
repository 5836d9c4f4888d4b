"""How long does a training step take?

    python benchmarks/training_step.py

Masking, mel frames, tokens, forward, loss on masked positions, backward,
clipping and Adam for one clip of 30 s in float32 on the CPU: our Branchformer
with SummaryMixing, the same with attention, and a network of MusicFM's shape.
`--against` takes other names of benchmarks/networks.py; each needs 16 bytes a
parameter.
"""

import side_by_side as bench
from steps import TrainingStep

OURS = "brn_summary"


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        against=("brn_attention,MusicFM-shaped", "separated by commas"),
        batch=(1, "clips of a step"),
    )
    names = [OURS, *arguments.against.split(",")]
    length_s = 2 if arguments.quick else 30
    steps = {
        name: TrainingStep(
            name, arguments.batch, length_s, quick=arguments.quick
        )
        for name in names
    }
    seconds, peaks = bench.interleave(steps, arguments.repetitions, 200.0)
    rows, record = [], {"batch": arguments.batch, "length_s": length_s}
    for name, values in seconds.items():
        parameters = sum(p.numel() for p in steps[name].model.parameters())
        peak = peaks[name]
        against = bench.ratio(seconds, name, OURS)
        record[name] = {
            "parameters": parameters,
            "seconds": values,
            "peak_mib": peak,
            "against_ours": against,
        }
        rows.append(
            [
                name,
                f"{parameters / 1e6:.1f} M",
                f"{min(values):.2f}",
                bench.as_times(against),
                "" if peak is None else f"{peak:.0f}",
            ]
        )
    header = ["network", "parameters", "CPU-s a step", "against ours"]
    header.append("activations, peak MiB")
    times = {name: min(values) for name, values in seconds.items()}
    draw = bench.bars(f"CPU-s for a step of {length_s} s", times)
    bench.report(arguments, "training_step", header, rows, record, draw)


if __name__ == "__main__":
    main()
