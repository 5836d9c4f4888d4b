"""What does probing cost with and without the cache of embeddings?

    python benchmarks/probing.py

5 seeds x 4 learning rates are probed for 100 epochs, the pieces of
tests/samples being the classes. With the cache every window is encoded once;
without it the frozen encoder runs in the loop, once a window and epoch for all
twenty probes together (one run a probe, as is usual, would cost twenty times
that). One epoch is run in the loop, and its metric and weights compared with
those of the cached run; the other 99 are counted as the same again.
"""

import tempfile
import time

import networks
import numpy as np
import side_by_side as bench
import soundfile
import torch

from muselq_modules.audio_data import read_segment
from muselq_modules.embeddings import embed
from muselq_modules.probe_brain import ProbeBrain
from muselq_modules.probe_data import Split, Standardiser, read_features
from muselq_modules.probe_head import ProbeStack
from muselq_modules.probe_loaders import embedding_loader
from muselq_modules.windows import Window

SAMPLES = networks.HPARAMS.parent / "tests" / "samples"
SEEDS, RATES = [0, 1, 2, 3, 4], [1e-4, 5e-4, 1e-3, 5e-3]
PER_PIECE = {"train": 3, "valid": 1}
BUDGET_S = 120.0  # no round starts later


def make_splits(n_pieces, window_s):
    """Windows of a few pieces; a window is a row, its piece the label."""
    needed_s = window_s * sum(PER_PIECE.values())
    pieces = [
        path
        for path in sorted(SAMPLES.glob("*.ogg"))
        if soundfile.info(path).duration >= needed_s
    ]
    if len(pieces) < n_pieces:
        raise SystemExit(
            f"--pieces {n_pieces}: {SAMPLES} has {len(pieces)} pieces of at "
            f"least {needed_s} s; ask for fewer, or for shorter --seconds"
        )
    pieces = pieces[:n_pieces]
    samples = round(window_s * networks.SAMPLE_RATE)
    splits, first = {}, 0
    for name, count in PER_PIECE.items():
        windows = [
            Window(path.name, float(first + i) * window_s, samples)
            for path in pieces
            for i in range(count)
        ]
        first += count
        labels = np.repeat(np.arange(len(pieces)), count)
        rows = [{"group": window.path} for window in windows]
        owner = np.arange(len(windows))
        splits[name] = Split(rows, labels, windows, owner, digest="")
    return splits


class InTheLoop:
    """Features that are encoded again whenever an epoch asks for them."""

    def __init__(self, encoder, splits, scale):
        self.encoder = encoder
        self.scale = scale
        self.wavs = {
            name: torch.stack([_read(w) for w in split.windows])
            for name, split in splits.items()
        }

    @torch.inference_mode()
    def __call__(self, name):
        """Standardised embeddings [window, dim] of a split."""
        rate, found = self.encoder.sample_rate, []
        for wav in self.wavs[name].split(4):
            states = self.encoder(wav, rate, layers=[-1]).hidden_states[-1]
            found.append(states.mean(dim=1))
        return self.scale(torch.cat(found).clone())


def _read(window):
    seconds = window.samples / networks.SAMPLE_RATE
    return read_segment(SAMPLES / window.path, window.start_s, seconds)


def make_brain(dim, n_outputs, epochs):
    """Twenty probes and what trains them."""
    hparams = {
        "loss": "cross_entropy",
        "monitor": "accuracy",
        "probe": {"epochs": epochs, "patience": epochs + 1, "lr_patience": 5},
    }
    stack = ProbeStack(dim, n_outputs, [s for s in SEEDS for _ in RATES])
    options = {"device": "cpu", "noprogressbar": True}
    return ProbeBrain(stack, RATES * len(SEEDS), hparams, options)


def train(features, splits, epochs, at_first):
    """Train on ``features(split)``, asked for once an epoch.

    ``at_first`` are features by split that the loaders are made with.
    """
    targets = {n: torch.from_numpy(s.labels) for n, s in splits.items()}
    dim = at_first["train"].shape[1]
    brain = make_brain(dim, len(set(splits["train"].labels)), epochs)
    loaders = {
        "train": embedding_loader(
            at_first["train"], targets["train"], "cpu", 16, SEEDS
        ),
        "valid": embedding_loader(at_first["valid"], targets["valid"], "cpu"),
    }

    class EachEpoch(ProbeBrain):
        def on_stage_start(self, stage, epoch=None):
            super().on_stage_start(stage, epoch)
            name = stage.name.lower()
            if name in loaders:
                loaders[name].dataset.features = features(name)

    brain.__class__ = EachEpoch
    brain.train_probe(loaders["train"], loaders["valid"], splits["valid"])
    return brain.best_score, brain.stack.snapshot()


def embed_once(encoder, splits):
    """Standardised embeddings by split through the cache, and their scale."""
    windows = [w for split in splits.values() for w in split.windows]
    with tempfile.TemporaryDirectory() as folder:
        last = encoder.n_layers
        cache = embed(encoder, windows, SAMPLES, folder, [last])
        raw = {
            name: read_features(cache, split.windows, last).clone()
            for name, split in splits.items()
        }
    scale = Standardiser(raw["train"])
    return {name: scale(x) for name, x in raw.items()}, scale


def one_round(encoder, splits, epochs, measured):
    """CPU seconds of both ways, and how far apart their results are."""
    found = {}

    def timed(name, function, *arguments):
        def run():
            found[name] = function(*arguments)

        return bench.cpu_seconds(run)

    once_s = timed("cache", embed_once, encoder, splits)
    cached, scale = found["cache"]
    probes_s = timed("probes", train, cached.get, splits, epochs, cached)
    loop = InTheLoop(encoder, splits, scale)
    loop_s = timed("loop", train, loop, splits, measured, cached) / measured
    scores, weights = zip(
        found["loop"], train(cached.get, splits, measured, cached)
    )
    return {
        "embedding_once_s": once_s,
        "probes_s": probes_s,
        "loop_epoch_s": loop_s,
        "same_metric": bool(np.array_equal(*scores)),
        "largest_weight_difference": max(
            float((value - weights[1][name]).abs().max())
            for name, value in weights[0].items()
        ),
    }


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        seconds=(10, "length of a window"),
        pieces=(8, "pieces of tests/samples"),
        epochs=(100, "of the probes"),
        measured=(1, "epochs that are run with the encoder in the loop"),
    )
    if arguments.quick:
        arguments.seconds, arguments.pieces, arguments.epochs = 2, 3, 10
    splits = make_splits(arguments.pieces, arguments.seconds)
    torch.manual_seed(0)
    hparams = networks.load_ours("brn_summary", arguments.quick)
    encoder = hparams["encoder"].eval()
    epochs, measured = arguments.epochs, arguments.measured
    rounds, started = [], time.process_time()
    while (
        len(rounds) < arguments.repetitions
        and time.process_time() - started < BUDGET_S
    ):
        rounds.append(one_round(encoder, splits, epochs, measured))
    loop, cache = "encoder in the loop", "cache"
    seconds = {
        loop: [epochs * r["loop_epoch_s"] for r in rounds],
        cache: [r["embedding_once_s"] + r["probes_s"] for r in rounds],
    }
    against = bench.ratio(seconds, loop, cache)
    n_windows = sum(len(split.windows) for split in splits.values())
    record = {
        "windows": n_windows,
        "window_s": arguments.seconds,
        "epochs": epochs,
        "measured_epochs": measured,
        "rounds": rounds,
        "ratio": against,
        "same_metric": all(r["same_metric"] for r in rounds),
        "largest_weight_difference": max(
            r["largest_weight_difference"] for r in rounds
        ),
    }
    first = rounds[0]
    rows = [
        [loop, f"{min(seconds[loop]):.1f}", bench.as_times(against)],
        [
            cache,
            f"{first['embedding_once_s']:.1f} + {first['probes_s']:.1f}",
            "1x",
        ],
    ]
    print(
        f"{n_windows} windows of {arguments.seconds} s, {len(SEEDS)} seeds "
        f"x {len(RATES)} rates; after {measured} epochs the metric of all "
        f"probes is {'the same' if record['same_metric'] else 'DIFFERENT'} and "
        "their weights differ by at most "
        f"{record['largest_weight_difference']:.1e}"
    )
    header = ["embeddings", f"CPU-s, {epochs} epochs", "against the cache"]
    times = {name: min(values) for name, values in seconds.items()}
    draw = bench.bars(f"CPU-s for {epochs} epochs", times)
    bench.report(arguments, "probing", header, rows, record, draw)


if __name__ == "__main__":
    main()
