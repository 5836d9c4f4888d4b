"""A run folder as pre-training leaves it, made in a moment, untrained."""

import json

import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references

from muselq_modules.pretrained import save_encoder

YAML = """\
n_steps: 30
segment_s: 2.0
global_batch: 4
dim: 24
features: !include:log_mel.yaml
encoder: !new:muselq_modules.encoder.MusicEncoder
    dim: !ref <dim>
    n_layers: 2
    input_whitening: 0.5
    log_mel: !ref <features[log_mel]>
    subsampling: !name:muselq_modules.subsampling.ConvNeXtSubsampling
        n_blocks: 1
    layer: !name:muselq_modules.branchformer.BranchformerLayer
        cgmlp_dim: !ref <dim> * 2
        mixer: !name:muselq_modules.attention.RotarySelfAttention
            head_dim: 8
model: !new:muselq_modules.model.MaskedPredictor
    encoder: !ref <encoder>
    codebook_size: 50
"""
BLOCK = """\
log_mel: !new:muselq_modules.features.LogMel
    n_mels: 32
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RECORDS = {
    "data.json": {
        "audio_root": "/secret/place",
        "files": {"train": 27, "valid": 8},
        "hours": {"train": 0.597, "valid": 0.108},
        "digest": "d" * 64,
    },
    "run.json": {
        "launches": [
            {
                "started": "2026-11-25T15:39:44Z",
                "command": ["train.py", "--data_folder", "/secret/place"],
                "seeds": {"seed": 1234, "masking.seed": 1234},
                "world_size": 2,
                "device": "NVIDIA H200",
                "git": {"commit": COMMIT, "dirty": False},
                "versions": {"torch": "2.11.0"},
            }
        ]
    },
}


def make_run(parent):
    """Run folder with resolved YAML and records, and its model.

    The weights are drawn at a realistic scale. The encoder is not saved yet.
    """
    (parent / "log_mel.yaml").write_text(BLOCK)
    (parent / "small.yaml").write_text(YAML)
    folder = parent / "run"
    folder.mkdir()
    with open(parent / "small.yaml") as stream:
        resolved = resolve_references(stream).getvalue()
    (folder / "hyperparams.yaml").write_text(resolved)
    with open(parent / "small.yaml") as stream:
        model = load_hyperpyyaml(stream)["model"]
    encoder = model.encoder.eval()
    encoder.log_mel.set_statistics(torch.rand(32) - 20, torch.rand(32) + 9)
    encoder.whitening.fit(torch.randn(500, 32) * torch.rand(32))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return folder, model


def finish_run(parent):
    """A finished run folder: saved encoder, log and records."""
    folder, model = make_run(parent)
    save_encoder(model.encoder, folder)
    for name, content in RECORDS.items():
        (folder / name).write_text(json.dumps(content))
    lines = [{"kind": "train", "step": step} for step in range(1, 31)]
    lines.append(
        {
            "kind": "valid",
            "step": 30,
            "token_loss": 7.25,
            "masked_accuracy": 0.0625,
            "majority_baseline": 0.03125,
        }
    )
    (folder / "train_log.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    return folder, model.encoder


def save_checkpoint(folder, model, step):
    """A checkpoint as a run leaves it before its end."""
    checkpoint = folder / "save" / f"CKPT+{step:09d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "CKPT.yaml").write_text(f"step: {step}\n")
    torch.save(model.state_dict(), checkpoint / "model.ckpt")
    return checkpoint
