"""Streamed audio: the samples of the whole file, whatever the blocks."""

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from test_audio_data import make_noise, strip_frame_count, write_mp3

from muselq_modules import audio_stream, decoding
from muselq_modules.audio_data import read_segment
from muselq_modules.audio_formats import AudioFault
from muselq_modules.audio_stream import AudioStream
from muselq_modules.decoding import decode, decode_all
from muselq_modules.errors import UserError
from muselq_modules.resampling import resample_blocks

ODD_FILES = Path(__file__).parents[2] / "shared" / "music" / "odd_files"


def stream(path, rate=24000):
    return torch.cat(list(AudioStream(path, rate).blocks()))


@pytest.fixture
def short_blocks(monkeypatch):
    """Of a third of a second, so that seconds of audio have many seams."""
    monkeypatch.setattr(audio_stream, "BLOCK_S", 0.3)


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100, 48000, 96000])
@pytest.mark.parametrize("length", [499, 30011])
def test_blocks_of_any_length_are_resampled_without_a_seam(rate, length):
    wav = torch.from_numpy(make_noise(1.7, rate)[:, 0])
    blocks = list(resample_blocks(wav.split(length), rate, 24000))
    assert len(blocks) > 10 or length == 30011
    expected = torchaudio.functional.resample(wav, rate, 24000)
    found = torch.cat(blocks)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6


def test_a_rate_without_a_common_divisor():
    pytest.importorskip("soxr")
    seconds = np.arange(2 * 44101) / 44101
    wav = torch.from_numpy(np.sin(2 * np.pi * 440 * seconds)).float()
    blocks = resample_blocks(wav.split(10007), 44101, 24000)
    found = torch.cat(list(blocks)).numpy()
    assert len(found) == 48000
    expected = np.sin(2 * np.pi * 440 * np.arange(48000) / 24000)
    assert np.abs(found - expected)[500:-500].max() < 1e-3


def test_such_a_rate_without_soxr_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "soxr", None)
    path = tmp_path / "a.wav"
    soundfile.write(path, make_noise(1, 44101), 44101)
    with pytest.raises(AudioFault, match="extra `resample`"):
        stream(path)


@pytest.mark.parametrize(
    "name", ["a.wav", "a.flac", "a.ogg", "a.opus", "a.aiff", "a.mp3"]
)
def test_equals_the_whole_file(tmp_path, short_blocks, name):
    path, rate = tmp_path / name, 48000 if name == "a.opus" else 44100
    noise = make_noise(4, rate, 2)
    container = {"a.opus": ("OGG", "OPUS")}.get(name, (None, None))
    soundfile.write(path, noise, rate, container[1], format=container[0])
    opened = AudioStream(path, 24000)
    assert (opened.source_rate, opened.channels) == (rate, 2)
    assert opened.duration_s == pytest.approx(4.0)
    blocks = list(opened.blocks())
    assert len(blocks) > 10
    assert opened.duration_s == pytest.approx(4.0, abs=0.1)
    whole = read_segment(path)
    assert (torch.cat(blocks) - whole).abs().max() <= 1e-6


def fault(path):
    with pytest.raises(AudioFault) as caught:
        stream(path)
    return str(caught.value)


def test_faults(tmp_path, short_blocks):
    noise = make_noise(4, 44100)[:, 0]
    write_mp3(tmp_path / "cut.mp3", noise)
    data = (tmp_path / "cut.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 2])
    assert fault(tmp_path / "cut.mp3").startswith("truncated: ")
    soundfile.write(tmp_path / "cut.flac", noise, 44100)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[:-100000])
    assert fault(tmp_path / "cut.flac").startswith("truncated or corrupt")
    soundfile.write(tmp_path / "cut.wav", noise, 44100)
    data = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[:-100000])
    assert fault(tmp_path / "cut.wav").startswith("truncated: ")
    noise[3 * 44100] = np.nan
    soundfile.write(tmp_path / "nan.wav", noise, 44100, "FLOAT")
    assert fault(tmp_path / "nan.wav").startswith("not finite: ")
    soundfile.write(tmp_path / "big.wav", noise[:9] * 1e6, 44100, "FLOAT")
    assert fault(tmp_path / "big.wav").startswith("too loud: reaches ")
    (tmp_path / "none.mp3").touch()
    assert fault(tmp_path / "none.mp3") == "empty: 0 bytes"
    (tmp_path / "text.mp3").write_text("not music " * 100)
    assert fault(tmp_path / "text.mp3").startswith("unreadable: ")
    soundfile.write(tmp_path / "no.wav", noise[:0], 44100)
    assert fault(tmp_path / "no.wav").startswith("empty: ")
    assert fault(tmp_path / "gone.wav").startswith("cannot be opened: ")
    assert fault(tmp_path / ".hidden.wav") == "hidden file"
    assert fault(tmp_path / "notes.txt") == "unsupported format: '.txt'"
    assert fault(tmp_path / "bad\udcff.wav").startswith("file name: ")


def test_a_header_without_a_length(tmp_path):
    """As written by a program that could not go back to the header."""
    path = tmp_path / "piped.flac"
    soundfile.write(path, make_noise(2, 24000), 24000)
    data = bytearray(path.read_bytes())
    # 36 bits from the middle of byte 21 on: the number of samples.
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert fault(path).startswith("no length: ")


def test_mp3_of_which_a_part_cannot_be_read(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.3, 44100 * 20) * np.linspace(1, 0, 44100 * 20)
    path = tmp_path / "guessed.mp3"
    write_mp3(path, noise.astype(np.float32))
    strip_frame_count(path)
    assert fault(path).startswith("MP3 without a frame count: ")


def test_m4a_through_torchcodec(tmp_path, monkeypatch):
    """A stand-in with torchcodec's interface: stereo of 2.5 s at 48 kHz."""
    asked = []

    class AudioDecoder:
        metadata = types.SimpleNamespace(
            duration_seconds_from_header=2.5,
            sample_rate=48000,
            num_channels=2,
        )

        def __init__(self, source):
            assert source.endswith("a.m4a")

        def get_samples_played_in_range(self, start, stop):
            asked.append(round(start * 48000))
            if start >= 2.5:
                raise RuntimeError("No audio frames were decoded.")
            n_samples = round((min(stop, 2.5) - start) * 48000)
            data = torch.ones(2, n_samples) * torch.tensor([[0.2], [0.4]])
            return types.SimpleNamespace(data=data, sample_rate=48000)

    module = types.ModuleType("torchcodec.decoders")
    module.AudioDecoder = AudioDecoder
    package = types.ModuleType("torchcodec")
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    for block_frames in (24000, 50000):
        monkeypatch.setattr(audio_stream, "CODEC_BLOCK_FRAMES", block_frames)
        asked.clear()
        wav = stream(path)
        assert wav.shape == (60000,)
        assert torch.allclose(wav[100:-100], torch.tensor(0.3), atol=1e-3)
        assert (
            asked == list(range(0, 2 * 60000 + 1, block_frames))[: len(asked)]
        )


def test_a_real_m4a():
    pytest.importorskip("torchcodec.decoders")
    if not ODD_FILES.is_dir():
        pytest.skip("needs ../shared/music")
    wav = stream(ODD_FILES / "good.m4a")
    assert (wav - read_segment(ODD_FILES / "good.m4a")).abs().max() <= 1e-6


def music(folder):
    for number, seconds in enumerate((1, 25, 3)):
        path = folder / f"{number}.wav"
        soundfile.write(path, make_noise(seconds, 8000, seed=number), 8000)
    (folder / "bad.wav").write_bytes(b"RIFF")
    return sorted(folder.glob("*.wav"))


def gather(messages):
    """{path: (kinds, audio)}"""
    kinds, audio = {}, {}
    for path, kind, payload in messages:
        kinds.setdefault(path.name, []).append(kind)
        if kind == "audio":
            audio.setdefault(path.name, []).append(payload)
    return kinds, {name: np.concatenate(p) for name, p in audio.items()}


def test_processes_decode_what_one_process_does(tmp_path):
    paths = music(tmp_path)
    alone = gather(decode_all(paths, 24000, workers=0))
    together = gather(decode_all(paths, 24000, workers=2))
    assert alone[0] == together[0]
    assert alone[0]["bad.wav"] == ["skipped"]
    assert set(alone[0]["1.wav"][1:-1]) == {"audio"}
    assert len(alone[0]["1.wav"]) > 4
    assert alone[0]["1.wav"][0] == "opened" and alone[0]["1.wav"][-1] == "ended"
    assert alone[1].keys() == together[1].keys() == {"0.wav", "1.wav", "2.wav"}
    for name, audio in alone[1].items():
        assert np.array_equal(audio, together[1][name])


def kill_the_process(path, sample_rate):
    """What a decoder may do to a damaged file."""
    if path.name == "1.wav":
        yield "opened", {}
        os._exit(139)
    yield from decode(path, sample_rate)


def serve_and_die(pipe, sample_rate):
    """Runs in a process of its own: serves with the decoder above."""
    decoding.decode = kill_the_process
    decoding._serve(pipe, sample_rate)


def test_a_file_that_kills_its_process_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_serve", serve_and_die)
    kinds, _ = gather(decode_all(music(tmp_path), 24000, workers=1))
    assert kinds["1.wav"] == ["opened", "skipped"]
    assert kinds["2.wav"][-1] == "ended" and kinds["0.wav"][-1] == "ended"


def test_processes_that_cannot_start_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_serve", exit)
    with pytest.raises(UserError, match="cannot start"):
        list(decode_all(music(tmp_path), 24000, workers=1))
