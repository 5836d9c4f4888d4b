"""Within a micro-batch the host never waits for the device.

Tensors on the meta device have shapes and no values: whatever makes the host
wait for a value (`.item()`, `.cpu()`, a boolean index, `nonzero`, an `if` on a
tensor) raises there. `benchmarks/gpu.py` asks CUDA itself the same.
"""

from contextlib import nullcontext

import pytest
import torch
from small_encoders import FRONT_ENDS, LAYERS, MIXERS, small_encoder

from muselq_modules.features import FrameStacking
from muselq_modules.losses import masked_losses
from muselq_modules.masked_inputs import InputMasker
from muselq_modules.masking import RandomTimeMasking
from muselq_modules.model import MaskedPredictor
from muselq_modules.segments import SegmentBatch
from muselq_modules.step_sums import StepSums
from muselq_modules.tokenizer import RandomProjectionTokenizer
from muselq_modules.training_statistics import TargetPipeline
from muselq_modules.whitening import Whitening

SECOND = 24000


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """The meta device has no low precision."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())


def micro_batch(encoder, fill="zeros", seconds=(2.0, 1.2), dtype=torch.int16):
    """Forward and backward on the meta device; returns model and inputs."""
    encoder.train()
    model = MaskedPredictor(encoder, codebook_size=50, target_dim=8).to("meta")
    pipeline = TargetPipeline(
        encoder.log_mel,
        FrameStacking(),
        Whitening(4 * 32, 8).to("meta"),
        RandomProjectionTokenizer(8, 50, 4).to("meta"),
    )
    sums = StepSums(50, "meta", majority_token=3)
    lengths = torch.tensor([round(s * SECOND) for s in seconds])
    batch = SegmentBatch(
        torch.ones(len(lengths), int(lengths.max()), dtype=dtype),
        lengths,
        [0] * len(lengths),
        list(range(len(lengths))),
        [],
    )
    masker = InputMasker(RandomTimeMasking(fill=fill), pipeline, 960)
    inputs = masker(batch, "meta")
    logits, mels = model(inputs.mels, inputs.padding_mask, inputs.masked)
    losses = masked_losses(logits, inputs.tokens, mels, inputs.targets)
    sums.add(inputs.tokens, *(loss.detach() for loss in losses), batch)
    (losses[0] + losses[1]).backward()
    return model, inputs


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_of_every_mixer(layer, mixer):
    model, inputs = micro_batch(small_encoder(layer, mixer))
    assert inputs.padding_mask is not None
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_of_front_ends_and_fills(front_end, fill):
    encoder = small_encoder(
        front_end=front_end, input_whitening=1.0, checkpoint_activations=True
    )
    micro_batch(encoder, fill, dtype=torch.float32)


def test_no_mask_is_built_when_nothing_is_padded():
    _, inputs = micro_batch(small_encoder(), seconds=(1.2, 1.2))
    assert inputs.padding_mask is None


def test_a_wait_would_be_seen():
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(2, device="meta").sum().item()
    with pytest.raises(NotImplementedError, match="meta"):
        torch.ones(2, device="meta").cpu()
    with pytest.raises(NotImplementedError, match="nonzero"):
        torch.ones(2, device="meta")[torch.ones(2, device="meta") > 0]
