"""Parameters and arithmetic of the pre-training configurations and the peers.

    python benchmarks/cost.py

Counts one 30 s clip through encoder and heads (150 masked positions) with
torch.utils.flop_counter, on shapes alone: nothing is computed. Peers are
counted without heads. A training step costs three times the forward pass. The
hours are those sums for 100,000 steps of 1024 clips on one GPU that sustains
--tflops (default: half of the 790 TFLOP/s that an H200 reaches in bf16); they
are no measurement.
"""

import networks
import side_by_side as bench
import torch

PAPER_MILLIONS = {
    "brn_summary": 164,
    "brn_attention": 187,
    "brn_attention_small": 60,
    "cnf_summary": 302,
    "cnf_attention": 330,
    "cnf_attention_small": 95,
}
OURS = "brn_summary"  # the first that is counted
RESIDUAL = ", residual front end"


def build(name, quick):
    """A network on the meta device, and its arguments for 30 s."""
    mels = torch.zeros(1, 3000, 128, device="meta")
    if name in networks.PEERS:
        network = networks.build_peer(name, quick).to("meta")
        if name == "MERT-330-shaped":
            return network, (torch.zeros(1, 720000, device="meta"),)
        # The features are not counted, for peers as for ours.
        network.forward = network.encode
        return network, (mels,)
    name, residual, _ = name.partition(RESIDUAL)
    model = networks.load_ours(name, quick, bool(residual))["model"]
    masked = torch.zeros(150, dtype=torch.long, device="meta")
    return model.to("meta"), (mels, None, masked)


def measure(name, quick=False):
    """Parameters and forward FLOP of a network."""
    network, inputs = build(name, quick)
    network.eval()
    parameters = sum(p.numel() for p in network.parameters())
    return parameters, bench.flop_of(lambda: network(*inputs))


def main(argv=None):
    """Print the table in Markdown."""
    arguments = bench.parse(
        __doc__, argv, tflops=(395.0, "that one GPU sustains")
    )
    sustained = arguments.tflops * 1e12
    names = [*networks.OURS, f"brn_summary{RESIDUAL}", *networks.PEERS]
    rows, record = [], {}
    for name in names:
        parameters, flop = measure(name, arguments.quick)
        hours = 3 * flop * 1024 * 100_000 / sustained / 3600
        record[name] = {"parameters": parameters, "flop": flop}
        paper = PAPER_MILLIONS.get(name)
        rows.append(
            [
                f"`{name}.yaml`" if paper else name,
                f"{parameters / 1e6:.1f} M",
                f"{paper} M" if paper else "",
                f"{flop / 1e9:.0f} GFLOP",
                f"{flop / record[OURS]['flop']:.2f}x",
                f"{3 * flop / 1e12:.2f} TFLOP",
                f"{hours:.0f}",
            ]
        )
    header = ["file", "parameters", "paper", "forward", "against ours"]
    header += ["training", "GPU hours"]
    flops = {name: found["flop"] / 1e9 for name, found in record.items()}
    draw = bench.bars("GFLOP for 30 s of music, forward", flops)
    bench.report(arguments, "cost", header, rows, record, draw)


if __name__ == "__main__":
    main()
