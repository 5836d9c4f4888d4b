"""Parameters and arithmetic of the pre-training configurations.

    python benchmarks/cost.py

Counts one 30 s clip through encoder and heads (150 masked positions) with
torch.utils.flop_counter, on shapes alone: nothing is computed. A training
step costs three times the forward pass. The hours are those sums for 100,000
steps of 1024 clips on one GPU that sustains --tflops (default: half of the
790 TFLOP/s that an H200 reaches in bf16); they are no measurement.
"""

import argparse
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from torch.utils.flop_counter import FlopCounterMode

HPARAMS = Path(__file__).resolve().parents[1] / "hparams"
PAPER_MILLIONS = {
    "brn_summary": 164,
    "brn_attention": 187,
    "brn_attention_small": 60,
    "cnf_summary": 302,
    "cnf_attention": 330,
    "cnf_attention_small": 95,
}


def measure(name):
    """Parameters and forward FLOP of a configuration."""
    with open(HPARAMS / f"{name}.yaml", encoding="utf-8") as stream:
        model = load_hyperpyyaml(stream, {"data_folder": "."})["model"]
    model = model.to("meta")
    mels = torch.zeros(1, 3000, 128, device="meta")
    masked = torch.zeros(150, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(mels, None, masked)
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, counter.get_total_flops()


def main():
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tflops", type=float, default=395.0)
    sustained = parser.parse_args().tflops * 1e12
    print("| file | parameters | paper | forward | training | GPU hours |")
    print("|---|---|---|---|---|---|")
    for name, paper in PAPER_MILLIONS.items():
        parameters, flops = measure(name)
        hours = 3 * flops * 1024 * 100_000 / sustained / 3600
        print(
            f"| `{name}.yaml` | {parameters / 1e6:.1f} M | {paper} M | "
            f"{flops / 1e9:.0f} GFLOP | {3 * flops / 1e12:.2f} TFLOP | "
            f"{hours:.0f} |"
        )


if __name__ == "__main__":
    main()
