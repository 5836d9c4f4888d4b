"""Evaluate an encoder on a downstream task: what every recipe's train.py runs.

    prepare (manifests) -> label pipeline -> windows -> embeddings, once
    -> probes (seeds x learning rates x layers) -> choice on validation
    -> metrics of the test split with intervals -> run folder

The choice of layer, learning rate and epoch reads the validation split; the
test split is predicted afterwards and decides nothing. The test metric of the
layers that were not chosen is reported for the reader, as is usual.

Under torchrun the ranks share the encoding. Frozen probes then train on the
main rank, which takes less than sharing them out would, while the others
wait; with ``finetune`` all ranks train.
"""

import json
import re
import time
from pathlib import Path

import numpy as np
from speechbrain.utils.distributed import (
    ddp_barrier,
    if_main_process,
    run_on_main,
)

from muselq_modules import metrics
from muselq_modules.baselines import load_any_encoder
from muselq_modules.embeddings import cache_digest, embed
from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.experiment import load_experiment, start_experiment
from muselq_modules.files import write_json
from muselq_modules.probe_brain import ProbeBrain
from muselq_modules.probe_checks import check_task
from muselq_modules.probe_data import (
    SPLITS,
    class_names,
    load_split,
)
from muselq_modules.probe_head import ProbeHead
from muselq_modules.probe_report import score, write_tables
from muselq_modules.probe_training import (
    Setup,
    cached_layers,
    candidate_layers,
    seeds_of,
    train_candidates,
)
from muselq_modules.run_record import device_name, git_state, versions

__all__ = ["ProbeBrain", "ProbeHead", "run_probe"]

# Keys of the probe block that change how fast a result comes, not the result.
SPEED_KEYS = ("overwrite", "cache_folder", "embed_batch_s", "workers")
# Run options of SpeechBrain that change the result.
RUN_OPTIONS = ("precision", "max_grad_norm", "remove_vector_weight_decay")


@exits_cleanly
def run_probe(prepare, label_pipeline, brain_class=ProbeBrain, argv=None):
    """Prepare, embed, train probes, score; the whole of a recipe.

    Parameters
    ----------
    prepare : callable
        Called as ``prepare(data_folder, manifest_folder, **options)`` with
        the YAML's ``prepare`` mapping; writes train, valid and test.csv.
    label_pipeline : DynamicItem or dict
        Made by SpeechBrain's ``takes`` and ``provides``: columns of the
        manifest (and ``labels``, the lines of labels.txt) -> an int, a list
        of 0 and 1, or a list of floats. A dict holds one for each ``task``.
    brain_class : type
        `ProbeBrain` or a subclass of it.
    argv : list of str, optional
        Command line. Default: that of the process.

    Returns
    -------
    Path
        The run folder ``<output_folder>/<dataset>_<task>/<encoder name>``.

    Raises
    ------
    SystemExit
        With code 2 and one sentence, for mistakes of the user or the data.
    """
    started = time.time()
    experiment = load_experiment(argv, data_must_exist=False)
    hparams = experiment.hparams
    check_task(experiment, prepare)
    name = encoder_name(hparams["pretrained"])
    task_folder = Path(
        hparams["output_folder"], f"{hparams['dataset']}_{hparams['task']}"
    )
    cache_folder = hparams["probe"]["cache_folder"] or Path(
        hparams["output_folder"], "embeddings"
    )
    manifest_folder = task_folder / "manifests"
    # First, for a misspelt encoder should not be told after the data is read.
    device = experiment.run_opts.device
    encoder = load_any_encoder(hparams["pretrained"], device)
    run_on_main(
        prepare,
        args=[hparams["data_folder"], manifest_folder],
        kwargs=dict(hparams["prepare"]),
    )
    pipeline = choose_pipeline(label_pipeline, hparams["task"])
    splits = {
        split: load_split(manifest_folder, split, pipeline, hparams, encoder)
        for split in SPLITS
    }
    layers = candidate_layers(hparams, encoder)
    # All arguments of embed that decide what is in the cache.
    to_embed = (
        encoder,
        [window for split in splits.values() for window in split.windows],
        hparams["data_folder"],
    )
    identity = describe_run(experiment, splits, encoder)
    identity["embeddings"] = cache_digest(
        *to_embed, cached_layers(layers, encoder)
    )
    folder = task_folder / name
    if not hparams["probe"]["overwrite"] and is_finished(folder, identity):
        if if_main_process():
            print(
                f'{folder} is finished; --probe "{{overwrite: True}}" '
                "repeats it."
            )
        return folder
    hparams["output_folder"] = str(folder)
    start_experiment(experiment)
    cache = embed(
        *to_embed,
        cache_folder,
        cached_layers(layers, encoder),
        batch_s=hparams["probe"]["embed_batch_s"],
        workers=hparams["probe"]["workers"],
        device=device,
    )
    setup = Setup(hparams, experiment.run_opts, encoder, device, brain_class)
    # Fine-tuning takes every rank, frozen probes the main one.
    if if_main_process() or hparams["probe"]["finetune"]:
        candidates = train_candidates(layers, splits, cache, setup)
    if if_main_process():
        record = {
            "encoder": {
                "name": name,
                "spec": str(hparams["pretrained"]),
                "source": getattr(encoder, "source", None),
                "digest": encoder.digest(),
            },
            **identity,
            "device": device_name(device),
            "commit": git_state(),
            "versions": versions(),
        }
        names = class_names(splits, pipeline, hparams, manifest_folder)
        report(folder, record, candidates, splits, names, hparams, started)
    ddp_barrier()
    return folder


def choose_pipeline(label_pipeline, task):
    """The pipeline of the task, where a recipe has one for each."""
    if not isinstance(label_pipeline, dict):
        return label_pipeline
    if task not in label_pipeline:
        raise UserError(
            f"task {task} does not exist: choose among "
            f"{', '.join(label_pipeline)}."
        )
    return label_pipeline[task]


def encoder_name(spec):
    """Short name of an encoder, for folders and tables.

    A run folder that is named after its seed gets that of its parent too, a
    model of the Hub keeps its revision.

    Example
    -------
    >>> encoder_name("mel"), encoder_name("random:results/brn_summary/1234")
    ('mel', 'random_brn_summary_1234')
    >>> encoder_name("mert:95M"), encoder_name("python:my_module.my_encoder")
    ('mert_95M', 'my_module.my_encoder')
    >>> encoder_name("org/name@v2")
    'name@v2'
    """
    random, path = "", str(spec)
    scheme, _, rest = path.partition(":")
    if scheme == "python":
        return rest
    if scheme == "mert":
        name = Path(rest).resolve().name if Path(rest).is_dir() else rest
        return "mert_" + re.sub(r"[^\w.-]", "_", name)
    if path.startswith("random:"):
        random, path = "random_", path.removeprefix("random:")
    if path in ("mel", "mfcc", "chroma"):
        return path
    path = Path(path).resolve()
    name = f"{path.parent.name}_{path.name}"
    return random + (name if path.name.isdigit() else path.name)


def describe_run(experiment, splits, encoder):
    """All that decides the result: a finished run has the same."""
    hparams, run_opts = experiment.hparams, experiment.run_opts
    probe = {
        key: value
        for key, value in hparams["probe"].items()
        if key not in SPEED_KEYS
    }
    keys = (
        "dataset",
        "task",
        "loss",
        "metrics",
        "monitor",
        "n_outputs",
        "window_s",
        "seed",
    )
    return {
        **{key: hparams[key] for key in keys},
        "prepare": dict(hparams["prepare"]),
        "protocol": probe["protocol"],
        "run_options": {n: getattr(run_opts, n) for n in RUN_OPTIONS},
        "probe": probe,
        "encoder_digest": encoder.digest(),
        "manifests": {name: split.digest for name, split in splits.items()},
    }


def is_finished(folder, identity):
    """Whether the run folder holds the result of these very settings."""
    try:
        found = dict(json.loads((folder / "results.json").read_text("utf-8")))
    except (OSError, TypeError, ValueError):
        return False  # not there, or damaged: repeated
    # Through JSON, as the file went: tuples and YAML types become plain.
    identity = json.loads(json.dumps(identity, default=str))
    return all(found.get(key) == value for key, value in identity.items())


def report(folder, record, candidates, splits, names, hparams, started):
    """Write the run folder and print the headline."""
    chosen = max(candidates, key=lambda candidate: candidate.score)
    test, headline = splits["test"], hparams["metrics"][0]
    # An older result must not stand beside the new tables.
    (folder / "results.json").unlink(missing_ok=True)
    write_tables(folder, test, chosen.predictions, names, hparams)
    scores = {
        name: score(name, test, chosen.predictions)
        for name in hparams["metrics"]
    }
    layers = []
    for candidate in candidates:
        values = [
            metrics.compute(headline, test.labels, p, test.groups)
            for p in candidate.predictions
        ]
        layers.append(
            {
                "layer": candidate.layer,
                "learning_rate": candidate.learning_rate,
                "valid": float(np.mean(candidate.valid)),
                "test": float(np.mean(values)),
                "layer_weights": candidate.layer_weights,
            }
        )
    content = {
        **record,
        "seeds": seeds_of(hparams),
        "layer": chosen.layer,
        "learning_rate": chosen.learning_rate,
        "best_epochs": chosen.epochs,
        "valid": {hparams["monitor"]: chosen.valid},
        "test": scores,
        "layers": layers,
        "counts": {
            name: {"rows": len(split.rows), "windows": len(split.windows)}
            for name, split in splits.items()
        },
        "labels": names,
        "seconds": round(time.time() - started, 1),
    }
    write_json(folder / "results.json", content)
    print(f"\n{hparams['dataset']} {hparams['task']}, {folder.name}:")
    for name, value in scores.items():
        low, high = value["interval"]
        print(f"  {name:22s} {value['mean']:.4f} [{low:.4f}, {high:.4f}]")
    print(
        f"  layer {chosen.layer}, {len(scores[headline]['per_seed'])} seeds, "
        f"{len(test.rows)} test rows -> {folder}"
    )
