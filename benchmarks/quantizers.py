"""What do the tokens of a batch cost, and are they the same?

    python benchmarks/quantizers.py

Tokens of 16 clips of 30 s: ours, SpeechBrain's RandomProjectionQuantizer and
the distances of torch.cdist, all with one projection and one codebook.
"""

import side_by_side as bench
import torch
from speechbrain.nnet.quantisers import RandomProjectionQuantizer

from muselq_modules.tokenizer import RandomProjectionTokenizer

OURS = "MuseLQ"


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(__doc__, argv)
    clips, codes = (1, 512) if arguments.quick else (16, 8192)
    torch.manual_seed(0)
    frames = torch.randn(clips, 750, 512)
    ours = RandomProjectionTokenizer(codebook_size=codes)
    theirs = RandomProjectionQuantizer(512, 16, codes)
    theirs.P.copy_(ours.projection)
    theirs.CB.copy_(ours.codebook)

    def distances():
        projected = (frames @ ours.projection).flatten(0, 1)
        projected = torch.nn.functional.normalize(projected, dim=-1)
        return torch.cdist(projected, ours.codebook).argmin(dim=-1)

    tokens = {}

    def keep(name, run):
        def kept():
            with torch.no_grad():
                tokens[name] = run().reshape(clips, 750)

        return kept

    runs = {
        name: keep(name, run)
        for name, run in (
            (OURS, lambda: ours(frames)),
            ("torch.cdist", distances),
            ("SpeechBrain", lambda: theirs(frames)),
        )
    }
    seconds, peaks = bench.interleave(runs, arguments.repetitions)
    rows, record = [], {}
    for name, values in seconds.items():
        against = bench.ratio(seconds, name, OURS)
        equal = float((tokens[name] == tokens[OURS]).float().mean())
        record[name] = {
            "seconds": values,
            "peak_mib": peaks[name],
            "against_ours": against,
            "equal_tokens": equal,
        }
        peak = peaks[name]
        rows.append(
            [
                name,
                f"{min(values):.3f}",
                bench.as_times(against),
                "" if peak is None else f"{peak:.0f}",
                f"{equal:.4%}",
            ]
        )
    header = ["quantizer", "CPU-s", "against ours", "peak MiB", "same tokens"]
    times = {name: min(values) for name, values in seconds.items()}
    bench.report(
        arguments,
        "quantizers",
        header,
        rows,
        record,
        bench.bars("CPU-s", times),
    )


if __name__ == "__main__":
    main()
