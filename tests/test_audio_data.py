"""Reading segments: exact lengths, right samples, errors that name the file."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from muselq_modules.audio_data import AUDIO_SUFFIXES, read_segment
from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.mp3_frames import count_mp3_frames

ODD_FILES = Path(__file__).parents[2] / "shared" / "music" / "odd_files"


def make_noise(seconds, rate, channels=1, seed=0):
    """Return reproducible noise, float32 `[frames, channels]`."""
    shape = (round(seconds * rate), channels)
    noise = np.random.default_rng(seed).normal(size=shape) * 0.1
    return noise.astype(np.float32)


def write_mp3(path, mono, rate=44100):
    """Write an MP3 of variable bit rate."""
    soundfile.write(
        path,
        mono,
        rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.5,
    )


def strip_frame_count(path):
    """Remove the frame that tells how many frames an MP3 has."""
    data = path.read_bytes()
    assert b"Xing" in data[:200]
    start = data.index(b"\xff\xfb")
    path.write_bytes(data[data.index(data[start : start + 2], start + 4) :])


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_exact_length(tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    soundfile.write(path, make_noise(3, rate, channels), rate)
    for start_s, duration_s in [(0, 1), (0.5, 1.37), (1.23456, 1e-3), (2, 1)]:
        wav = read_segment(path, start_s, duration_s)
        assert wav.shape == (round(duration_s * 24000),)
        assert wav.dtype == torch.float32
    assert read_segment(path).shape == (72000,)
    assert read_segment(path, 2.5, 30.0).shape == (12000,)


def test_mean_of_channels(tmp_path):
    path = tmp_path / "a.flac"
    stereo = make_noise(1, 24000, 2)
    soundfile.write(path, stereo, 24000, subtype="PCM_24")
    expected = torch.from_numpy(stereo).mean(dim=1)
    assert torch.allclose(read_segment(path), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["a.wav", "a.flac", "a.ogg", "a.opus", "a.aiff"]
)
def test_segment_is_slice_of_whole(tmp_path, name):
    path = tmp_path / name
    rate = 48000 if name == "a.opus" else 44100
    container = {"a.opus": ("OGG", "OPUS")}.get(name, (None, None))
    soundfile.write(
        path,
        make_noise(6, rate),
        rate,
        format=container[0],
        subtype=container[1],
    )
    whole = read_segment(path)
    for start_s in (0, 1, 2.5, 4):
        first = round(start_s * 24000)
        segment = read_segment(path, start_s, 1.5)
        wanted = whole[first : first + 36000]
        assert torch.allclose(segment, wanted, atol=1e-5), start_s


def test_segment_of_variable_mp3_is_slice_of_whole(tmp_path):
    """The first frames after a seek lack the bits that earlier ones lend."""
    path = tmp_path / "a.mp3"
    quiet = 0.01 * np.sin(0.05 * np.arange(4 * 44100))
    loud = make_noise(4, 44100)[:, 0]
    write_mp3(path, np.concatenate([quiet, loud]))
    whole, _ = soundfile.read(path, dtype="float32")
    for start_s in (0.0, 0.1, 1.0, 2.5, 5.0):
        first = round(start_s * 44100)
        segment = read_segment(path, start_s, 1.0, sample_rate=44100)
        error = np.abs(segment.numpy() - whole[first : first + 44100])
        assert error.max() < 1e-5, start_s


def test_resampling_is_torchaudios(tmp_path):
    path = tmp_path / "a.wav"
    noise = make_noise(2, 44100)
    soundfile.write(path, noise, 44100, subtype="FLOAT")
    expected = torchaudio.functional.resample(
        torch.from_numpy(noise[:, 0]), 44100, 24000
    )
    assert torch.allclose(read_segment(path), expected, atol=1e-6)


def test_start_beyond_end(tmp_path):
    path = tmp_path / "short song.wav"
    soundfile.write(path, make_noise(1, 24000), 24000)
    for start_s in (1.0, 100, -1):
        with pytest.raises(UserError, match="short song.wav lasts 1.00 s"):
            read_segment(path, start_s, 1.0)


def test_truncated_file_is_an_error_not_a_short_crop(tmp_path):
    path = tmp_path / "cut.mp3"
    write_mp3(path, make_noise(8, 44100)[:, 0])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert read_segment(path, 1.0, 1.0).shape == (24000,)
    for start_s in (3.5, 6.0):
        with pytest.raises(UserError, match="cut.mp3"):
            read_segment(path, start_s, 2.0)


def test_damaged_flac_is_an_error(tmp_path):
    path = tmp_path / "cut.flac"
    soundfile.write(path, make_noise(8, 24000), 24000)
    path.write_bytes(path.read_bytes()[:-100000])
    with pytest.raises(UserError, match="cut.flac"):
        read_segment(path, 7.0, 1.0)


def test_mp3_frames_are_counted(tmp_path):
    path = tmp_path / "a.mp3"
    write_mp3(path, make_noise(4, 44100)[:, 0])
    counted, has_count = count_mp3_frames(path)
    assert has_count and 0 <= counted - 4 * 44100 <= 4 * 1152
    strip_frame_count(path)
    assert count_mp3_frames(path) == (counted, False)
    tagged = tmp_path / "tagged.mp3"
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + b"\xff\xfb\x90\x00" * 64
    tagged.write_bytes(tag + path.read_bytes() + b"TAG" + bytes(125))
    assert count_mp3_frames(tagged) == (counted, False)
    garbage = tmp_path / "garbage.mp3"
    garbage.write_bytes(bytes(5000))
    assert count_mp3_frames(garbage) == (0, False)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_segment(tmp_path / "none.wav")


def test_no_samples_asked(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, make_noise(1, 24000), 24000)
    for duration_s in (0, 1e-9, -1):
        with pytest.raises(UserError, match="holds no sample"):
            read_segment(path, 0, duration_s)


def test_odd_sample_rate_is_refused(tmp_path):
    """Its resampling filter would take gigabytes."""
    path = tmp_path / "a.wav"
    soundfile.write(path, make_noise(1, 44101), 44101)
    with pytest.raises(UserError, match="44101 Hz"):
        read_segment(path)
    assert read_segment(path, sample_rate=44101).shape == (44101,)


def test_m4a_without_torchcodec_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    with pytest.raises(UserError, match="extra `codecs`"):
        read_segment(path)


def test_m4a_through_torchcodec(tmp_path, monkeypatch):
    """A stand-in with torchcodec's interface: stereo of 2 s at 48 kHz."""

    class AudioDecoder:
        metadata = types.SimpleNamespace(
            duration_seconds_from_header=2.0, sample_rate=48000, num_channels=2
        )

        def __init__(self, source):
            assert source.endswith("a.m4a")

        def get_samples_played_in_range(self, start, stop=None):
            n_samples = round(((stop or 2.0) - start) * 48000)
            data = torch.ones(2, n_samples) * torch.tensor([[0.2], [0.4]])
            return types.SimpleNamespace(data=data, sample_rate=48000)

    module = types.ModuleType("torchcodec.decoders")
    module.AudioDecoder = AudioDecoder
    package = types.ModuleType("torchcodec")
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    wav = read_segment(path, 0.5, 1.0)
    assert wav.shape == (24000,)
    assert torch.allclose(wav[100:-100], torch.tensor(0.3), atol=1e-3)
    assert read_segment(path, 1.5, 30.0).shape == (12000,)
    with pytest.raises(UserError, match="lasts 2.00 s"):
        read_segment(path, 2.0, 1.0)


@pytest.mark.skipif(not ODD_FILES.is_dir(), reason="needs ../shared/music")
def test_good_odd_files_can_be_read():
    good = [path for path in ODD_FILES.iterdir() if "good" in path.name.lower()]
    assert len(good) == 14
    for path in good:
        if path.suffix != ".m4a":
            assert read_segment(path, 0.5, 1.0).shape == (24000,), path


def test_suffixes_are_lower_case():
    assert {".wav", ".mp3", ".flac", ".m4a"} <= AUDIO_SUFFIXES
    assert all(suffix == suffix.lower() for suffix in AUDIO_SUFFIXES)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_user_error_ends_without_traceback(capsys, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)

    @exits_cleanly
    def main():
        raise UserError("song.wav is gone")

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed == ("Error: song.wav is gone\n" if rank == "0" else "")
