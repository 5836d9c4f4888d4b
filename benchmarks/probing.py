"""What does probing cost with and without the cache of embeddings?

    python benchmarks/probing.py

5 seeds x 4 learning rates are probed for 100 epochs, the pieces of
tests/samples being the classes. With the cache every window is encoded once;
without it the frozen encoder runs in the loop, once a window and epoch for all
twenty probes together (one run a probe, as is usual, would cost twenty times
that). Two epochs are run in the loop, and their predictions compared with
those of the cached run; the other 98 are counted as the same again.
"""

import tempfile

import networks
import numpy as np
import side_by_side as bench
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


def make_splits(n_pieces, window_s):
    """Windows of a few pieces; a window is a row, its piece the label."""
    pieces = sorted(SAMPLES.glob("*.ogg"))[:n_pieces]
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


def train(features, splits, epochs):
    """Train on ``features(split)``, asked for once an epoch."""
    targets = {n: torch.from_numpy(s.labels) for n, s in splits.items()}
    dim = features("train").shape[1]
    brain = make_brain(dim, len(set(splits["train"].labels)), epochs)
    loaders = {
        "train": embedding_loader(
            features("train"), targets["train"], "cpu", 16, SEEDS
        ),
        "valid": embedding_loader(features("valid"), targets["valid"], "cpu"),
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


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        seconds=(10, "length of a window"),
        pieces=(8, "pieces of tests/samples"),
        epochs=(100, "of the probes"),
        measured=(2, "epochs that are run with the encoder in the loop"),
    )
    if arguments.quick:
        arguments.seconds, arguments.pieces, arguments.epochs = 2, 3, 10
    splits = make_splits(arguments.pieces, arguments.seconds)
    torch.manual_seed(0)
    hparams = networks.load_ours("brn_summary", arguments.quick)
    encoder = hparams["encoder"].eval()
    windows = [w for split in splits.values() for w in split.windows]
    cached = {}

    def embed_once():
        with tempfile.TemporaryDirectory() as folder:
            last = encoder.n_layers
            cache = embed(encoder, windows, SAMPLES, folder, [last])
            raw = {
                name: read_features(cache, split.windows, last).clone()
                for name, split in splits.items()
            }
        scale = Standardiser(raw["train"])
        cached.update({name: scale(x) for name, x in raw.items()})
        cached["scale"] = scale

    once_s = bench.cpu_seconds(embed_once)
    probe_s = bench.cpu_seconds(
        lambda: train(cached.get, splits, arguments.epochs)
    )
    measured = min(arguments.measured, arguments.epochs)
    loop = InTheLoop(encoder, splits, cached["scale"])
    outcome = {}
    loop_s = bench.cpu_seconds(
        lambda: outcome.update(loop=train(loop, splits, measured))
    )
    # Building the loaders asked for two features more.
    per_epoch_s = loop_s * 1.0 / (measured + 1)
    outcome["cached"] = train(cached.get, splits, measured)
    scores = [score for score, _ in outcome.values()]
    weights = [weights for _, weights in outcome.values()]
    difference = max(
        float((weights[0][name] - weights[1][name]).abs().max())
        for name in weights[0]
    )
    in_the_loop_s = per_epoch_s * arguments.epochs
    cached_s = once_s + probe_s
    record = {
        "windows": len(windows),
        "window_s": arguments.seconds,
        "epochs": arguments.epochs,
        "measured_epochs": measured,
        "embedding_once_s": once_s,
        "probes_s": probe_s,
        "loop_epoch_s": per_epoch_s,
        "ratio": in_the_loop_s / cached_s,
        "same_metric": bool(np.array_equal(*scores)),
        "largest_weight_difference": difference,
    }
    rows = [
        ["encoder in the loop", f"{in_the_loop_s:.1f}", "1"],
        [
            "cache",
            f"{once_s:.1f} + {probe_s:.1f}",
            f"1/{in_the_loop_s / cached_s:.0f}",
        ],
    ]
    print(
        f"{len(windows)} windows of {arguments.seconds} s, {len(SEEDS)} seeds "
        f"x {len(RATES)} rates; after {measured} epochs the metric of all "
        f"probes is {'the same' if record['same_metric'] else 'DIFFERENT'} and "
        f"their weights differ by at most {difference:.1e}"
    )
    header = ["embeddings", f"CPU-s, {arguments.epochs} epochs", "cost"]
    times = {"encoder in the loop": in_the_loop_s, "cache": cached_s}
    draw = bench.bars(f"CPU-s for {arguments.epochs} epochs", times)
    bench.report(arguments, "probing", header, rows, record, draw)


if __name__ == "__main__":
    main()
