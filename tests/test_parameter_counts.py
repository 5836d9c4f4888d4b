"""The six models of Table 2 have the paper's sizes."""

from pathlib import Path

import pytest
import torch
from hyperpyyaml import resolve_references

from muselq_modules.architecture import build_encoder
from muselq_modules.description import describe
from muselq_modules.model import MaskedPredictor

HPARAMS = Path(__file__).parents[1] / "hparams"
TABLE_2 = {  # millions of parameters in the paper
    "brn_summary": 164,
    "brn_attention": 187,
    "cnf_summary": 302,
    "cnf_attention": 330,
    "cnf_attention_small": 95,
    "brn_attention_small": 60,
}
TOLERANCE = 0.015


def millions(name, folder, **changes):
    """Parameters of the model of a YAML, built without its weights."""
    with open(HPARAMS / f"{name}.yaml", encoding="utf-8") as stream:
        text = resolve_references(stream, {"data_folder": "."}).getvalue()
    resolved = folder / f"{name}.yaml"
    resolved.write_text(text, encoding="utf-8")
    arguments = describe(resolved, "model")["arguments"]
    encoder = build_encoder(arguments.pop("encoder"), without_values=True)
    with torch.device("meta"):
        model = MaskedPredictor(encoder, **{**arguments, **changes})
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_table_2(tmp_path, capsys):
    # The paper's mel head predicts the 512 values of a stacked frame, ours 64
    # components of it.
    found = {name: millions(name, tmp_path, target_dim=512) for name in TABLE_2}
    with capsys.disabled():
        print("\n\nmodel                parameters  paper")
        for name, paper in TABLE_2.items():
            off = found[name] / paper - 1
            print(f"{name:20s} {found[name]:7.1f} M  {paper:4d} M  {off:+.1%}")
    for name, paper in TABLE_2.items():
        assert found[name] == pytest.approx(paper, rel=TOLERANCE), name


def test_the_first_lines_state_the_count(tmp_path):
    for name in TABLE_2:
        header = (HPARAMS / f"{name}.yaml").read_text("utf-8")[:600]
        assert f"{millions(name, tmp_path):.1f} M parameters" in header, name
