"""Audio made to exhaust memory: headers that lie, silence that unfolds."""

import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from muselq_modules.audio_checks import check_audio
from muselq_modules.audio_data import read_segment
from muselq_modules.audio_formats import AudioFault
from muselq_modules.errors import UserError

NOISE = np.random.default_rng(0).normal(size=48000) * 0.1
MIB = 2**20


def lying_flac(path, rate=24000, frames=48000):
    """A FLAC file of 2 s whose header says otherwise."""
    soundfile.write(path, NOISE, 24000)
    data = bytearray(path.read_bytes())
    # STREAMINFO: 20 bits of rate, 3 of channels, 5 of width, 36 of length
    at = slice(18, 26)
    middle = int.from_bytes(data[at], "big") >> 36 & 0xFF
    value = rate << 44 | middle << 36 | frames
    data[at] = value.to_bytes(8, "big")
    path.write_bytes(data)


def lying_wav(path, rate=24000, channels=1, size=None):
    """A WAV file of 96,000 bytes of noise behind a header of its own."""
    noise = (NOISE * 30000).astype("<i2").tobytes()
    size = len(noise) if size is None else size
    width = min(2 * channels, 65535)
    speed = min(rate * width, 2**32 - 1)
    form = struct.pack("<HHIIHH", 1, channels, rate, speed, width, 16)
    path.write_bytes(
        b"RIFF"
        + struct.pack("<I", min(size + 36, 2**32 - 1))
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", size)
        + noise
    )


def lying_rf64(path):
    """A file that claims 10**12 frames."""
    lying_wav(path)
    data = path.read_bytes()
    sizes = struct.pack("<IQQQI", 28, 2 * 10**12, 2 * 10**12, 10**12, 0)
    data = b"RF64\xff\xff\xff\xffWAVEds64" + sizes + data[12:]
    at = data.index(b"data")
    path.write_bytes(data[: at + 4] + b"\xff\xff\xff\xff" + data[at + 8 :])


HOSTILE = {
    "frames.flac": (lying_flac, {"frames": 2**36 - 1}, "too long: 795 hours"),
    "rate.flac": (lying_flac, {"rate": 10**6}, "unusual sample rate"),
    "rate.wav": (lying_wav, {"rate": 2 * 10**9}, "unusual sample rate"),
    "slow.wav": (lying_wav, {"rate": 5}, "unusual sample rate"),
    "many.wav": (lying_wav, {"channels": 1000}, "1000 channels"),
    "more.wav": (lying_wav, {"channels": 65535}, "unreadable"),
    "none.wav": (lying_wav, {"channels": 0}, "unreadable"),
    "size.wav": (lying_wav, {"size": 2**32 - 16}, None),
    "size.rf64": (lying_rf64, {}, None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_costs_no_memory(tmp_path, name):
    write, options, fault = HOSTILE[name]
    path = tmp_path / name
    write(path, **options)
    tracemalloc.start()
    try:
        if fault is None:
            assert check_audio(path)["frames"] == 48000
        else:
            with pytest.raises(AudioFault, match=fault):
                check_audio(path)
        for span in [(0, None), (0, 30.0), (1.0, 0.5), (1e6, 1.0)]:
            try:
                assert len(read_segment(path, *span)) <= 48000
            except UserError as error:
                assert name in str(error) and "\n" not in str(error)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


def test_silence_that_unfolds_is_read_in_blocks(tmp_path):
    """120 kB of FLAC are 235 MiB of samples."""
    path = tmp_path / "bomb.flac"
    zeros = np.zeros((2**18, 8), np.int16)
    with soundfile.SoundFile(path, "w", 48000, 8, format="FLAC") as file:
        for _ in range(28):
            file.write(zeros)
    assert path.stat().st_size < MIB / 8
    tracemalloc.start()
    try:
        assert check_audio(path)["silent"]
        assert len(read_segment(path, 10.0, 90.0)) == 90 * 24000
        assert tracemalloc.get_traced_memory()[1] < 96 * MIB
    finally:
        tracemalloc.stop()


def test_samples_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "replaced.wav"
    for value in (np.nan, np.inf, -np.inf):
        wav = NOISE.copy()
        wav[30000] = value
        soundfile.write(path, wav, 24000, subtype="FLOAT")
        assert len(read_segment(path, 0.0, 1.0)) == 24000
        with pytest.raises(UserError, match="NaN or infinite"):
            read_segment(path, 1.0, 1.0)
