"""PretrainBrain: BEST-RQ pre-training on SpeechBrain's Brain.

What it does differently from ``Brain``, and why:

* the loss of a step is the mean over all masked tokens of the global batch,
  whatever the split over ranks and accumulation: one GPU and 64 follow the
  same curve;
* clipping looks at all parameters (upstream: the first group only);
* a step with a non-finite loss or gradient is skipped on every rank and its
  examples are named (upstream: NaN weights are saved as a checkpoint);
* data, masks and dropout are functions of the step, so a resumed run is the
  uninterrupted one, bit for bit;
* validation is split over the ranks and reduced.
"""

import json
import logging
import math
import signal
import time

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import if_main_process
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from muselq_modules.errors import UserError
from muselq_modules.loaders import steady_batches
from muselq_modules.losses import masked_losses
from muselq_modules.masked_inputs import InputMasker
from muselq_modules.masking import example_generator
from muselq_modules.step_sums import StepSums
from muselq_modules.training_log import TrainingLog, plot_curves

logger = logging.getLogger(__name__)
# Music with normalised mels uses hundreds of the 8192 codes.
COLLAPSED_PERPLEXITY = 50


@register_checkpoint_hooks
class PretrainBrain(sb.Brain):
    """Masked prediction of tokens and mel frames.

    ``modules`` holds ``model`` (a MaskedPredictor), ``hparams`` the values of
    a pre-training YAML. :meth:`prepare_run` must be called before ``fit``.
    """

    def prepare_run(self, sampler, manifest, pipeline, targets):
        """Connect the data.

        Parameters
        ----------
        sampler : GlobalBatchSampler
            Sampler of the training loader.
        manifest : SegmentManifest
            Names the examples in messages; its digest identifies the data.
        pipeline : TargetPipeline
            Makes the targets; its buffers are set.
        targets : dict
            From :func:`muselq_modules.training_statistics.measure`.
        """
        if self.precision == "fp16":
            raise UserError(
                "precision fp16 is not supported: use bf16 or fp32."
            )
        self.sampler = sampler
        self.manifest = manifest
        self.grad_accumulation_factor = sampler.accumulation
        self.world_size = sampler.world_size
        self.model = self.modules.model
        self.tokenizer = pipeline.tokenizer.to(self.device)
        pipeline.whitening.to(self.device)
        self.schedule = self.hparams.optimisation["schedule"]
        encoder = self.model.encoder
        self.masker = InputMasker(
            self.hparams.masking["masking"],
            pipeline,
            encoder.token_samples,
        )
        self.n_tokens = sampler.local_batch * round(
            manifest.segment_s * encoder.token_rate_hz
        )
        if encoder.layer_drop > 0:
            self.find_unused_parameters = True
        self.log = TrainingLog(
            self.hparams.output_folder, self.hparams.tensorboard
        )
        self.majority_token = targets["majority_token"]
        if targets["perplexity"] < COLLAPSED_PERPLEXITY:
            logger.warning(
                "The training data uses few tokens (perplexity %.1f of %d): "
                "look at targets.json and at the audio.",
                targets["perplexity"],
                self.tokenizer.codebook_size,
            )
        self.bad_steps = self.bad_segments = self.validated = 0
        self.stop_signal = None

    # ------------------------------------------------------------ the step

    def compute_forward(self, batch, stage):
        """Predictions at the masked positions of a batch, and its targets."""
        inputs = self.masker(batch, self.device)
        # Validation goes around DDP: ranks may have unequal numbers of
        # batches, and nothing is to be synchronised.
        train = stage == sb.Stage.TRAIN
        model = self.modules.model if train else self.model
        predictions = model(inputs.mels, inputs.padding_mask, inputs.masked)
        return predictions, inputs

    def compute_objectives(self, predictions, batch, stage):
        """Loss of a micro-batch, scaled by a constant (see optimizers_step)."""
        (logits, mel_prediction), inputs = predictions
        token_loss, mel_loss, n_correct = masked_losses(
            logits, inputs.tokens, mel_prediction, inputs.targets
        )
        loss = token_loss + self.hparams.mel_loss_weight * mel_loss
        self.sums.add(
            inputs.tokens,
            token_loss.detach(),
            mel_loss.detach(),
            n_correct,
            batch,
        )
        return loss / self.n_tokens

    def fit_batch(self, batch):
        """Forward and backward of a micro-batch; a step when it is due."""
        should_step = self.step % self.grad_accumulation_factor == 0
        # Dropout and layer drop draw from here: a function of the place in
        # the run, different on each rank.
        place = (self.optimizer_step, self.step, self.sampler.rank)
        draw = example_generator(self.hparams.seed, *place)
        torch.manual_seed(draw.initial_seed())
        with self.no_sync(not should_step):
            with self.training_ctx:
                predictions = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(
                    predictions, batch, sb.Stage.TRAIN
                )
            loss.backward()
        if batch.errors:
            logger.warning("A segment is left out: %s", batch.errors[0])
        if should_step:
            self.optimizers_step()
        return loss.detach()

    def optimizers_step(self):
        """One optimizer step, or none when something is not finite."""
        self.optimizer_step += 1
        step = self.optimizer_step
        requests = [self._checkpoint_due(), self.stop_signal is not None]
        parameters = [
            p for group in self.optimizer.param_groups for p in group["params"]
        ]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # The host waits for the device here, once a step, and gets the norm
        # (the same on all ranks) with the sums.
        totals, norm = self.sums.reduce(
            requests, torch.nn.utils.get_total_norm(gradients)
        )
        # Gradients so far: mean over ranks of sums over tokens, divided by a
        # constant. Wanted: the mean over the masked tokens of all ranks. The
        # same multiplication clips them.
        scale = self.world_size * self.n_tokens / max(1.0, totals.n_masked)
        norm *= scale
        clip = min(1.0, self.max_grad_norm / (norm + 1e-6))
        torch._foreach_mul_(gradients, scale * clip)
        learning_rate = self.schedule(step)
        finite = math.isfinite(totals.loss) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self.bad_steps = 0
        else:
            self._skip_step(step)
        self.optimizer.zero_grad(set_to_none=True)
        self._record_step(totals, norm, learning_rate, not finite)
        self.sums.reset()
        self.save_now, self.stop_now = totals.requests
        self._count_bad_segments(int(totals.n_bad))

    def _skip_step(self, step):
        self.bad_steps += 1
        names = ", ".join(
            self.manifest.name(e) for e in self.sums.suspects()[:8]
        )
        logger.warning(
            "Step %d is skipped: loss or gradient is not finite (examples %s).",
            step,
            names,
        )
        if self.bad_steps > self.nonfinite_patience:
            raise UserError(
                f"{self.bad_steps} steps in a row (up to step {step}) had a "
                f"loss or gradient that is not finite, examples {names}: check "
                "these files, lower peak_lr or max_grad_norm, or use precision "
                "fp32; the last checkpoint is intact and the same command "
                "resumes from it."
            )

    def _count_bad_segments(self, count):
        self.bad_segments += count
        limit = self.hparams.bad_segments_limit
        if self.bad_segments > limit:
            raise UserError(
                f"{self.bad_segments} segments could not be read, more than "
                f"bad_segments_limit {limit}: the warnings above name them; "
                "prepare the data again"
            )

    def _record_step(self, totals, norm, learning_rate, skipped):
        now = time.monotonic()
        elapsed, self.last_time = now - self.last_time, now
        position = self.optimizer_step * self.sampler.global_batch
        self.record = {
            "kind": "train",
            "step": self.optimizer_step,
            "epoch": round(position / self.sampler.n_examples, 3),
            **totals.as_record(),
            "learning_rate": learning_rate,
            "gradient_norm": norm,
            "skipped": skipped,
            "audio_hours_per_s": totals.audio_s / 3600 / elapsed,
            "seconds": elapsed,
        }
        if if_main_process():
            self.log.write(self.record)

    # ------------------------------------------------------------- the run

    def rounds(self):
        """Numbers of the rounds between validations, until the run is done."""
        n_steps = self.hparams.n_steps
        while self._validation_due() or self.optimizer_step < n_steps:
            first = stop = self.optimizer_step
            interval = self.hparams.valid_interval
            # A run that was stopped just before a validation begins with it.
            if not self._validation_due():
                stop = min((first // interval + 1) * interval, n_steps)
            self.sampler.set_steps(first, stop)
            yield -(-stop // interval)

    def _validation_due(self):
        step = self.optimizer_step
        ends_round = step == self.hparams.n_steps or (
            step > 0 and step % self.hparams.valid_interval == 0
        )
        return ends_round and self.validated < step

    def on_fit_start(self):
        """Wrap the model, make the optimizer, resume, and open the log."""
        self._compile()
        self._wrap_distributed()
        self.init_optimizers()
        if self.checkpointer.recover_if_possible() is not None:
            logger.info("Resuming after step %d", self.optimizer_step)
        if if_main_process():
            self.log.resume(self.optimizer_step, self.validated)
        self.sums = StepSums(
            self.tokenizer.codebook_size, self.device, self.majority_token
        )
        self.last_checkpoint = self.last_time = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _compile(self):
        """Compile the parts of the encoder when the run option says so.

        Not the whole model, as upstream: the number of masked positions
        differs from batch to batch, and each would be compiled for. The parts
        see one shape, layers are alike and share what is compiled for the
        first, and compiled in place they leave checkpoints as they are.
        """
        if self.compile:
            encoder = self.model.encoder
            for part in (encoder.subsampling, *encoder.layers):
                part.compile(mode=self.compile_mode, dynamic=False)

    def _wrap_distributed(self):
        if self.world_size == 1:
            return
        # Buffers (mel statistics) never change, so they are not broadcast.
        self.modules["model"] = DistributedDataParallel(
            self.modules["model"],
            device_ids=None if self.device_type == "cpu" else [self.device],
            broadcast_buffers=False,
            find_unused_parameters=self.find_unused_parameters,
            gradient_as_bucket_view=True,
        )

    def _on_signal(self, number, frame):
        if self.stop_signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Acted on after the step, by all ranks together.
        self.stop_signal = number

    def _fit_train(self, train_set, epoch, enable):
        self.on_stage_start(sb.Stage.TRAIN, epoch)
        self.modules.train()
        with tqdm(
            total=self.hparams.n_steps,
            initial=self.optimizer_step,
            desc="Pre-training",
            unit="step",
            dynamic_ncols=True,
            disable=not enable,
        ) as bar:
            for batch in steady_batches(train_set, self._continue_reading):
                self.step += 1
                self.fit_batch(batch)
                if self.step % self.grad_accumulation_factor:
                    continue
                self.step = 0
                bar.update()
                bar.set_postfix_str(self._progress())
                if self.save_now or self.stop_now:
                    self.save()
                if self.stop_now:
                    self._stop()
        self.on_stage_end(sb.Stage.TRAIN, None, epoch)

    def _continue_reading(self):
        """Loader workers have died: read on where this step has come to."""
        stop = self.sampler.stop
        self.sampler.set_steps(self.optimizer_step, stop, skip=self.step)

    def _fit_valid(self, valid_set, epoch, enable):
        def start():
            self.on_stage_start(sb.Stage.VALID, epoch)

        start()
        self.modules.eval()
        with torch.no_grad():
            batches = tqdm(
                steady_batches(valid_set, start),
                total=len(valid_set),
                desc="Validation",
                dynamic_ncols=True,
                leave=False,
                disable=not enable,
            )
            for batch in batches:
                if self.stop_signal is not None:
                    break  # the notice of a scheduler is short
                self.evaluate_batch(batch, stage=sb.Stage.VALID)
        self.on_stage_end(sb.Stage.VALID, None, epoch)

    def _progress(self):
        r = self.record
        return (
            f"loss {r['loss']:.3f}, accuracy {r['masked_accuracy']:.3f} "
            f"(majority {r['majority_baseline']:.3f}), "
            f"lr {r['learning_rate']:.1e}, "
            f"{r['audio_hours_per_s']:.3g} h audio/s"
        )

    def _stop(self):
        self.log.close()
        logger.info("Stopped after step %d.", self.optimizer_step)
        if if_main_process():
            print(
                f"Stopped after step {self.optimizer_step}, which is saved; "
                "run the same command to continue."
            )
        raise SystemExit(128 + (self.stop_signal or signal.SIGTERM))

    def on_stage_start(self, stage, epoch=None):
        """Forget the sums of what came before."""
        self.sums.reset()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """After validation: reduce over the ranks, log, save."""
        if stage != sb.Stage.VALID:
            return
        totals, _ = self.sums.reduce([self.stop_signal is not None])
        self.sums.reset()
        if any(totals.requests):  # the resumed run begins with the validation
            self.save()
            self._stop()
        self.validated = self.optimizer_step
        self.valid_record = {
            "kind": "valid",
            "step": self.optimizer_step,
            **totals.as_record(),
        }
        if if_main_process():
            self.log.write(self.valid_record)
            plot_curves(self.hparams.output_folder)
            logger.info("Validation: %s", json.dumps(self.valid_record))
        self.save()
        self.last_time = time.monotonic()

    # --------------------------------------------------------- checkpoints

    def _checkpoint_due(self):
        if self._validation_due():  # which ends with a checkpoint
            return False
        minutes = (time.monotonic() - self.last_checkpoint) / 60
        steps = self.ckpt_interval_steps
        return (0 < self.ckpt_interval_minutes <= minutes) or (
            steps > 0 and self.optimizer_step % steps == 0
        )

    def save(self):
        """Write a checkpoint; all ranks call it together."""
        self.checkpointer.save_and_keep_only(
            meta={"step": self.optimizer_step}, end_of_epoch=False
        )
        self.last_checkpoint = time.monotonic()

    @mark_as_saver
    def _save(self, path):
        state = {
            "optimizer_step": self.optimizer_step,
            "validated": self.validated,
            "bad_segments": self.bad_segments,
            "identity": self._identity(),
        }
        path.write_text(json.dumps(state), encoding="utf-8")

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        state = json.loads(path.read_text(encoding="utf-8"))
        for name, value in self._identity().items():
            saved = state["identity"].get(name)
            if saved != value:
                raise UserError(
                    f"{self.hparams.output_folder} was trained with {name} "
                    f"{saved}, not {value}: restore it, or choose another "
                    "output_folder for a new run."
                )
        self.optimizer_step = state["optimizer_step"]
        self.validated = state["validated"]
        self.bad_segments = state["bad_segments"]

    def _identity(self):
        """What must not change when a run is resumed."""
        return {
            "seed": self.hparams.seed,
            "global_batch": self.sampler.global_batch,
            "n_examples": self.sampler.n_examples,
            "manifest": self.manifest.digest,
        }
