"""What an encoder takes as audio, at which rate, and which layers it gives."""

import numpy as np
import pytest
import torch
from small_encoders import redraw, small_encoder

from muselq_modules.audio_data import read_segment
from muselq_modules.baselines import BASELINES
from muselq_modules.errors import UserError
from muselq_modules.waveforms import as_waveforms

RATE = 24000


@pytest.fixture(scope="module")
def encoder():
    return redraw(small_encoder(n_layers=3)).requires_grad_(False)


@pytest.fixture
def wav():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 24000, generator=generator) * 0.1


def refusal(call, *args, **options):
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def difference(first, second):
    pairs = zip(first.hidden_states, second.hidden_states, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_every_encoder_wants_the_rate(encoder, wav):
    for kind in (encoder, *(baseline() for baseline in BASELINES.values())):
        assert "sample_rate is missing" in refusal(kind, wav)
        assert "44100 Hz" in refusal(kind, wav, 44100)
        # The former call, lengths in second place.
        assert "no rate in Hz" in refusal(kind, wav, torch.tensor([1.0, 0.5]))
        for rate in (0, -1, float("nan"), "24 kHz", torch.ones(1)):
            assert "no rate in Hz" in refusal(kind, wav, rate)
        for rate in (24000.0, np.int64(24000), torch.tensor(24000)):
            assert kind(wav, rate).lengths.dtype == torch.int64


def test_every_encoder_tells_layers_lengths_and_times(encoder, wav):
    out = encoder(wav, RATE, torch.tensor([1.0, 0.5]))
    assert out.layers == [0, 1, 2, 3] and out.token_rate_hz == 25.0
    assert out.lengths.tolist() == [25, 12]
    assert out.times.shape == (25,) and out.times.dtype == torch.float64
    assert out.times[[0, 24]].tolist() == pytest.approx([0.02, 0.98])
    for name, n, last in (("mel", 100, 0.99), ("chroma", 10, 0.9)):
        out = BASELINES[name]()(wav, RATE)
        assert out.layers == [0] and len(out.times) == n
        assert out.token_rate_hz == n
        assert out.times[[0, -1]].tolist() == pytest.approx([0.0, last])


def test_times_of_a_baseline_are_those_of_its_windows():
    """A click is loudest in the frame whose time is that of the click."""
    click = torch.zeros(1, 48000)
    click[0, 24000] = 1.0
    for name in ("mel", "chroma"):
        baseline = BASELINES[name]()
        hop = baseline.hop_samples
        out = baseline(click, RATE)
        if name == "mel":
            frame = int(out.hidden_states[0].mean(-1).argmax())
        else:
            frame = 24000 // hop
        assert abs(float(out.times[frame]) - 1.0) <= 0.5 / out.token_rate_hz


def test_layers_are_chosen_and_no_other_is_computed(encoder, wav):
    whole = encoder(wav, RATE)
    calls = []
    hooks = [
        layer.register_forward_hook(lambda *_, n=n: calls.append(n))
        for n, layer in enumerate(encoder.layers, start=1)
    ]
    for layers, chosen, computed in (
        ([-1], [3], [1, 2, 3]),
        ([2, 0], [2, 0], [1, 2]),
        ([0], [0], []),
        (-3, [1], [1]),
        ([1, 1], [1, 1], [1]),
        (np.array([0, 1]), [0, 1], [1]),
    ):
        calls.clear()
        out = encoder(wav, RATE, layers=layers)
        assert out.layers == chosen and calls == computed
        assert len(out.hidden_states) == len(chosen)
        for number, state in zip(out.layers, out.hidden_states):
            assert torch.equal(state, whole.hidden_states[number])
    for hook in hooks:
        hook.remove()
    for layers in ([4], [-5], [], ["last"], "last", [0.5], 4):
        assert "from 0" in refusal(encoder, wav, RATE, layers=layers)


@pytest.mark.parametrize("rate", [44100, 48000, 16000, 22050])
def test_resampling_is_that_of_reading_a_file(encoder, tmp_path, rate):
    import soundfile

    generator = np.random.default_rng(0)
    audio = generator.normal(0, 0.1, rate).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype="FLOAT")
    expected = encoder(read_segment(tmp_path / "a.wav"), RATE)
    out = encoder(audio, rate, resample=True)
    assert difference(out, expected) <= 1e-4
    assert out.lengths.tolist() == [25]


def test_a_padded_batch_that_is_resampled_equals_single_clips(encoder):
    generator = torch.Generator().manual_seed(0)
    samples = [44100, 30011, 3000]
    wav = torch.full((3, 44100), torch.nan)
    clips = [torch.randn(n, generator=generator) * 0.1 for n in samples]
    for row, clip in zip(wav, clips):
        row[: len(clip)] = clip
    lengths = torch.tensor(samples) / 44100
    together = encoder(wav, 44100, lengths, resample=True)
    for i, clip in enumerate(clips):
        alone = encoder(clip, 44100, resample=True)
        n_tokens = int(alone.lengths)
        assert together.lengths[i] == n_tokens
        pairs = zip(together.hidden_states, alone.hidden_states)
        for padded, single in pairs:
            gap = (padded[i, :n_tokens] - single[0]).abs().max()
            assert float(gap) <= 1e-4


def test_odd_rates_are_refused_instead_of_taking_gigabytes(encoder, wav):
    for rate in (44101, 23999, 44100.5):
        assert "usual rate" in refusal(encoder, wav, rate, resample=True)


def test_kinds_of_audio(encoder, wav):
    expected = encoder(wav, RATE)
    integers = (wav * 32768).round().clamp(-32768, 32767).short()
    for same in (
        wav.numpy(),
        wav.double(),
        wav.numpy()[:, ::-1][:, ::-1],
        wav.numpy().astype(">f4"),
    ):
        assert difference(encoder(same, RATE), expected) == 0.0
    scaled = encoder(integers.float() / 32768, RATE)
    for same in (integers, integers.numpy(), integers.int() * 65536):
        assert difference(encoder(same, RATE), scaled) == 0.0
    read_only = wav.numpy().copy()
    read_only.flags.writeable = False
    assert difference(encoder(read_only, RATE), expected) == 0.0
    one = encoder(wav[0], RATE)
    assert one.hidden_states[0].shape == (1, 25, 24)
    assert difference(one, encoder(wav[:1], RATE)) == 0.0


def test_the_audio_given_is_left_as_it_is(encoder, wav):
    before = wav.clone()
    encoder(wav, RATE, torch.tensor([1.0, 0.5]))
    assert torch.equal(wav, before)
    wav.requires_grad_(True)
    encoder(wav, RATE, layers=[0]).hidden_states[0].sum().backward()
    assert wav.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(2, 2, 24000), "mix the channels"),
        (torch.tensor(0.0), "[batch, samples]"),
        (torch.zeros(0), "holds no sample"),
        (torch.zeros(1, 0), "holds no sample"),
        (torch.zeros(0, 24000), "holds no sample"),
        (np.zeros((24000, 2)), "[samples, channels]"),
        (torch.zeros(1, 24000, dtype=torch.int64), "torch.int64"),
        (torch.zeros(1, 24000, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 24000, dtype=torch.bool), "torch.bool"),
        (torch.zeros(1, 24000, dtype=torch.cfloat), "torch.complex64"),
        (np.array(["a.wav"]), "wav is"),
        ("song.wav", "wav is str"),
        ([np.zeros(24000), np.zeros(12000)], "wav is list"),
        (None, "wav is NoneType"),
        (torch.full((2, 24000), torch.nan), "clip 0 of wav holds NaN"),
        (torch.full((2, 24000), torch.inf), "clip 0 of wav holds NaN"),
        (torch.full((1, 24000), 2000.0), "between -1 and 1"),
    ],
)
def test_what_is_no_audio_is_told(encoder, given, words):
    assert words in refusal(encoder, given, RATE)


def test_the_broken_clip_is_named(encoder, wav):
    wav[1, 20000] = torch.nan
    assert "clip 1" in refusal(encoder, wav, RATE)
    # Beyond the end of the clip it is padding.
    encoder(wav, RATE, torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([1.0], "2 clips"),
        ([24000, 12000], "relative"),
        ([1.0, 0.0], "lengths[1]"),
        ([1.0, -0.5], "lengths[1]"),
        ([float("nan"), 1.0], "lengths[0]"),
        ([1.0, 1e-6], "a sample or more"),
    ],
)
def test_wrong_lengths_are_told(encoder, wav, lengths, words):
    assert words in refusal(encoder, wav, RATE, torch.tensor(lengths))


def test_lengths_are_exact_for_long_clips():
    samples = 20 * 60 * RATE
    lengths = torch.tensor([(samples - 960) / samples], dtype=torch.float64)
    _, n_samples = as_waveforms(torch.zeros(samples), RATE, RATE, lengths)
    assert n_samples.tolist() == [samples - 960]
