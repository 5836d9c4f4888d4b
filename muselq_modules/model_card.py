"""The model card of an exported encoder: README.md with a YAML header.

Numbers come from the run's own records and from results.json files; what the
run cannot know (licences, what the music is) is given by the exporter, and
said to be missing otherwise. Paths, commands and file names of the run stay
out of it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from muselq_modules.baselines import BASELINES
from muselq_modules.errors import UserError
from muselq_modules.results import PAPER, collect
from muselq_modules.results_tables import markdown, our_table

NOT_STATED = "not stated"
LIMITS = """\
Made to be used frozen, as features of music for tagging, key, genre,
instruments, singing and the like, or to be fine-tuned. The encoder knows the
music it was trained on: styles that are absent there may be represented badly,
and what is frequent there is favoured. It was not made to recognise persons or
recordings, nor for speech.
"""


@dataclass
class Stated:
    """What only the exporter knows.

    Attributes
    ----------
    name : str
        Title of the card.
    licence : str or None
        Licence of the weights, as the Hub writes it: ``apache-2.0``.
    data : str or None
        What the training music is.
    data_licence : str or None
        And its licence.
    location : str
        What `from_pretrained` takes to load it.
    """

    name: str
    licence: str = None
    data: str = None
    data_licence: str = None
    location: str = "FOLDER"


def model_card(encoder, config, facts, stated, sha256, results=None):
    """The text of the card.

    Parameters
    ----------
    encoder : MusicEncoder
    config : dict
        Its description.
    facts : dict
        From `run_facts`.
    stated : Stated
    sha256 : str
        Of model.safetensors.
    results : str or Path, optional
        Folder with the recipes' runs.

    Returns
    -------
    str
    """
    # Imported here: exporting is the only use of the Hub's card format.
    from huggingface_hub import ModelCardData

    header = ModelCardData(
        license=stated.licence,
        library_name="speechbrain",
        pipeline_tag="feature-extraction",
        tags=["muselq", "music", "audio", "self-supervised", *_kinds(config)],
    )
    downstream = "None is part of this export.\n"
    if results is not None:
        downstream = _downstream(results, encoder.digest())
    parts = [
        f"---\n{header.to_yaml()}\n---\n",
        f"# {stated.name}\n",
        _summary(encoder, config),
        _usage(encoder, stated),
        "## Training data\n",
        _data(facts, stated),
        "## Training\n",
        _training(facts),
        "## Downstream results\n",
        downstream,
        "## Intended use and limits\n",
        LIMITS + _lengths(facts),
        "## Licence\n",
        f"Weights: {stated.licence or NOT_STATED}. Training data: "
        f"{stated.data_licence or NOT_STATED}. Code: Apache-2.0.\n",
        "## Identity\n",
        f"`model.safetensors` sha256 `{sha256}`\n\n"
        f"Encoder digest `{encoder.digest()}`\n",
    ]
    return "\n".join(parts)


def _kinds(config):
    """Tags of the layer and its mixer: branchformer, summary-mixing."""
    layer = config["arguments"].get("layer") or {}
    mixer = layer.get("arguments", {}).get("mixer") or {}
    names = [_class(layer).removesuffix("Layer"), _class(mixer)]
    return [
        re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
        for name in names
        if name
    ]


def _class(description):
    return str(description.get("name", "")).rpartition(".")[2]


def _summary(encoder, config):
    arguments = config["arguments"]
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    layer = arguments.get("layer") or {}
    mixer = layer.get("arguments", {}).get("mixer") or {}
    rows = [
        ["parameters", f"{millions:.1f} M"],
        ["layers", f"{encoder.n_layers} x {_class(layer)}"],
        ["mixer", _class(mixer)],
        ["front end", _class(arguments["subsampling"])],
        ["dimension", str(encoder.dim)],
        ["input", f"mono audio at {encoder.sample_rate} Hz"],
        ["output", f"{encoder.token_rate_hz:g} tokens a second"],
    ]
    return (
        "An encoder of music, pre-trained by MuseLQ to predict at masked "
        "positions the\ntokens of a random-projection quantizer and the mel "
        "frames.\n\n" + markdown(["", ""], rows)
    )


def _usage(encoder, stated):
    return f"""\
## Use

```python
from muselq_modules import MusicEncoder

encoder = MusicEncoder.from_pretrained("{stated.location}")
out = encoder(wav, {encoder.sample_rate})  # wav [batch, samples], mono
```

`out.hidden_states[i]` is `[batch, time, {encoder.dim}]`: 0 after the front end,
{encoder.n_layers} (or -1) the last layer; `out.times` are the seconds of the
tokens. Audio of another rate needs `resample=True`. This loads `config.json`
and `model.safetensors` and runs no code of this repository.

SpeechBrain loads it too, `MusicEncoderInterface` of `muselq_modules.interfaces`
by `from_hparams("{stated.location}")`; that runs `hyperparams.yaml` as code, so
only do it with a copy that you trust.
"""


def _data(facts, stated):
    text = f"{stated.data or 'What the music is was not stated.'}\n"
    data = facts["data"]
    rows = [["licence of the data", stated.data_licence or NOT_STATED]]
    for split, title in (("train", "training"), ("valid", "held out")):
        hours = data.get("hours", {}).get(split)
        files = data.get("files", {}).get(split)
        if hours is not None and files is not None:
            rows.append([title, f"{hours:.2f} h in {files} files"])
    if data.get("digest"):
        rows.append(["digest of the manifests", f"`{data['digest']}`"])
    return f"{text}\n{markdown(['', ''], rows)}"


def _training(facts):
    settings, launch = facts["settings"], facts["launch"]
    rows = []
    if facts["step"] is not None:
        planned = settings.get("n_steps", facts["step"])
        rows.append(["steps", f"{facts['step']} of {planned}"])
    for name in ("global_batch", "segment_s", "peak_lr", "precision"):
        if name in settings:
            rows.append([name, str(settings[name])])
    for name in (
        "token_loss",
        "mel_loss",
        "masked_accuracy",
        "majority_baseline",
        "token_perplexity",
    ):
        if name in facts["valid"]:
            rows.append([f"held-out {name}", f"{facts['valid'][name]:.4g}"])
    if launch:
        git = launch.get("git") or {}
        commit = git.get("commit") or "not recorded"
        if git.get("dirty"):
            commit += ", with uncommitted changes"
        rows += [
            ["started", str(launch.get("started"))],
            ["device", f"{launch.get('world_size')} x {launch.get('device')}"],
            ["seeds", _seeds(launch.get("seeds") or {})],
            ["commit", commit],
            ["versions", _pairs(launch.get("versions"))],
        ]
    if not rows:
        return "The run's records were not part of the export.\n"
    return (
        f"{markdown(['', ''], rows)}\n"
        "Masked accuracy means something only above the majority baseline, "
        "which is what\nguessing the most frequent token always would score.\n"
    )


def _pairs(values):
    return ", ".join(
        f"{name} {value}" for name, value in (values or {}).items()
    )


def _seeds(seeds):
    values = set(seeds.values())
    return str(values.pop()) if len(values) == 1 else _pairs(seeds)


def _lengths(facts):
    seconds = facts["settings"].get("segment_s")
    if seconds is None:
        return ""
    return (
        f"\nIt was trained on segments of {seconds:g} s; longer ones work, but "
        "are outside of\nwhat it has seen.\n"
    )


def _downstream(folder, digest):
    """Our table of the runs of this encoder, with the baselines beside it."""
    runs = [
        run
        for run in collect(folder)
        if run["encoder"]["digest"] == digest
        or run["encoder"]["name"] in BASELINES
    ]
    ours = [run for run in runs if run["encoder"]["digest"] == digest]
    if not ours:
        raise UserError(
            f"No result under {Path(folder)} is of this encoder (digest "
            f"{digest[:12]}): run the recipes with it, or leave --results out."
        )
    tasks = {(run["dataset"], run["task"]) for run in ours}
    runs = [run for run in runs if (run["dataset"], run["task"]) in tasks]
    columns = json.loads(PAPER.read_text("utf-8"))["columns"]
    table = our_table(runs, {"columns": columns, "rows": []})
    seeds = sorted({len(run["seeds"]) for run in ours})
    return (
        f"{markdown(*table)}\n"
        f"Frozen probes, mean over {' or '.join(map(str, seeds))} seeds and "
        "bootstrap 95 % interval over the\ntest rows, on the data that the "
        "recipes were given.\n"
    )
