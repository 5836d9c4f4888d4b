"""Statistics: right, measured once, and never those of other settings."""

import json

import pytest
import soundfile
import torch

from muselq_modules.errors import UserError
from muselq_modules.features import FrameStacking, LogMel
from muselq_modules.preparation import write_csv
from muselq_modules.segments import SegmentManifest
from muselq_modules.tokenizer import RandomProjectionTokenizer
from muselq_modules.training_statistics import (
    TargetPipeline,
    load_or_measure,
    measure,
)
from muselq_modules.whitening import Whitening

RATE = 24000


def make_pipeline(dim=8, power=1.0, codes=64, floor=-3.0):
    return TargetPipeline(
        LogMel(n_mels=16, floor=floor),
        FrameStacking(4),
        Whitening(64, dim, power),
        RandomProjectionTokenizer(dim, codes),
        Whitening(16, shrinkage=1e-3, rotate_back=True),
    )


@pytest.fixture
def manifest(tmp_path):
    generator = torch.Generator().manual_seed(1)
    rows = []
    for number in range(3):
        loudness = torch.rand(8, 1, generator=generator).repeat(1, RATE // 2)
        wav = 0.2 * torch.randn(4 * RATE, generator=generator)
        soundfile.write(
            tmp_path / f"{number}.wav", (wav * loudness.flatten()).numpy(), RATE
        )
        rows.append(
            {"path": f"{number}.wav", "frames": 4 * RATE, "sample_rate": RATE}
        )
    write_csv(tmp_path / "train.csv", rows, list(rows[0]))
    return SegmentManifest(tmp_path / "train.csv", tmp_path, 2.0, 1.0)


def test_statistics_are_those_of_the_data(manifest):
    pipeline = make_pipeline(floor=None)
    health = measure(pipeline, manifest)
    wavs = torch.stack([manifest.read(i, RATE) for i in range(len(manifest))])
    decibels = pipeline.log_mel.decibels(wavs).flatten(0, 1)
    assert torch.allclose(pipeline.log_mel.mean, decibels.mean(0), atol=1e-3)
    deviation = decibels.std(0, unbiased=False)
    assert torch.allclose(pipeline.log_mel.std, deviation, atol=1e-3)
    stacked = pipeline.stacking(pipeline.log_mel(wavs)).flatten(0, 1)
    whitened = pipeline.whitening(stacked)
    assert torch.allclose(
        torch.cov(whitened.T, correction=0), torch.eye(8), atol=1e-2
    )
    tokens = torch.bincount(pipeline.tokenizer(whitened), minlength=64)
    assert health["majority_token"] == int(tokens.argmax())
    assert health["n_tokens"] == len(stacked)
    variances = torch.linalg.eigvalsh(torch.cov(stacked.double().T))
    share = float(variances[-1] / variances.sum())
    assert health["loudness_share"] == pytest.approx(share, abs=1e-3)


def test_measured_once(manifest, tmp_path, monkeypatch):
    first = make_pipeline()
    health = load_or_measure(tmp_path / "run", first, manifest)
    monkeypatch.setattr(SegmentManifest, "read", None)  # reads nothing again
    second = make_pipeline()
    assert load_or_measure(tmp_path / "run", second, manifest) == health
    for name, value in second.state().items():
        assert torch.equal(value, first.state()[name]), name


@pytest.mark.parametrize(
    "changes", [{"dim": 4}, {"power": 0.5}, {"codes": 32}, {"floor": -2.0}]
)
def test_other_settings_are_measured_anew(manifest, tmp_path, changes):
    old = load_or_measure(tmp_path / "run", make_pipeline(), manifest)
    new = load_or_measure(tmp_path / "run", make_pipeline(**changes), manifest)
    assert new["settings_digest"] != old["settings_digest"]
    assert load_or_measure(
        tmp_path / "run", make_pipeline(**changes), manifest
    ) == json.loads((tmp_path / "run" / "targets.json").read_text())


@pytest.mark.parametrize("name", ["statistics.safetensors", "targets.json"])
def test_damaged_files_are_measured_anew(manifest, tmp_path, name):
    health = load_or_measure(tmp_path / "run", make_pipeline(), manifest)
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:40])
    pipeline = make_pipeline()
    assert load_or_measure(tmp_path / "run", pipeline, manifest) == health
    assert pipeline.log_mel.mean.abs().sum() > 0


def test_nothing_to_read(manifest, tmp_path):
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    with pytest.raises(UserError, match="no segment of .* can be read"):
        measure(make_pipeline(), manifest)
