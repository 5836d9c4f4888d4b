"""What a training step is, for ours and for a peer; see training_step.py.

The same batch, masks, targets, heads, loss, clipping and optimizer for all: a
peer's network takes the place of our encoder. MERT's gives 75 tokens a second,
so that each of our masked tokens is three of its own.
"""

import networks
import torch
from torch import nn

from muselq_modules.losses import masked_losses
from muselq_modules.masked_inputs import InputMasker
from muselq_modules.model import MaskedPredictor
from muselq_modules.segments import SegmentBatch
from muselq_modules.training_statistics import TargetPipeline

MERT_TOKENS = 3


class WaveformPredictor(nn.Module):
    """MERT's network with our heads; takes the masked waveform."""

    def __init__(self, encoder, codebook_size=8192, target_dim=64):
        super().__init__()
        self.encoder = encoder
        self.token_head = nn.Linear(encoder.dim, codebook_size)
        self.mel_head = nn.Linear(encoder.dim, target_dim)

    def forward(self, wav, masked):
        """[batch, samples], positions [count] -> logits, mel frames."""
        hidden = self.encoder(wav)
        # Its convolutions give 2249 tokens for 30 s, not 2250.
        time = wav.shape[1] * 75 // networks.SAMPLE_RATE
        hidden = nn.functional.pad(hidden, (0, 0, 0, time - hidden.shape[1]))
        hidden = hidden.flatten(0, 1).index_select(0, masked)
        return self.token_head(hidden), self.mel_head(hidden)


def make_pipeline(hparams, device):
    """What makes the targets, with statistics that suit the noise."""
    log_mel = hparams["encoder"].log_mel
    log_mel.set_statistics(torch.full((128,), -5.0), torch.full((128,), 6.0))
    whitening = hparams["tokenizer"]["whitening"]
    stacking = hparams["features"]["stacking"]
    tokenizer = hparams["tokenizer"]["tokenizer"]
    for module in (log_mel, whitening, tokenizer):
        module.to(device)
    return TargetPipeline(log_mel, stacking, whitening, tokenizer)


class TrainingStep:
    """One optimizer step on one batch of noise, over and over.

    Parameters
    ----------
    name : str
        One of `networks.OURS` or `networks.PEERS`.
    batch, seconds : int
        Clips of a step and their length.
    device : str
    bf16 : bool
        Autocast to bfloat16.
    compiled : bool
        Whether the parts of our encoder go through torch.compile.
    quick : bool
        A small network.
    """

    def __init__(
        self,
        name,
        batch,
        seconds=30,
        device="cpu",
        bf16=False,
        compiled=False,
        quick=False,
    ):
        torch.manual_seed(0)
        hparams = networks.load_ours(
            name if name in networks.OURS else "brn_summary", quick
        )
        self.device, self.bf16 = device, bf16
        self.takes_waveforms = name == "MERT-330-shaped"
        if name in networks.OURS:
            self.model = hparams["model"]
        else:
            heads = MaskedPredictor
            if self.takes_waveforms:
                heads = WaveformPredictor
            self.model = heads(networks.build_peer(name, quick))
        self.model.to(device).train()
        self.masker = InputMasker(
            hparams["masking"]["masking"],
            make_pipeline(hparams, device),
            token_samples=960,
        )
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=1e-5, fused=True
        )
        if compiled:  # as PretrainBrain does
            encoder = self.model.encoder
            for part in (encoder.subsampling, *encoder.layers):
                part.compile(dynamic=False)
        wav = networks.noise(seconds, batch)
        if torch.device(device).type == "cuda":
            wav = wav.pin_memory()
        self.batch = SegmentBatch(
            wav,
            torch.full((batch,), wav.shape[1]),
            [0] * batch,
            list(range(batch)),
            [],
        )

    def __call__(self):
        """Forward, backward, clip, update; returns the loss."""
        inputs = self.masker(self.batch, self.device)
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.bf16):
            logits, mels = self.predict(inputs)
            n = len(logits) // len(inputs.tokens)
            token_loss, mel_loss, _ = masked_losses(
                logits,
                inputs.tokens.repeat_interleave(n),
                mels,
                inputs.targets.repeat_interleave(n, dim=0),
            )
        loss = (token_loss + mel_loss) / len(logits)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def predict(self, inputs):
        """Logits and mel frames at the masked positions."""
        if not self.takes_waveforms:
            return self.model(inputs.mels, None, inputs.masked)
        # It is not masked here, which its own recipe does behind the front end.
        wav = self.batch.waveforms(self.device)
        each = torch.arange(MERT_TOKENS, device=wav.device)
        masked = (inputs.masked.unsqueeze(1) * MERT_TOKENS + each).flatten()
        return self.model(wav, masked)
