"""ProbeBrain: trains probes on embeddings, or with the encoder unfrozen.

Frozen, the module ``probe`` is a stack of heads, one for each (seed,
learning rate), and a batch holds the standardised embeddings of one window
order a seed. Each head has its own loss, learning-rate schedule, early
stopping and best weights: what comes out is what it would reach alone.
With ``encoder`` the stack has one head and a batch holds waveforms.
"""

import contextlib
import copy

import numpy as np
import speechbrain as sb
import torch
from speechbrain import Stage
from speechbrain.utils.distributed import if_main_process
from torch.nn import functional as F
from tqdm import tqdm

from muselq_modules import metrics
from muselq_modules.embeddings import pool
from muselq_modules.probe_head import HeadwiseAdam


class ProbeBrain(sb.core.Brain):
    """Trains a stack of probes on one task.

    Parameters
    ----------
    stack : ProbeStack
        Heads ordered by seed, then by learning rate.
    learning_rates : list of float
        Learning rate of each head.
    hparams : dict
        The recipe's YAML.
    run_opts : dict or RunOptions
        SpeechBrain's run options.
    target_scale : Standardiser, optional
        Of the regression targets; predictions are given in their units.
    encoder : MusicEncoder, optional
        Unfrozen: trained with the (single) head.
    embed : callable, optional
        With ``encoder``: hidden states -> what the head reads.
    """

    def __init__(
        self,
        stack,
        learning_rates,
        hparams,
        run_opts=None,
        target_scale=None,
        encoder=None,
        embed=None,
    ):
        modules = {"probe": stack}
        if encoder is not None:
            modules["encoder"] = encoder
        super().__init__(modules, hparams=hparams, run_opts=run_opts)
        # Heads are independent, so that a stack gains nothing from DDP: the
        # main rank trains it alone (see probing.py).
        if encoder is None:
            self.distributed_launch = False
            # So small a network gains nothing from half precision either.
            self.training_ctx = self.evaluation_ctx = contextlib.nullcontext()
            self.scaler = torch.GradScaler(enabled=False)
        self.stack = stack
        self.encoder = encoder
        self.learning_rates = learning_rates
        self.target_scale = target_scale
        self.embed = embed
        n = len(learning_rates)
        self.best_score = np.full(n, -np.inf)
        self.best_epoch = np.zeros(n, int)
        self.stopped = np.zeros(n, bool)
        self.waited = np.zeros(n, int)  # epochs since the last drop of the lr
        self.best = stack.snapshot()
        self.best_encoder = None

    # -- SpeechBrain's hooks -------------------------------------------------

    def compute_forward(self, batch, stage):
        """Logits ``[head, window, output]`` of a batch of windows."""
        x = batch[0].to(self.device)
        if self.encoder is not None:
            rate = self.encoder.sample_rate
            out = self.modules.encoder(x, rate, batch[2])
            x = self.embed(pool(self.encoder, out))[None]
        elif stage == Stage.TRAIN:
            # [seed, window, ...]: the heads of a seed read the same windows.
            n_rates = len(self.learning_rates) // len(x)
            x = x.repeat_interleave(n_rates, 0)
        else:
            x = x.expand(len(self.learning_rates), *x.shape)
        return self.modules.probe(x)

    def compute_objectives(self, predictions, batch, stage):
        """Sum of the heads' losses: each head gets its own gradient."""
        targets = batch[1].to(self.device)
        if stage != Stage.TRAIN:
            self.outputs.append(predictions.float().cpu())
            return predictions.new_zeros(())
        if self.encoder is None:
            n_rates = len(self.learning_rates) // len(targets)
            targets = targets.repeat_interleave(n_rates, 0)
        else:
            targets = targets[None]
        losses = self.losses(predictions.float(), targets)
        # A head whose learning rate is too high may diverge: it must not
        # stop the others, its best weights are from before.
        return torch.where(losses.isfinite(), losses, 0.0).sum()

    def losses(self, predictions, targets):
        """Mean loss of each head ``[head]``; override for another loss."""
        loss = self.hparams.loss
        if loss == "cross_entropy":
            values = F.cross_entropy(
                predictions.flatten(0, 1), targets.flatten(), reduction="none"
            )
        elif loss == "binary_cross_entropy":
            values = F.binary_cross_entropy_with_logits(
                predictions, targets, reduction="none"
            )
        else:
            values = F.mse_loss(predictions, targets, reduction="none")
        return values.reshape(len(predictions), -1).mean(1)

    def init_optimizers(self):
        """One learning rate a head, another for an unfrozen encoder."""
        if self.encoder is None:
            self.optimizer = HeadwiseAdam(
                self.stack.parameters(), self.learning_rates
            )
        else:
            encoder_lr = self.hparams.probe["encoder_lr"]
            self.optimizer = torch.optim.Adam(
                [
                    {
                        "params": list(self.stack.parameters()),
                        "lr": self.learning_rates[0],
                    },
                    {
                        "params": list(self.encoder.parameters()),
                        "lr": encoder_lr,
                    },
                ]
            )
        self.optimizers_dict = {"optimizer": self.optimizer}

    def optimizers_step(self):
        """A step; Brain's own would clip the heads by their common norm."""
        self.scaler.unscale_(self.optimizer)
        if self.encoder is not None:
            parameters = self.modules.parameters()
            torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.optimizer_step += 1

    def on_stage_start(self, stage, epoch=None):
        """Empties the list that a stage's logits are collected in."""
        self.outputs = []

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """After validation: keep what improved, slow down, stop."""
        if stage != Stage.VALID:
            return
        scores = self.validation_scores()
        improved = (scores > self.best_score) & ~self.stopped
        self.best_score[improved] = scores[improved]
        self.best_epoch[improved] = epoch
        self.stack.keep(self.best, torch.from_numpy(improved))
        if self.encoder is not None and improved.any():
            self.best_encoder = copy.deepcopy(self.encoder.state_dict())
        probe = self.hparams.probe
        self.waited = np.where(improved, 0, self.waited + 1)
        slower = self.waited > probe["lr_patience"]
        self.waited[slower] = 0
        for head, group in enumerate(self.optimizer.param_groups):
            # Frozen, groups are heads; else both belong to the one head.
            if slower[head if self.encoder is None else 0]:
                group["lr"] *= 0.5
        self.stopped |= epoch - self.best_epoch >= probe["patience"]

    # -- Training and predicting ---------------------------------------------

    def train_probe(self, train, valid, valid_split):
        """Train until every head has stopped; restore their best weights.

        Parameters
        ----------
        train, valid : DataLoader
            As `embedding_loader` and `waveform_loader` make them.
        valid_split : Split
            Scores are of its rows.
        """
        self.valid_split = valid_split
        self.train_sampler = train.sampler
        self.fit(self._epochs(), train, valid, progressbar=False)
        with torch.no_grad():
            for name, parameter in self.stack.named_parameters():
                parameter.copy_(self.best[name])
        if self.best_encoder is not None:
            self.encoder.load_state_dict(self.best_encoder)

    def _epochs(self):
        epochs = range(1, self.hparams.probe["epochs"] + 1)
        # None: no bar without a terminal, it would fill a log file.
        hidden = self.noprogressbar or not if_main_process()
        for epoch in tqdm(
            epochs, "Probing", leave=False, disable=hidden or None
        ):
            if self.stopped.all():
                return
            yield epoch

    def predict(self, loader, split):
        """Predictions ``[head, row, output]`` of a split, as an array."""
        self.evaluate(loader, progressbar=False)
        return self._track_predictions(split)

    def _track_predictions(self, split):
        # Distributed samplers do not shard evaluation: all windows are here.
        logits = split.track_mean(torch.cat(self.outputs, 1))
        if self.target_scale is not None:
            logits = self.target_scale.undo(logits)
        return logits.numpy()

    def validation_scores(self):
        """The monitored metric of each head; higher is better."""
        split, name = self.valid_split, self.hparams.monitor
        scores = np.full(len(self.stopped), -np.inf)
        for head, logits in enumerate(self._track_predictions(split)):
            if not self.stopped[head] and np.isfinite(logits).all():
                value = metrics.compute(
                    name, split.labels, logits, split.groups
                )
                lower = name in metrics.LOWER_IS_BETTER
                scores[head] = -value if lower else value
        return scores
