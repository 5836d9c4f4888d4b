"""A ten-hour file needs no more memory than a ten-minute one, scaled down."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_audio_data import make_noise

ROOT = Path(__file__).parents[1]

PEAK = """
import resource, sys
sys.path[:0] = {paths}
from small_encoders import small_encoder
from muselq_modules import extract
extract.load_any_encoder = lambda *_: small_encoder()
extract.main([{path}, {output}, "--pretrained", "chosen", "--workers", "0",
              "--device", "cpu", *{options}])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mib(path, output, options):
    code = PEAK.format(
        paths=[str(ROOT / "tests"), str(ROOT)],
        path=repr(str(path)),
        output=repr(str(output)),
        options=options,
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return int(ended.stdout) / unit


def write_long(path, seconds):
    """Noise at 8 kHz, written in pieces."""
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16") as file:
        minute = make_noise(60, 8000)[:, 0]
        for _ in range(seconds // 60):
            file.write(minute)


@pytest.mark.skipif(os.name == "nt", reason="needs the resource module")
@pytest.mark.parametrize(
    "options",
    [
        ["--pool", "none", "--layers", "all"],
        ["--context", "full", "--memory_gb", "0.001"],
    ],
    ids=["windows", "full"],
)
def test_a_long_file_needs_no_more_memory(tmp_path, options):
    """15 minutes are 86 MB at 24 kHz, 1 minute is 6 MB."""
    write_long(tmp_path / "short.wav", 60)
    write_long(tmp_path / "long.wav", 900)
    peaks = [
        peak_mib(tmp_path / f"{name}.wav", tmp_path / name, options)
        for name in ("short", "long")
    ]
    features = np.load(tmp_path / "long" / "long.wav.npy", mmap_mode="r")
    assert features.shape[0] == 22500
    assert peaks[1] < peaks[0] + 20, peaks
