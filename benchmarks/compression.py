"""What do smaller weights cost: size, speed, fidelity and a probe's metric?

    python benchmarks/compression.py --pretrained results/demo \\
        --tasks recipes/gtzan/hparams/genre.yaml=/data/gtzan

The encoder (without `--pretrained`, brn_summary with random weights) is
written in every form, and each form is run as its user would run it. Speed is
that of a 30 s clip; fidelity compares the last hidden states with those of
float32 in PyTorch, on the music of `--songs` at 16 bit. Each task, a recipe
and its data, is probed twice: by probes trained on a form's own embeddings,
and by those that were trained on float32 and meet the form in the test.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import compression_probes
import networks
import onnx
import onnx_ir
import side_by_side as bench
import torch

from muselq_modules.audio_data import read_segment
from muselq_modules.onnx_encoder import OnnxEncoder
from muselq_modules.onnx_export import export_onnx
from muselq_modules.onnx_weights import WEIGHTS, store_weights
from muselq_modules.weights import halve, read_weights, write_weights

# Name -> stored as float16, and type in memory.
IN_PYTORCH = {
    "PyTorch fp32": (False, torch.float32),
    "PyTorch fp32, fp16 on disk": (True, torch.float32),
    "PyTorch bf16, fp16 on disk": (True, torch.bfloat16),
}
BASE = next(iter(IN_PYTORCH))


@dataclass
class Form:
    """An encoder whose weights have one form."""

    file: Path
    encoder: torch.nn.Module

    def encode(self, wav):
        """Last hidden states [batch, time, dim]."""
        encoder = self.encoder
        out = encoder(wav, encoder.sample_rate, layers=[encoder.n_layers])
        return out.hidden_states[0]


def make_forms(encoder, folder):
    """Write an encoder in every form and load each.

    Parameters
    ----------
    encoder : MusicEncoder
    folder : Path

    Returns
    -------
    dict of Form
    """
    folder.mkdir(parents=True, exist_ok=True)
    forms = {}
    for name, (half, computed) in IN_PYTORCH.items():
        file = folder / f"{'half' if half else 'whole'}.safetensors"
        state = encoder.state_dict()
        write_weights(halve(state) if half else state, file)
        loaded = copy.deepcopy(encoder)
        loaded.load_state_dict(read_weights(file), strict=True)
        forms[name] = Form(file, loaded.to(computed).eval())
    traced = export_onnx(encoder, folder / "fp32.onnx")
    for weights in WEIGHTS:
        file = folder / f"{weights}.onnx"
        onnx.save(store_weights(onnx_ir.load(traced), weights), file)
        forms[f"ONNX {weights}"] = Form(file, OnnxEncoder(file))
    return forms


def read_clips(songs, seconds):
    """Waveforms [1, samples] of music as a 16-bit file holds it."""
    clips = [read_segment(s, 0.0, seconds, networks.SAMPLE_RATE) for s in songs]
    return [clip[None].mul(2**15).round().div(2**15) for clip in clips]


def fidelity(forms, clips):
    """Distance of the last hidden states from those of `BASE`.

    Returns
    -------
    dict
        Name -> ``relative_error``, the norm of the difference by the norm,
        over all clips; ``largest`` difference; least ``cosine`` of a token.
    """
    expected = [forms[BASE].encode(clip).double() for clip in clips]
    norm = sum(x.square().sum() for x in expected)
    found = {}
    for name, form in forms.items():
        states = [form.encode(clip).double() for clip in clips]
        pairs = list(zip(states, expected, strict=True))
        error = sum((x - y).square().sum() for x, y in pairs)
        cosine = [torch.cosine_similarity(x, y, -1).min() for x, y in pairs]
        found[name] = {
            "relative_error": float((error / norm).sqrt()),
            "largest": float(max((x - y).abs().max() for x, y in pairs)),
            "cosine": float(min(cosine)),
        }
    return found


@torch.inference_mode()
def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        **networks.OPTIONS,
        clips=(12, "of 30 s, whose states are compared"),
        n_layers=(0, "lowest layers to keep, to try it; 0 keeps all"),
        tasks=("", "recipe's YAML=data folder, separated by commas"),
        probe=("{}", "--probe of the recipes"),
    )
    seconds, n_clips = 30.0, arguments.clips
    if arguments.quick:
        seconds, n_clips = 1.0, 2
    encoder = networks.load_encoder(arguments.pretrained, arguments.quick)
    encoder.requires_grad_(False)
    if arguments.n_layers:
        encoder.n_layers = arguments.n_layers
        encoder.layers = encoder.layers[: encoder.n_layers]
    work = arguments.output_folder / "compression"
    forms = make_forms(encoder, work)
    wav = networks.noise(seconds)
    times, _ = bench.interleave(
        {
            name: lambda form=form: form.encode(wav)
            for name, form in forms.items()
        },
        arguments.repetitions,
        budget_s=300.0,
    )
    songs = networks.find_songs(arguments.songs)
    distances = fidelity(forms, read_clips(songs[:n_clips], seconds))
    scores = {
        name: compression_probes.scores(
            {key: form.encoder for key, form in forms.items()},
            *task.split("="),
            work,
            arguments.probe,
        )
        for task in filter(None, arguments.tasks.split(","))
        for name in [Path(task.split("=")[0]).stem]
    }
    speed = {name: bench.ratio(times, BASE, name) for name in forms}
    header = ["weights", "MB", "speed", "relative error", "least cosine"]
    header += [f"{task}, {kind}" for task in scores for kind in scores[task]]
    rows = [
        [
            name,
            f"{form.file.stat().st_size / 1e6:.1f}",
            bench.as_times(speed[name]),
            f"{distances[name]['relative_error']:.1e}",
            f"{distances[name]['cosine']:.5f}",
            *(
                "{:.3f} [{:.3f}, {:.3f}]".format(
                    scored[name]["mean"], *scored[name]["interval"]
                )
                for kinds in scores.values()
                for scored in kinds.values()
            ),
        ]
        for name, form in forms.items()
    ]
    record = {
        "encoder": encoder.digest(),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "bytes": {name: f.file.stat().st_size for name, f in forms.items()},
        "cpu_seconds": times,
        "fidelity": distances,
        "scores": scores,
    }
    draw = bench.bars("MB", {row[0]: float(row[1]) for row in rows})
    bench.report(arguments, "compression", header, rows, record, draw)


if __name__ == "__main__":
    main()
