"""Values out of their range and run options without effect."""

import pytest
from pretrain_runs import command_line

from muselq_modules.errors import UserError
from muselq_modules.experiment import load_experiment
from muselq_modules.rehearsal import rehearse


def refusal(**options):
    with pytest.raises(UserError) as caught:
        rehearse(load_experiment(command_line("unused", **options)))
    return str(caught.value)


def test_the_shipped_demo_passes():
    rehearse(load_experiment(command_line("unused")))


@pytest.mark.parametrize(
    "options, part",
    [
        ({"n_steps": 0}, "0 steps of the run"),
        ({"valid_interval": 0}, "is 0: it must be a whole number from 1 to"),
        ({"valid_segments": -1}, "valid_segments is -1"),
        ({"peak_lr": 0}, "peak_lr is 0.0: it must be a number above 0"),
        ({"peak_lr": ".inf"}, "peak_lr is inf"),
        ({"mel_loss_weight": -1}, "mel_loss_weight is -1"),
        ({"segment_s": 0}, "segment_s is 0"),
        ({"n_workers": -1}, "n_workers is -1"),
        ({"checkpoints_to_keep": 0}, "checkpoints_to_keep is 0"),
        ({"seed": -1}, "eed"),
        ({"ckpt_interval_steps": -5}, "ckpt_interval_steps is -5"),
        ({"encoder": "{dim: 15}"}, "dim"),
        ({"encoder": "{n_layers: 1000000000000}"}, "n_layers"),
        ({"tokenizer": "{codebook_size: 99999999999}"}, "codebook_size"),
        ({"test_only": True}, "test_only has no effect"),
        ({"debug": True}, "debug has no effect"),
        ({"grad_accumulation_factor": 2}, "follows from global_batch"),
        ({"optimizer_step_limit": 5}, "use n_steps"),
        ({"device": "banana"}, "device banana is none"),
        ({"device": "cuda:77"}, "cuda:77 is not there"),
        ({"compile_mode": "fast"}, "compile_mode is fast"),
        ({"log_config": "no/such.yaml"}, "log_config no/such.yaml"),
    ],
)
def test_what_would_fail_late_or_do_nothing_is_refused(options, part):
    assert part in refusal(**options)
