"""Exported graphs give what the encoder gives, for any batch and length."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoders import redraw, small_encoder

from muselq_modules.audio_data import read_segment
from muselq_modules.features import LogMel
from muselq_modules.portable_log_mel import PortableLogMel
from muselq_modules.torch_export import save_program, trace_encoder

SAMPLES = Path(__file__).with_name("samples")
TOLERANCE = 1e-3
# Clips and samples: less than a token, one, a fraction more, many.
SHAPES = [(1, 100), (3, 960), (1, 1919), (2, 1920), (1, 24077), (2, 96000)]


def music(seconds, n_clips=1, start=2.0):
    """Real music [clip, samples] as a wav or flac file of 16 bit holds it.

    What a lossy file leaves empty, decoded to floats, is filled by the
    rounding of whoever computes the spectrum: see test_empty_bands.
    """
    files = sorted(SAMPLES.glob("*.ogg"))[:n_clips]
    clips = [read_segment(f, start, seconds, 24000) for f in files]
    return torch.stack(clips).mul(32768).round().div(32768)


def musical_encoder(kinds, **options):
    """A small encoder whose mel statistics are those of the music."""
    encoder = redraw(small_encoder(*kinds, **options))
    decibels = encoder.log_mel.decibels(music(8.0, 4)).flatten(0, 1)
    encoder.log_mel.set_statistics(decibels.mean(0), decibels.std(0))
    if encoder.whitening is not None:
        encoder.whitening.fit(encoder.log_mel.normalise(decibels))
    return encoder


def exact_decibels(wav, log_mel):
    """Log-mel frames in float64 [batch, frames, n_mels]."""
    windows = log_mel._windows(wav).double() * log_mel.window.double()
    power = torch.fft.rfft(windows).abs().square()
    mels = power @ log_mel.filters.double()
    return 10 * torch.log10(mels.clamp_min(1e-10))


@pytest.mark.parametrize("n_fft, hop", [(2048, 240), (1024, 300), (512, 512)])
def test_portable_frames_are_those_of_the_fft(n_fft, hop):
    log_mel = LogMel(n_fft=n_fft, hop_samples=hop)
    log_mel.set_statistics(torch.rand(128) - 20, torch.rand(128) + 9)
    portable = PortableLogMel(log_mel)
    for samples in (hop, 2 * hop - 1, 24000):
        wav = music(1.0)[:, :samples]
        found = portable(wav)
        assert found.shape == (1, samples // hop, 128)
        torch.testing.assert_close(found, log_mel(wav), atol=1e-2, rtol=0)
    assert torch.equal(
        portable(torch.zeros(2, 2400)), log_mel(torch.zeros(2, 2400))
    )


def test_empty_bands():
    """Where the FFT's own rounding decides, products are more exact."""
    log_mel = LogMel()
    wav = read_segment(SAMPLES / "asap_0034.ogg", 0.0, 8.0, 24000)[None]
    exact = exact_decibels(wav, log_mel)
    fft = (log_mel.decibels(wav) - exact).abs().max()
    products = (PortableLogMel(log_mel)(wav) - exact).abs().max()
    # Decibels: what the graph differs by is then no fault of its own.
    assert products < max(fft / 3, 1e-2)


def check(run, encoder, layers, shapes=SHAPES):
    """Compare ``run(wav)`` with the encoder on clips of many sizes."""
    for n_clips, samples in shapes:
        wav = music(samples / 24000, n_clips)
        with torch.no_grad():
            expected = encoder(wav, 24000, layers=layers).hidden_states
        found = run(wav)
        assert len(found) == len(expected)
        for state, reference in zip(found, expected, strict=True):
            assert state.shape == reference.shape
            assert (state - reference).abs().max() <= TOLERANCE, samples


# Every layer, mixer and front end.
KINDS = [
    ("branchformer", "summary", "residual"),
    ("branchformer", "lite", "convnext"),
    ("conformer", "attention", "convnext"),
]


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_program_gives_what_the_encoder_gives(kinds, tmp_path):
    encoder = musical_encoder(kinds, n_layers=1).train()
    path = save_program(encoder, tmp_path / "e.pt2", None, source="small")
    assert encoder.training
    encoder.eval()
    files = {"facts.json": ""}
    module = torch.export.load(path, extra_files=files).module()
    check(lambda wav: module(wav=wav), encoder, [0, 1])
    facts = json.loads(files["facts.json"])
    assert facts["encoder_digest"] == encoder.digest()
    assert facts["layers"] == "0,1" and facts["source"] == "small"
    assert facts["sample_rate_hz"] == "24000"


def test_program_runs_without_this_package(tmp_path):
    encoder = musical_encoder(("branchformer", "lite", "convnext"), n_layers=1)
    path = save_program(encoder, tmp_path / "e.pt2")
    wav = music(0.5)
    np.save(tmp_path / "wav.npy", wav)
    code = (
        "import sys, numpy as np, torch\n"
        f"module = torch.export.load({str(path)!r}).module()\n"
        f"wav = torch.from_numpy(np.load({str(tmp_path / 'wav.npy')!r}))\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, module(wav=wav)[0].detach())\n"
        "assert not {'muselq_modules', 'speechbrain'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300
    )
    with torch.no_grad():
        expected = encoder(wav, 24000).hidden_states[-1]
    found = torch.from_numpy(np.load(tmp_path / "out.npy"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.export.load(path).module()(wav=wav[:, :500])[0].shape == (
        1,
        1,
        24,
    )


def test_pooled_and_padded():
    encoder = musical_encoder(
        ("conformer", "attention", "convnext"), n_layers=1
    )
    program = trace_encoder(encoder, [1], "mean", padded=True)
    n_samples = torch.tensor([24000, 13000, 500])
    wav = music(1.0, 3)
    (found, n_tokens) = program.module()(wav=wav, n_samples=n_samples)
    assert n_tokens.tolist() == [25, 13, 1]
    for clip, length, state in zip(wav, n_samples, found, strict=True):
        with torch.no_grad():
            alone = encoder(clip[None, :length], 24000, layers=[1])
        expected = alone.hidden_states[0].mean(1)[0]
        torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-4)
        (one, _) = program.module()(
            wav=clip[None], n_samples=torch.tensor([length])
        )
        torch.testing.assert_close(one[0], state, atol=1e-5, rtol=1e-5)
