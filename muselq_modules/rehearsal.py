"""One tiny batch through a pre-training configuration, before any work.

Sizes that do not fit together are found when the first batch comes, which may
be after hours of preparing data. A second of noise finds them at once.
"""

import torch

from muselq_modules.errors import UserError
from muselq_modules.losses import masked_losses
from muselq_modules.masked_inputs import InputMasker
from muselq_modules.run_checks import TINY, UNUSED, check_values, refuse_unused
from muselq_modules.segments import SegmentBatch
from muselq_modules.training_statistics import TargetPipeline

RANGES = {
    "seed": (0, 2**32 - 1),
    "valid_fraction": (TINY, 1.0),
    "segment_s": (0.1, 3600.0),
    "min_tail_s": (TINY, 3600.0),
    "global_batch": (1, 10**7),
    "local_batch": (1, 10**6),
    "n_steps": (1, 10**9),
    "warmup_steps": (0, 10**9),
    "peak_lr": (TINY, 10.0),
    "mel_loss_weight": (0.0, 1e6),
    "valid_interval": (1, 10**9),
    "valid_segments": (1, 10**9),
    "statistics_segments": (1, 10**9),
    "bad_segments_limit": (0, 10**12),
    "checkpoints_to_keep": (1, 10**6),
    "n_workers": (0, 1000),
}
RUN_RANGES = {
    "max_grad_norm": (TINY, 1e12),
    "nonfinite_patience": (0, 10**9),
    "ckpt_interval_minutes": (0.0, 1e6),
    "ckpt_interval_steps": (0, 10**9),
}
FLAGS = ("shift_segments", "tensorboard")
UNUSED = {
    **UNUSED,
    "grad_accumulation_factor": "it follows from global_batch and local_batch",
    "optimizer_step_limit": "use n_steps",
    "compile_module_keys": "compile takes the parts that gain",
    "compile_using_fullgraph": "compile takes the parts that gain",
    "compile_using_dynamic_shape_tracing": "all shapes are the same",
}


def rehearse(experiment):
    """Check the values of a pre-training, and that its parts fit together.

    Parameters
    ----------
    experiment : Experiment
        As it was loaded; its model and random state are as before.

    Raises
    ------
    UserError
        One sentence on what does not fit.
    """
    hparams, source = experiment.hparams, experiment.yaml_path
    refuse_unused(experiment.run_opts, UNUSED)
    check_values(hparams, RANGES, source)
    check_values(vars(experiment.run_opts), RUN_RANGES, source)
    for name in FLAGS:
        if not isinstance(hparams.get(name), bool):
            raise UserError(
                f"{name} in {source} is {hparams.get(name)}: it must be True "
                "or False"
            )
    _check_speeds(hparams.get("speeds"), source)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _run(hparams)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the sizes in {source} do not fit together "
            f"({type(error).__name__}: {reason})"
        ) from error


def _check_speeds(speeds, source):
    def fits(speed):
        return isinstance(speed, (int, float)) and 0.5 <= speed <= 2.0

    if not isinstance(speeds, list) or not speeds or not all(map(fits, speeds)):
        raise UserError(
            f"speeds in {source} is {speeds}: it must be a list of numbers "
            "from 0.5 to 2.0, such as [0.8, 1.0, 1.25]"
        )


def _run(hparams):
    model, masking = hparams["model"], hparams["masking"]["masking"]
    encoder = model.encoder
    pipeline = TargetPipeline(
        encoder.log_mel,
        hparams["features"]["stacking"],
        hparams["tokenizer"]["whitening"],
        hparams["tokenizer"]["tokenizer"],
    )
    masker = InputMasker(masking, pipeline, encoder.token_samples)
    samples = round(min(hparams["segment_s"], 1.0) * encoder.sample_rate)
    if samples < encoder.token_samples:
        raise UserError(
            f"segment_s is {hparams['segment_s']}: a token of the encoder "
            f"takes {encoder.token_samples / encoder.sample_rate} s"
        )
    wav = 0.1 * torch.randn(2, samples)
    lengths = torch.tensor([samples, samples // 2])
    batch = SegmentBatch(wav, lengths, [0, 0], [0, 1], [])
    inputs = masker(batch, "cpu")
    # In training mode some layers behave otherwise; nothing is kept of it.
    logits, mels = model(inputs.mels, inputs.padding_mask, inputs.masked)
    masked_losses(logits, inputs.tokens, mels, inputs.targets)
