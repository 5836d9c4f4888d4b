"""Write an encoder as one ONNX or torch.export file, waveform to hidden states.

    python -m muselq_modules.export_graph results/brn_summary/1234 brn.onnx
    python -m muselq_modules.export_graph SPEC brn_int8.onnx --weights int8
    python -m muselq_modules.export_graph SPEC brn.pt2 --layers 0,6,12

The file needs neither this package nor SpeechBrain: ``.onnx`` runs in
onnxruntime, ``.pt2`` in PyTorch. It takes float32 waveforms [batch, samples]
of any batch and length, at the encoder's sample rate.
"""

import re
from pathlib import Path

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.extract import parse_layers
from muselq_modules.onnx_export import export_onnx
from muselq_modules.onnx_weights import WEIGHTS
from muselq_modules.pretrained import RANDOM, find_encoder, load_encoder
from muselq_modules.torch_export import POOLS, save_program


def licence_of(spec):
    """The licence that the model card beside an encoder states, or None."""
    config = find_encoder(str(spec).removeprefix(RANDOM)).config_path
    card = config.with_name("README.md")
    if not card.is_file():
        return None
    header = re.match(r"---\n(.*?)\n---", card.read_text("utf-8"), re.DOTALL)
    stated = (
        re.search(r"^license: *(\S+)$", header[1], re.M) if header else None
    )
    return stated[1] if stated else None


@exits_cleanly
def main(argv=None):
    """The command line."""
    parser = CommandParser(
        prog="python -m muselq_modules.export_graph",
        description="Write an encoder as one ONNX or torch.export file.",
    )
    parser.add_argument("spec", help="run folder, exported folder or Hub id")
    parser.add_argument("out", help="file to write: .onnx or .pt2")
    parser.add_argument(
        "--layers",
        default="last",
        help="last, all, or numbers such as 0,6,-1; 0 = after subsampling",
    )
    parser.add_argument(
        "--pool", choices=POOLS, default="none", help="mean: one vector a clip"
    )
    parser.add_argument(
        "--padded",
        action="store_true",
        help="take clips of different length, padded, and their n_samples",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="fp32",
        help="how an .onnx file stores them",
    )
    given = parser.parse_args(argv)
    out = Path(given.out)
    if out.suffix not in (".onnx", ".pt2"):
        raise UserError(f"{out} must end in .onnx or .pt2.")
    if not out.resolve().parent.is_dir():
        raise UserError(f"{out.parent} does not exist: make it first.")
    if out.suffix == ".pt2" and given.weights != "fp32":
        raise UserError(
            f"a .pt2 file has no {given.weights} weights: export to .onnx."
        )
    encoder = load_encoder(given.spec)
    chosen = parse_layers(given.layers, encoder.n_layers)
    # The name only: where the folder lies is of no use to others.
    facts = {"source": Path(encoder.source).name}
    if "@" in encoder.source:
        facts["source"] = encoder.source
    if licence := licence_of(given.spec):
        facts["license"] = licence
    print(f"Tracing {encoder.n_layers} layers takes a minute or two ...")
    what = (encoder, out, chosen, given.pool, given.padded)
    if out.suffix == ".onnx":
        export_onnx(*what, given.weights, **facts)
    else:
        save_program(*what, **facts)
    shape = "[batch, tokens, {}]" if given.pool == "none" else "[batch, {}]"
    outputs = ", ".join(f"layer_{i}" for i in chosen)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, takes wav [batch, samples] "
        f"at {encoder.sample_rate} Hz, gives {outputs} "
        f"{shape.format(encoder.dim)}."
    )


if __name__ == "__main__":
    main()
