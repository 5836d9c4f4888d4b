"""How long does it take to embed a piece of music in one pass?

    python benchmarks/embedding.py                  30 s
    python benchmarks/embedding.py --seconds 300    5 minutes
    python benchmarks/embedding.py --seconds 300 --layers 1,3

From waveform to the last layer, one clip, float32: our Branchformer with
SummaryMixing against networks of the peers' shapes. `--against` names the
peers, separated by commas; the pass over 5 minutes takes MERT a quarter of an
hour. With `--layers 1,3` peers run with one and with three of their layers,
which are all alike, and what the others take is counted from the difference.
"""

import networks
import side_by_side as bench
import torch

OURS = "brn_summary"


LAYERS = {"MusicFM-shaped": 12}  # the other peers have 24


def build(name, quick, **size):
    """A function from waveforms to hidden states."""
    torch.manual_seed(0)
    if name not in networks.PEERS:
        encoder = networks.load_ours(name, quick)["encoder"].eval()
        return lambda wav: encoder(wav, networks.SAMPLE_RATE, layers=[-1])
    return networks.build_peer(name, quick, **size).eval()


def with_all_layers(seconds, name, few, many):
    """Seconds of a peer from those with ``few`` and with ``many`` layers."""
    return [
        a + (b - a) / (many - few) * (LAYERS.get(name, 24) - few)
        for a, b in zip(
            seconds.pop(f"{name}, {few}"), seconds.pop(f"{name}, {many}")
        )
    ]


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        seconds=(30, "length of the music"),
        against=(",".join(networks.PEERS), "peers, separated by commas"),
        layers=("", "two depths that peers run with, such as 1,3; else all"),
    )
    length_s = 2 if arguments.quick else arguments.seconds
    wav = networks.noise(length_s)
    peers = arguments.against.split(",")
    depths = [int(depth) for depth in arguments.layers.split(",") if depth]
    embedders = {OURS: build(OURS, arguments.quick)}
    for peer in peers:
        if not depths:
            embedders[peer] = build(peer, arguments.quick)
        for depth in depths:
            embedders[f"{peer}, {depth}"] = build(
                peer, arguments.quick, n_layers=depth
            )

    def runner(embed):
        def run():
            with torch.no_grad():
                embed(wav)

        return run

    runs = {name: runner(embed) for name, embed in embedders.items()}
    seconds, peaks = bench.interleave(runs, arguments.repetitions, 180.0)
    record = {"length_s": length_s, "layers": depths, "measured": dict(seconds)}
    for peer in peers if depths else []:
        peaks[peer] = peaks[f"{peer}, {depths[1]}"]
        seconds[peer] = with_all_layers(seconds, peer, *depths)
    rows = []
    for name, values in seconds.items():
        peak = peaks[name]
        against = bench.ratio(seconds, name, OURS)
        record[name] = {
            "seconds": values,
            "peak_mib": peak,
            "against_ours": against,
        }
        rows.append(
            [
                name,
                f"{min(values):.2f}",
                bench.as_times(against),
                "" if peak is None else f"{peak:.0f}",
            ]
        )
    header = ["network", "CPU-s", "against ours", "peak MiB"]
    times = {name: min(values) for name, values in seconds.items()}
    draw = bench.bars(f"CPU-s for {length_s} s of music", times)
    bench.report(
        arguments, f"embedding_{length_s}s", header, rows, record, draw
    )


if __name__ == "__main__":
    main()
