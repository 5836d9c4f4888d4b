"""Probes: independent heads, honest choices, whole runs of a small recipe."""

import numpy as np
import pytest
import speechbrain as sb
import torch
from fake_encoder import FakeEncoder
from torch import nn

from muselq_modules.errors import UserError
from muselq_modules.metrics import compute
from muselq_modules.probe_brain import ProbeBrain
from muselq_modules.probe_data import Split, check_rows, label_of
from muselq_modules.probe_head import HeadwiseAdam, ProbeHead, ProbeStack
from muselq_modules.probe_loaders import SeededOrder
from muselq_modules.probe_training import (
    Setup,
    cached_layers,
    candidate_layers,
    train_candidates,
    train_frozen,
)
from muselq_modules.probing import encoder_name

DIM, LAYERS = 6, 3


class ArrayCache:
    """A cache in memory; a window is its own row."""

    def __init__(self, values):
        self.values = values
        self.layers = list(range(values.shape[1]))

    def rows(self, windows):
        return np.array(windows)


def make_task(loss="cross_entropy", per_row=1, n=(120, 60, 60), informative=2):
    """Splits and embeddings of which one layer tells the label."""
    rng = np.random.default_rng(0)
    total = sum(n)
    hidden = rng.normal(size=(total, 2))
    labels = {
        "cross_entropy": (hidden[:, 0] > 0) + 2 * (hidden[:, 1] > 0),
        "binary_cross_entropy": (hidden > 0).astype(np.float32),
        "mse": (hidden * 3 + 5).astype(np.float32),
    }[loss]
    values = rng.normal(size=(total * per_row, LAYERS, DIM))
    values[:, informative, :2] = hidden.repeat(per_row, 0)
    values[:, informative, 2] = 7.0  # constant
    splits, start = {}, 0
    for name, size in zip(("train", "valid", "test"), n, strict=True):
        rows = range(start, start + size)
        splits[name] = Split(
            [{"ID": str(i), "group": str(i)} for i in rows],
            labels[rows.start : rows.stop],
            [i * per_row + k for i in rows for k in range(per_row)],
            np.arange(size).repeat(per_row),
            "digest",
        )
        start += size
    return splits, ArrayCache(values.astype(np.float32))


def make_setup(loss="cross_entropy", **probe):
    outputs = {"cross_entropy": 4}.get(loss, 2)
    monitor = {"cross_entropy": "accuracy", "mse": "r2_mean"}
    hparams = {
        "seed": 3,
        "loss": loss,
        "n_outputs": outputs,
        "monitor": monitor.get(loss, "roc_auc"),
        "probe": {
            "protocol": "paper",
            "layer": "auto",
            "hidden": 16,
            "dropout": 0.25,
            "batch_size": 16,
            "seeds": 3,
            "learning_rates": [1e-3, 1e-2],
            "epochs": 12,
            "patience": 20,
            "lr_patience": 5,
            "finetune": False,
            **probe,
        },
    }
    options = {"device": "cpu", "noprogressbar": True}
    return Setup(hparams, options, FakeEncoder(), "cpu", ProbeBrain)


def headline(setup, split, candidate):
    values = [
        compute(setup.hparams["monitor"], split.labels, p)
        for p in candidate.predictions
    ]
    return np.mean(values)


def test_stack_equals_torch_adam_on_each_head():
    """Two steps of a stack are those of ProbeHead with torch's Adam."""
    torch.manual_seed(0)
    seeds, rates = [0, 0, 1], [1e-3, 1e-2, 1e-3]
    stack = ProbeStack(DIM, 4, seeds, hidden=16, dropout=0.0)
    optimizer = HeadwiseAdam(stack.parameters(), rates)
    x, y = torch.randn(3, 8, DIM), torch.randint(0, 4, (3, 8))
    for _ in range(5):
        logits = stack(x)
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), y.flatten(), reduction="none"
        )
        losses.view(3, 8).mean(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for i, (seed, rate) in enumerate(zip(seeds, rates, strict=True)):
        torch.manual_seed(seed)
        head = ProbeHead(DIM, 4, hidden=16, dropout=0.0)
        adam = torch.optim.Adam(head.parameters(), rate)
        for _ in range(5):
            nn.functional.cross_entropy(head(x[i]), y[i]).backward()
            adam.step()
            adam.zero_grad()
        torch.testing.assert_close(
            stack(x)[i], head(x[i]), atol=1e-5, rtol=1e-5
        )


def test_stack_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    stack = ProbeStack(DIM, 4, [0, 1]).train()
    stack(torch.randn(2, 8, DIM, generator=torch.Generator()))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("layer", [2, "weighted"])
def test_stacked_equals_alone(layer):
    """A head reaches in a stack what it reaches alone."""
    splits, cache = make_task()
    together = train_frozen(
        layer, splits, cache, make_setup(learning_rates=[1e-3])
    )
    for i in range(3):
        alone = make_setup(learning_rates=[1e-3], seeds=1)
        alone.hparams["seed"] = 3 + i
        candidate = train_frozen(layer, splits, cache, alone)
        np.testing.assert_allclose(
            candidate.predictions[0], together.predictions[i], atol=1e-5
        )
        assert candidate.valid == together.valid[i : i + 1]
        assert candidate.epochs == together.epochs[i : i + 1]
    assert not np.allclose(together.predictions[0], together.predictions[1])


def test_learning_rates_do_not_meet():
    """One that diverges neither stops nor changes its neighbours."""
    splits, cache = make_task()
    alone = train_frozen(2, splits, cache, make_setup(learning_rates=[1e-2]))
    both = train_frozen(
        2, splits, cache, make_setup(learning_rates=[1e-2, 1e30])
    )
    assert both.learning_rate == 1e-2 and both.valid == alone.valid
    np.testing.assert_allclose(both.predictions, alone.predictions, atol=1e-5)


@pytest.mark.parametrize(
    "loss", ["cross_entropy", "binary_cross_entropy", "mse"]
)
def test_learns_a_separable_task(loss):
    splits, cache = make_task(loss)
    setup = make_setup(loss, epochs=30)
    candidate = train_frozen(2, splits, cache, setup)
    assert headline(setup, splits["test"], candidate) > 0.85
    if loss == "mse":  # in the units of the annotation
        assert np.abs(candidate.predictions.mean() - 5) < 0.5


def test_lower_is_better():
    splits, cache = make_task("mse")
    setup = make_setup("mse", learning_rates=[1e-5, 1e-2])
    setup.hparams["monitor"] = "rmse"
    candidate = train_frozen(2, splits, cache, setup)
    assert candidate.learning_rate == 1e-2
    assert candidate.score == pytest.approx(-np.mean(candidate.valid))
    assert min(candidate.valid) > 0


def test_windows_of_a_row_are_averaged():
    splits, cache = make_task(per_row=3)
    test = splits["test"]
    logits = torch.randn(2, 180, 4)
    expected = logits.view(2, 60, 3, 4).mean(2)
    torch.testing.assert_close(test.track_mean(logits), expected)
    # Noise in the windows: the average beats what one window gives.
    cache.values[:, 2] += np.random.default_rng(1).normal(
        scale=1.5, size=cache.values[:, 2].shape
    )
    setup = make_setup(epochs=20)
    averaged = train_frozen(2, splits, cache, setup)
    for name, split in splits.items():
        first = np.arange(0, len(split.windows), 3)
        split.windows = np.array(split.windows)[first].tolist()
        split.owner = split.owner[first]
        splits[name] = split
    single = train_frozen(2, splits, cache, setup)
    assert headline(setup, test, averaged) > headline(setup, test, single)


def test_early_stopping_restores_the_best():
    splits, cache = make_task(informative=0)  # layer 2 is noise
    setup = make_setup(epochs=100, patience=4, lr_patience=1)
    epochs, brains = [], []

    class Watched(ProbeBrain):
        def on_stage_end(self, stage, stage_loss, epoch=None):
            super().on_stage_end(stage, stage_loss, epoch)
            if stage == sb.Stage.VALID:
                epochs.append(epoch)

        def train_probe(self, train, valid, valid_split):
            super().train_probe(train, valid, valid_split)
            brains.append(self)
            self.restored = [
                compute("accuracy", valid_split.labels, p)
                for p in self.predict(valid, valid_split)
            ]

    setup.brain_class = Watched
    train_frozen(2, splits, cache, setup)
    brain = brains[0]
    assert brain.stopped.all() and epochs[-1] < 60
    assert epochs[-1] == (brain.best_epoch + 4).max()
    np.testing.assert_allclose(brain.restored, brain.best_score)
    assert min(g["lr"] for g in brain.optimizer.param_groups) < 1e-3


def test_layer_search_finds_the_informative_layer():
    splits, cache = make_task(informative=1)
    setup = make_setup(protocol="marble", seeds=2, epochs=20)
    layers = candidate_layers(setup.hparams, setup.encoder)
    assert layers == [0, 1, 2, "weighted"]
    assert cached_layers(layers, setup.encoder) == [0, 1, 2]
    candidates = train_candidates(layers, splits, cache, setup)
    scores = [candidate.score for candidate in candidates]
    assert np.argmax(scores) in (1, 3) and scores[1] > scores[0] + 0.2
    weights = candidates[3].layer_weights
    assert np.argmax(weights) == 1 and sum(weights) == pytest.approx(1)


def test_test_labels_decide_nothing():
    splits, cache = make_task()
    before = train_frozen(2, splits, cache, make_setup())
    splits["test"].labels = splits["test"].labels[::-1].copy()
    after = train_frozen(2, splits, cache, make_setup())
    assert before.learning_rate == after.learning_rate
    assert np.array_equal(before.predictions, after.predictions)


def test_candidate_layers():
    def layers(**probe):
        setup = make_setup(**probe)
        return candidate_layers(setup.hparams, setup.encoder)

    assert layers() == layers(layer="last") == [2]
    assert layers(layer=0) == [0]
    assert layers(layer="weighted") == ["weighted"]
    with pytest.raises(Exception, match="layer 3 does not exist"):
        layers(layer=3)
    with pytest.raises(Exception, match="does not search"):
        layers(layer="search", finetune=True)


def test_order_depends_on_seed_and_epoch():
    order = SeededOrder(10, 4, [0, 1])

    def epoch(number):
        order.set_epoch(number)
        return torch.cat(list(order), 1)

    first, second = epoch(1), epoch(2)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(epoch(1), first)
    for row in first:
        assert sorted(row.tolist()) == list(range(10))
    # Two ranks share the very same batches.
    ranks = [list(SeededOrder(10, 4, [0], rank, 2)) for rank in (0, 1)]
    merged = torch.cat(
        [torch.cat(batch, 1) for batch in zip(*ranks, strict=1)], 1
    )
    whole = torch.cat(list(SeededOrder(10, 4, [0])), 1)
    assert sorted(merged[0].tolist()) == sorted(whole[0].tolist())
    assert set(merged[0, :4].tolist()) == set(whole[0, :4].tolist())


def test_labels_are_checked():
    @sb.utils.data_pipeline.takes("genre")
    @sb.utils.data_pipeline.provides("label")
    def label_pipeline(genre):
        return ["rock", "jazz"].index(genre)

    hparams = {"loss": "cross_entropy", "n_outputs": 1}
    row = {"ID": "a.wav", "genre": "rock"}
    assert label_of(row, label_pipeline, None, hparams, "train.csv") == 0
    for genre, problem in (
        ("folk", "train.csv, a.wav: not a label.*folk"),
        ("jazz", "label 1 is none of 0 ... 0"),
    ):
        with pytest.raises(Exception, match=problem):
            label_of(
                {**row, "genre": genre},
                label_pipeline,
                None,
                hparams,
                "train.csv",
            )
    with pytest.raises(Exception, match="takes 'genre', which the manifest"):
        label_of({"ID": "a"}, label_pipeline, None, hparams, "train.csv")


@pytest.mark.parametrize(
    "change, part",
    [
        ({"path": "../a.wav"}, "leads out of the data folder"),
        ({"path": "/etc/passwd"}, "leads out of the data folder"),
        ({"path": ""}, "lacks path"),
        ({"duration": "long"}, "duration is long"),
        ({"duration": "nan"}, "duration is nan"),
        ({"duration": "-1"}, "duration is -1"),
        ({"duration": "inf"}, "duration is inf"),
        ({"start": "x"}, "start is x"),
        ({"group": None}, "lacks"),
    ],
)
def test_rows_of_a_manifest_are_checked(change, part):
    row = {"ID": "a", "path": "a.wav", "duration": "1.5", "group": "a"}
    check_rows([row], "train.csv")
    row |= change
    if row["group"] is None:
        del row["group"]
    with pytest.raises(UserError, match=part):
        check_rows([row], "train.csv")


def test_labels_that_are_not_finite_are_refused():
    @sb.utils.data_pipeline.takes("arousal")
    @sb.utils.data_pipeline.provides("label")
    def label_pipeline(arousal):
        return [float(arousal)]

    hparams = {"loss": "mse", "n_outputs": 1}
    row = {"ID": "a.wav", "arousal": "nan"}
    with pytest.raises(UserError, match="not finite"):
        label_of(row, label_pipeline, None, hparams, "train.csv")


def test_encoder_name():
    assert encoder_name("chroma") == "chroma"
    assert encoder_name("results/brn/1234/") == "brn_1234"
    assert encoder_name("models/mine") == "mine"
    assert encoder_name("random:models/mine") == "random_mine"
