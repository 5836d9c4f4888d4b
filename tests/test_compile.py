"""torch.compile is a switch: same losses, same checkpoints, one compilation."""

import signal

import pytest
import torch
from pretrain_runs import ROOT, command_line, trace

from muselq_modules.experiment import load_experiment, start_experiment


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains with the shipped recipe in this process; returns its brain."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "pretrain"))

    def train(name, *flags):
        import train as recipe

        options = {"n_steps": 3, "valid_interval": 3}
        argv = command_line(
            tmp_path / name, manifest_folder=tmp_path / "manifest", **options
        )
        experiment = load_experiment([*argv, *flags])
        start_experiment(experiment)
        brain, loaders = recipe.make_brain(experiment)
        brain.fit(brain.rounds(), *loaders)
        return brain

    yield train
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_compiling_changes_nothing_but_time(train, tmp_path, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    original = torch.nn.Module.compile

    def without_a_compiler(module, **options):
        original(module, backend=backend, dynamic=options["dynamic"])

    monkeypatch.setattr(torch.nn.Module, "compile", without_a_compiler)
    plain = train("plain")
    assert not graphs
    compiled = train("compiled", "--compile")
    # The front end and one layer for both, in training and in validation,
    # with and without padding; whatever the number of masked positions.
    assert 2 <= len(graphs) <= 8
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()
    for one, two in zip(
        trace(tmp_path / "plain"), trace(tmp_path / "compiled"), strict=True
    ):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
