"""Which front end learns the better features?

    python benchmarks/front_end_training.py --music MUSIC --data STANDINS

Pre-trains `hparams/demo.yaml` on the folder MUSIC with each front end and
several seeds, for the same number of steps; then the cheaper one once more,
for as many steps as the CPU time of the dearer one buys. The last layer of
each encoder is probed on tasks of the folder STANDINS (one folder a recipe, as
`muselq_modules.table` takes it); without it, on the tones of recipes/template.
Interrupted, the same command goes on.
"""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import side_by_side as bench

from muselq_modules.files import write_json, write_text

ROOT = networks.ROOT
SUBSAMPLING = r"    subsampling: .*\n(?:        .*\n)*"
PREFIX = "    subsampling: !name:muselq_modules.subsampling."
# 32 channels, where the literature has 512: the laptop-size encoder takes two
# to three times as long with it.
FRONT_ENDS = {
    "ConvNeXt, kernel 31": "ConvNeXtSubsampling\n        kernel_size: 31\n",
    "ConvNeXt, kernel 7": "ConvNeXtSubsampling\n        kernel_size: 7\n",
    "residual 3x3": "ResidualConvSubsampling\n        channels: 32\n",
}
OURS, DEAR = "ConvNeXt, kernel 31", "residual 3x3"


def with_front_end(front_end):
    """Text of demo.yaml with another front end."""
    text = networks.yaml_text("demo")
    text, count = re.subn(SUBSAMPLING, PREFIX + front_end, text, count=1)
    assert count == 1
    return text


def call(*command):
    """Run a recipe; CPU seconds of it and of its workers."""

    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT)
    return spent() - before


def pretrain(folder, name, seed, steps, arguments):
    """Pre-train in a folder, unless that is done; its record."""
    record = folder / "cost.json"
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        yaml = folder / "front_end.yaml"
        write_text(yaml, with_front_end(FRONT_ENDS[name]))
        options = ["--seed", seed, "--n_steps", steps]
        options += ["--warmup_steps", max(1, steps // 20)]
        options += ["--valid_interval", steps, "--precision", "bf16"]
        options += ["--data_folder", arguments.music]
        options += ["--manifest_folder", arguments.runs / "manifest"]
        options += ["--output_folder", folder]
        if arguments.quick:
            options += ["--segment_s", 2, "--min_tail_s", 1]
            options += ["--statistics_segments", 60, "--valid_segments", 4]
        script = ROOT / "recipes" / "pretrain" / "train.py"
        cpu_s = call(script, yaml, *options)
        write_json(record, {"cpu_s": cpu_s, "steps": steps})
    lines = (folder / "train_log.jsonl").read_text("utf-8").splitlines()
    logged = [json.loads(line) for line in lines]
    valid = [line for line in logged if line["kind"] == "valid"]
    found = json.loads(record.read_text("utf-8"))
    return {**found, "mel_loss": valid[-1]["mel_loss"]}


def probe(folder, arguments):
    """{task: metric} of the encoder of a folder."""
    tasks = [task.split("/") for task in arguments.tasks.split()]
    if not arguments.data:
        tasks = [("template", "timbre")]
    found = {}
    for recipe, task in tasks:
        data = arguments.runs / "tones"
        if arguments.data:
            data = Path(arguments.data) / recipe
        output = folder / "probes"
        script = ROOT / "recipes" / recipe / "train.py"
        options = ["--data_folder", data, "--pretrained", folder]
        options += ["--probe", "{protocol: marble, layer: last, seeds: 3}"]
        yaml = script.parent / "hparams" / f"{task}.yaml"
        call(script, yaml, *options, "--output_folder", output)
        (path,) = output.glob(f"{recipe}_{task}/*/results.json")
        results = json.loads(path.read_text("utf-8"))
        found[f"{recipe} {task}"] = results["test"][results["metrics"][0]][
            "mean"
        ]
    return found


def run_all(arguments):
    """Records of every run: front end, rule, seed, costs and metrics."""
    records = []

    def run(name, rule, seed, steps):
        label = re.sub(r"\W+", "_", f"{name} {rule} {seed}")
        folder = arguments.runs / label
        found = pretrain(folder, name, seed, steps, arguments)
        found["metrics"] = probe(folder, arguments)
        records.append({"name": name, "rule": rule, "seed": seed, **found})
        return found["cpu_s"] / steps

    for seed in range(1, arguments.seeds + 1):
        cost = {
            name: run(name, "same steps", seed, arguments.steps)
            for name in ((OURS, DEAR) if arguments.quick else FRONT_ENDS)
        }
        steps = round(arguments.steps * cost[DEAR] / cost[OURS])
        run(OURS, "same compute", seed, steps)
    return records


def by_case(records):
    """Pairs of (front end, rule) and the runs of its seeds."""
    cases = {}
    for record in records:
        case = record["name"], record["rule"]
        cases.setdefault(case, []).append(record)
    return cases.items()


def table(records):
    """Header and rows: mean over the seeds, and each seed's value."""
    tasks = list(records[0]["metrics"])
    header = ["front end", "rule", "steps", "CPU s a step", "mel loss", *tasks]
    rows = []
    for (name, rule), runs in by_case(records):

        def cell(values):
            each = ", ".join(f"{v:.3f}" for v in values)
            return f"{np.mean(values):.3f} ({each})"

        rows.append(
            [
                name,
                rule,
                "/".join(str(r["steps"]) for r in runs),
                f"{np.mean([r['cpu_s'] / r['steps'] for r in runs]):.3f}",
                cell([r["mel_loss"] for r in runs]),
                *(cell([r["metrics"][t] for r in runs]) for t in tasks),
            ]
        )
    return header, rows


def main(argv=None):
    """Train, probe and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        music=(str(networks.SAMPLES), "folder to pre-train on"),
        data=("", "folder of datasets, one folder a recipe"),
        tasks=("nsynth/pitch nsynth/instrument giantsteps/key", "probed"),
        steps=(1000, "of pre-training"),
        seeds=(2, "of pre-training"),
    )
    if arguments.quick:
        arguments.steps, arguments.seeds = 2, 1
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    arguments.runs = (arguments.output_folder / "front_end_runs").resolve()
    records = run_all(arguments)
    header, rows = table(records)

    def draw(axes):
        for (name, rule), runs in by_case(records):
            axes.scatter(
                [r["cpu_s"] for r in runs],
                [r["mel_loss"] for r in runs],
                label=f"{name}, {rule}",
            )
        axes.set_xlabel("CPU seconds of pre-training")
        axes.set_ylabel("held-out mel loss")
        axes.legend()

    bench.report(
        arguments,
        "front_end_training",
        header,
        rows,
        {"runs": records},
        draw,
    )


if __name__ == "__main__":
    main()
