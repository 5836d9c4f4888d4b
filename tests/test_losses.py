"""Losses and heads: masked positions only, float32, sums."""

import pytest
import torch
from small_encoders import redraw, small_encoder
from torch.nn import functional as F

from muselq_modules.losses import masked_losses
from muselq_modules.model import MaskedPredictor


def draw(count=12, classes=50, features=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=generator) * 3
    tokens = torch.randint(classes, (count,), generator=generator)
    tokens[:4] = logits[:4].argmax(-1)
    prediction = torch.randn(count, features, generator=generator)
    mels = torch.randn(count, features, generator=generator)
    return logits.to(dtype), tokens, prediction.to(dtype), mels


def test_sums_of_cross_entropy_and_squared_error():
    logits, tokens, prediction, mels = draw()
    token_loss, mel_loss, correct = masked_losses(
        logits, tokens, prediction, mels
    )
    torch.testing.assert_close(token_loss, 12 * F.cross_entropy(logits, tokens))
    torch.testing.assert_close(mel_loss, 12 * F.mse_loss(prediction, mels))
    by_hand = [int(row.argmax()) == t for row, t in zip(logits, tokens)]
    assert int(correct) == sum(by_hand) >= 4


def test_split_into_micro_batches_adds_up():
    whole = masked_losses(*draw())
    parts = [
        masked_losses(*[values[part] for values in draw()])
        for part in (slice(5), slice(5, 12))
    ]
    for total, first, second in zip(whole, *parts):
        torch.testing.assert_close(total, first + second)


def test_bf16_gives_a_float32_loss():
    logits, tokens, prediction, mels = draw(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        low = masked_losses(logits, tokens, prediction, mels)
    full = masked_losses(logits.float(), tokens, prediction.float(), mels)
    assert low[0].dtype == low[1].dtype == torch.float32
    assert torch.equal(low[0], full[0]) and torch.equal(low[1], full[1])


@pytest.fixture
def model():
    return redraw(MaskedPredictor(small_encoder(dim=24), 50, 128)).train()


def test_unmasked_positions_get_no_gradient(model):
    generator = torch.Generator().manual_seed(0)
    mels = torch.randn(2, 60, 32, generator=generator)  # 15 tokens a clip
    masked = torch.tensor([3, 4, 20])
    hidden = []

    def keep(module, inputs, output):
        output.retain_grad()
        hidden.append(output)

    model.encoder.norm.register_forward_hook(keep)
    logits, prediction = model(mels, None, masked)
    assert logits.shape == (3, 50) and prediction.shape == (3, 128)
    token_loss, mel_loss, _ = masked_losses(
        logits, torch.tensor([1, 2, 3]), prediction, torch.zeros(3, 128)
    )
    (token_loss + mel_loss).backward()
    touched = hidden[0].grad.flatten(0, 1).abs().sum(-1) > 0
    assert touched.nonzero().flatten().tolist() == masked.tolist()


def test_heads_see_the_positions_asked_for(model):
    generator = torch.Generator().manual_seed(0)
    mels = torch.randn(2, 60, 32, generator=generator)
    masked = torch.tensor([29, 0, 16])
    logits, prediction = model(mels, None, masked)
    states = model.encoder.encode(mels)
    for row, (clip, time) in enumerate([(1, 14), (0, 0), (1, 1)]):
        state = states[clip, time]
        torch.testing.assert_close(logits[row], model.token_head(state))
        torch.testing.assert_close(prediction[row], model.mel_head(state))


def test_empty_selection_gives_zero_loss_and_gradients(model):
    none = torch.zeros(0, dtype=torch.int64)
    logits, prediction = model(torch.randn(1, 60, 32), None, none)
    token_loss, mel_loss, correct = masked_losses(
        logits, none, prediction, torch.zeros(0, 128)
    )
    assert token_loss == mel_loss == correct == 0
    (token_loss + mel_loss).backward()
    # DistributedDataParallel waits for every parameter.
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.all(parameter.grad == 0), name
