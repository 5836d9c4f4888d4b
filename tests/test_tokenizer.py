"""The tokenizer against its definition and SpeechBrain's quantizer."""

import pytest
import torch
from speechbrain.nnet.quantisers import RandomProjectionQuantizer
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from muselq_modules.tokenizer import RandomProjectionTokenizer, token_health


def frames(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distances(tokenizer, x):
    """|| norm(c_i) - norm(A x) || in float64 [..., codebook_size]."""
    codebook = F.normalize(tokenizer.codebook.double(), dim=-1)
    projected = F.normalize(x.double() @ tokenizer.projection.double(), dim=-1)
    return (codebook - projected.unsqueeze(-2)).norm(dim=-1)


def test_tokens_are_the_nearest_codes():
    tokenizer = RandomProjectionTokenizer(64, 500, 16, seed=3)
    x = frames(3, 70, 64)
    expected = distances(tokenizer, x)
    tokens = tokenizer(x)
    assert tokens.shape == (3, 70) and tokens.dtype == torch.int64
    nearest = expected.argmin(-1)
    # Two codes at the same distance in float32 may take turns.
    chosen = expected.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    assert torch.all(chosen - expected.amin(-1) < 1e-6)
    assert (tokens == nearest).float().mean() > 0.99
    assert len(tokens.unique()) > 50


def test_bf16_autocast_changes_nothing():
    tokenizer, x = RandomProjectionTokenizer(64, 2000), frames(2, 300, 64)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = tokenizer(x)
        # What the test would miss if autocast did not reach products at all.
        low = (x.flatten(0, 1) @ tokenizer.projection) @ tokenizer.codebook.T
        assert not torch.equal(low.argmax(-1), tokenizer(x).flatten())
    assert torch.equal(under_autocast, tokenizer(x))


def test_tf32_setting_is_put_back():
    before = torch.backends.cuda.matmul.allow_tf32
    for setting in (True, False):
        torch.backends.cuda.matmul.allow_tf32 = setting
        RandomProjectionTokenizer(8, 10, 4)(frames(3, 8))
        assert torch.backends.cuda.matmul.allow_tf32 is setting
    torch.backends.cuda.matmul.allow_tf32 = before


def test_has_a_seed_of_its_own():
    torch.manual_seed(1)
    first = RandomProjectionTokenizer(32, 40, 8, seed=7)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # nothing global was drawn
    second = RandomProjectionTokenizer(32, 40, 8, seed=7)
    other = RandomProjectionTokenizer(32, 40, 8, seed=8)
    for name in ("projection", "codebook"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_travels_in_the_checkpoint_and_is_never_trained():
    tokenizer = RandomProjectionTokenizer(32, 40, 8, seed=1)
    assert set(tokenizer.state_dict()) == {"projection", "codebook"}
    assert not list(tokenizer.parameters())
    loaded = RandomProjectionTokenizer(32, 40, 8, seed=2)
    loaded.load_state_dict(tokenizer.state_dict())
    x = frames(50, 32)
    assert torch.equal(loaded(x), tokenizer(x))
    assert not tokenizer(x.requires_grad_()).requires_grad


def test_xavier_projection_and_normal_codebook():
    tokenizer = RandomProjectionTokenizer(512, 8192, 16)
    projection, bound = tokenizer.projection, (6 / (512 + 16)) ** 0.5
    assert projection.shape == (512, 16)
    assert 0.99 * bound < projection.abs().max() <= bound
    assert abs(float(projection.std()) - bound / 3**0.5) < 0.01 * bound
    codebook = tokenizer.codebook
    assert codebook.shape == (8192, 16)
    torch.testing.assert_close(codebook.norm(dim=1), torch.ones(8192))
    # Directions of a normal vector are uniform: no mean, equal variances.
    assert codebook.mean(0).abs().max() < 4 * (1 / 16 / 8192) ** 0.5
    assert (codebook.var(0) * 16 - 1).abs().max() < 0.1


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_do_not_matter(chunk):
    x = frames(5, 41, 64)
    whole = RandomProjectionTokenizer(64, 300)(x)
    assert torch.equal(
        RandomProjectionTokenizer(64, 300, chunk=chunk)(x), whole
    )


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_memory_does_not_grow_with_tokens_times_codes():
    tokenizer, x = RandomProjectionTokenizer(64, 4096, 16), frames(4, 750, 64)
    with LargestTensor() as largest:
        tokenizer(x)
    assert largest.elements <= 256 * 4096  # 4 MiB instead of 47
    with LargestTensor() as upstream:
        small = RandomProjectionQuantizer(64, 16, 256)
        small(x[:1, :100])
    assert upstream.elements == 100 * 256 * 16  # the test can see it


def test_equals_the_quantizer_of_speechbrain():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(64, 16, 200)
    tokenizer = RandomProjectionTokenizer(64, 200, 16)
    tokenizer.projection.copy_(quantizer.P)
    tokenizer.codebook.copy_(quantizer.CB)
    x = frames(2, 90, 64)
    assert torch.equal(tokenizer(x), quantizer(x))


def test_empty_selection_gives_no_tokens():
    assert RandomProjectionTokenizer(8, 10, 4)(frames(0, 8)).shape == (0,)


def test_health_of_even_and_collapsed_tokens():
    even = token_health(torch.full((64,), 3.0))
    assert even == {"perplexity": 64.0, "top1_share": round(1 / 64, 6)}
    collapsed = token_health(torch.eye(64)[5] * 1000)
    assert collapsed == {"perplexity": 1.0, "top1_share": 1.0}
    none = token_health(torch.zeros(64))
    assert none["top1_share"] == 0.0
