"""The strict command line, the YAML checks and the run folder"""

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.experiment import load_experiment, start_experiment
from muselq_modules.ranks import choose_backend

RECIPE = """\
seed: 3
__set_seed: !apply:speechbrain.utils.seed_everything [!ref <seed>]
data_folder: !PLACEHOLDER
output_folder: !ref results/demo/<seed>
name: demo
note: null
precision: fp32
optimizer_step_limit: null
lr: 0.1
steps: 5
double: !ref <steps> * 2
same: !ref <lr>
shuffle: True
sizes: [1, 2]
window: (3, 4)
prepare: {}
loader: {workers: 0}
masking: !include:blocks/masking.yaml
    probability: 0.2
front: !include:blocks/masking.yaml
optimizer: !name:torch.optim.Adam
    lr: !ref <lr>
model: !new:torch.nn.Linear
    in_features: 4
    out_features: !ref <steps>
"""
BLOCK = """\
probability: 0.1
fill: zeros
window_ms: 400
generator: !new:torch.nn.Dropout
    p: !ref <probability>
"""


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path):
    """Writes a recipe; `old` is replaced by `new`, in the block with block="""
    (tmp_path / "blocks").mkdir()
    (tmp_path / "data").mkdir()

    def write(old="", new="", block=BLOCK):
        assert old in RECIPE
        (tmp_path / "blocks" / "masking.yaml").write_text(block)
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace(old, new) if old else RECIPE)
        return path

    return write


def load(path, *options):
    data = ["--data_folder", str(path.parent / "data")]
    if any(option.startswith("--data_folder") for option in options):
        data = []
    return load_experiment([str(path), *data, *options])


def refusal(path, *options):
    with pytest.raises(UserError) as caught:
        load(path, *options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("attempt", [1, 2])  # HyperPyYAML keeps global state
def test_loads_objects_and_typed_overrides(write, attempt):
    path = write()
    loaded = load(
        path,
        *["--lr", "1e-4", "--steps=7", "--shuffle", "False"],
        *["--masking", "{probability: 0.3}", "--note", "null"],
        *["--sizes", "[5, 6]", "--window", "(5, 6)"],
        *["--prepare", "{subset: pitch, n: 3}", "--loader", "{workers: 2}"],
        *["--optimizer", "{lr: 1, eps: 1e-6}", "--model", "{bias: False}"],
    )
    hparams = loaded.hparams
    assert load(path).hparams["window"] == (3, 4)
    assert hparams["lr"] == hparams["same"] == 1e-4
    assert hparams["model"].weight.shape == (7, 4)
    assert hparams["model"].bias is None
    assert hparams["double"] == 14
    assert hparams["shuffle"] is False
    assert hparams["note"] is None
    assert hparams["sizes"] == [5, 6]
    assert hparams["window"] == (5, 6)
    assert hparams["prepare"] == {"subset": "pitch", "n": 3}
    assert hparams["loader"] == {"workers": 2}
    assert hparams["optimizer"].keywords == {"lr": 1, "eps": 1e-6}
    assert hparams["masking"]["generator"].p == 0.3
    assert hparams["masking"]["fill"] == "zeros"
    assert loaded.run_opts.device == "cpu" or torch.cuda.is_available()


AWKWARD = [
    "a=b",
    "a #b",
    "a: b",
    "{a: 5}",
    "[1]",
    "(live)",
    "$HOME",
    "two  spaces ",
    "5",
    "1e-4",
    "null",
    "True",
    "",
    "#",
    "'quoted'",
    '"double"',
    "back\\slash",
    "- item",
    "*star",
    "&and",
    "%",
    "@",
    "`",
    "é 音楽",
    "long " * 60,
    "a\tb",
    "-5",
    "x: [",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_text_arrives_as_typed(write, text):
    assert load(write(), f"--name={text}").hparams["name"] == text
    loaded = load(write(), "--name", text)
    assert loaded.hparams["name"] == text
    assert loaded.resolved["name"] == text


@pytest.mark.parametrize("name", ["a=b", "a #b", "a: b", "{a}", "$x y"])
def test_folders_arrive_as_typed(write, name):
    path = write()
    folder = path.parent / name
    folder.mkdir()
    loaded = load(path, f"--data_folder={folder}")
    assert loaded.hparams["data_folder"] == str(folder)


UNKNOWN = [
    ("--prec", "bf16", "precision"),
    ("--learning_rate", "1", "--learning_rate is neither"),
    ("--step", "1", "steps"),
    ("--data-folder", "x", "data_folder"),
    ("--log", "x", "log_config"),
    ("--masking.probability", "1", '--masking "{probability: VALUE}"'),
    ("--masking[a][b]", "1", '--masking "{a: {b: VALUE}}"'),
    ("--__set_seed", "1", "--__set_seed is neither"),
    ("--distributed_launch", "1", "--distributed_launch is neither"),
]


@pytest.mark.parametrize("option, value, hint", UNKNOWN)
def test_unknown_options_are_refused(write, option, value, hint):
    sentence = refusal(write(), option, value)
    assert option in sentence
    assert hint in sentence


WRONG = [
    (["--lr"], "--lr has no value"),
    (["--lr", "--debug"], "--lr has no value"),
    (["--shuffle"], "--shuffle has no value"),
    (["--lr", "fast"], "--lr is fast: it must be a number"),
    (["--lr", "nan"], "--lr is nan: it must be a number"),
    (["--note", ".nan"], "--note is .nan: it must be anything but NaN"),
    (["--lr", ".nan"], "--lr is .nan: it must be a number"),
    (["--lr", "0.1 # low"], "--lr is 0.1 # low: it must be a number"),
    (["--lr", "0.1 extra"], "--lr is 0.1 extra: it must be a number"),
    (["--lr", "null"], "--lr is null: it must be a number"),
    (["--steps", "1.5"], "--steps is 1.5: it must be a whole number"),
    (["--double", "x"], "--double is x: it must be a number"),
    (["--shuffle", "yes"], "--shuffle is yes: it must be True or False"),
    (["--sizes", "3"], "--sizes is 3: it must be a list"),
    (["--sizes", "[a]"], "--sizes is a: it must be a whole number"),
    (["--window", "3"], "--window is 3: it must be a tuple"),
    (["--masking", "3"], "--masking is 3: it must be a mapping"),
    (["--masking", "{probabilty: 1}"], "did you mean probability?"),
    (["--masking", "{precision: bf16}"], "precision is a run option"),
    (["--masking", "{fill: a, fill: b}"], "fill is given twice"),
    (["--masking", "{fill: !apply:os.getcwd []}"], "tags are not taken"),
    (["--masking", "{probability: high}"], "must be a number"),
    (["--masking", "{window_ms: high}"], "must be a whole number"),
    (["--front", "{fill: x}"], "--front cannot be replaced"),
    (["--loader", "{worker: 1}"], "did you mean workers?"),
    (["--model", "{in_feature: 1}"], "did you mean in_features?"),
    (["--model", "5"], "--model is 5: it must be a mapping"),
    (["--name", "!apply:os.getcwd"], "tags are not taken"),
    (["--lr", "!ref <steps>"], "tags are not taken"),
    (["--lr", "1", "--lr", "2"], "--lr is given twice"),
    (["--debug", "--debug"], "--debug is given twice"),
    (["stray"], "stray belongs to no option"),
    (["-lr", "5"], "-lr belongs to no option"),
    (["--precision", "fp8"], "precision is one of fp32, fp16, bf16"),
    (["--precision"], "--precision has no value"),
    (["--precision", "fp16", "--device", "cpu"], "precision fp16 needs a GPU"),
    (["--eval_precision", "fp16", "--device", "cpu"], "eval_precision fp16"),
    (["--optimizer_step_limit", "x"], "optimizer_step_limit is a whole number"),
    (["--nonfinite_patience", "1.5"], "nonfinite_patience is a whole number"),
    (["--debug=maybe"], "debug is True or False"),
    (["--max_grad_norm", "-1"], "max_grad_norm is above 0"),
    (["--max_grad_norm", "x"], "max_grad_norm is a number"),
    (["--data_folder", "/no/such"], "data_folder /no/such is no folder"),
    (["--name", "\udcff"], "--name is not valid UTF-8"),
]


@pytest.mark.parametrize("options, part", WRONG)
def test_wrong_values_are_refused(write, options, part):
    assert part in refusal(write(), *options)


def test_missing_data_folder(write):
    with pytest.raises(UserError) as caught:
        load_experiment([str(write())])
    sentence = "data_folder is missing: add --data_folder DIR"
    assert str(caught.value) == sentence


def test_no_yaml(tmp_path):
    with pytest.raises(UserError, match="name a YAML file"):
        load_experiment(["--lr", "1"])
    with pytest.raises(UserError, match="missing.yaml cannot be read"):
        load_experiment([str(tmp_path / "missing.yaml")])


FAULTS = [
    ("    probability: 0.2", "    probabilty: 0.2", "mean probability?"),
    ("    probability: 0.2", "    precision: bf16", "precision is a run opt"),
    ("{workers: 0}", "{debug: True}", "debug is a run option"),
    ("blocks/masking.yaml\n    p", "blocks/mask.yaml\n    p", "under recipes/"),
    ("front: !inc", "<<: !inc", "would drop the file"),
    ("steps: 5", "lr: 5", "lr is given twice"),
    ("workers: 0", "workers: 0, workers: 1", "workers is given twice"),
    ("steps: 5", "steps: [5", "line 11 is not valid YAML"),
    ("torch.nn.Linear", "torch.nn.Linearr", "no torch.nn.Linearr to import"),
    ("torch.nn.Linear", "torch.manual_seed", "manual_seed is not a class"),
    ("torch.optim.Adam", "nowhere.Adam", "line 21: there is no nowhere.Adam"),
    ("in_features: 4", "in_feature: 4", "mean in_features?"),
    ("    in_features: 4\n", "", "missing a required argument"),
    ("    lr: !ref", "    lrs: !ref", "has no key lrs"),
    ("    lr: !ref", "    precision: !ref", "precision is a run option"),
    ("!ref <lr>\nsh", "!ref <lrr>\nsh", "refers to <lrr>"),
    ("precision: fp32", "precision: fp8", "precision is one of"),
    ("precision: fp32", "max_grad_norm: -1", "max_grad_norm is above 0"),
    ("precision: fp32", "debug: 3", "debug is True or False"),
    ("demo/<seed>", "<steps>/<seed>", "output_folder is the number"),
    ("    in_features: 4", "    in_features: four", "recipe.yaml"),
    ("name: demo", "pretrained: /no/model", "pretrained /no/model does not"),
    ("name: demo", "pretrained: random:/no", "pretrained random:/no does"),
    ("name: demo", "pretrained: !PLACEHOLDER", "add --pretrained DIR"),
    ("name: demo", "other: !PLACEHOLDER", "add --other VALUE"),
    (
        "in_features: 4",
        "in_features: !PLACEHOLDER",
        "model.in_features is miss",
    ),
]


@pytest.mark.parametrize("old, new, part", FAULTS)
def test_faulty_yaml_is_refused(write, old, new, part):
    if "output_folder" in part:
        new = "!ref <steps>/<seed>"
        old = "!ref results/demo/<seed>"
    assert part in refusal(write(old, new))


@pytest.mark.parametrize(
    "block, part",
    [
        ("max_grad_norm: 1\nprobability: 1", "max_grad_norm is a run option"),
        ("probability: !PLACEHOLDER\nx: !PLACEHOLDER", "masking.x is missing"),
        ("probability: 1\nx: !include:masking.yaml", "includes itself"),
        ("probability: 1\nx: !include:y.yaml", "y.yaml, which is not there"),
        ("probability: 1\nx: !ref <seed>", "refers to <seed>"),
        ("- 1", "must hold"),
    ],
)
def test_faulty_blocks_are_refused(write, block, part):
    assert part in refusal(write(block=block))


def test_a_module_that_cannot_be_imported(write, monkeypatch):
    path = write("torch.nn.Linear", "brokenmodule.Linear")
    (path.parent / "brokenmodule.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(path.parent))
    assert "no_such_package" in refusal(path)


def test_run_options_reach_the_yaml_or_the_record(write):
    loaded = load(write(), "--precision", "bf16", "--debug", "--device=cpu")
    assert loaded.overrides["precision"] == "bf16"
    assert loaded.hparams["precision"] == "bf16"
    assert loaded.run_opts.precision == "bf16"
    assert loaded.run_options == {"debug": True, "device": "cpu"}
    assert loaded.run_opts.debug is True
    assert "debug" in loaded.run_opts.overridden_args
    loaded = load(write(), "--debug", "False", "--optimizer_step_limit", "9")
    assert loaded.run_opts.debug is False
    assert loaded.hparams["optimizer_step_limit"] == 9


def test_baselines_need_no_folder(write):
    path = write("name: demo", "pretrained: !PLACEHOLDER")
    assert load(path, "--pretrained", "mel").hparams["pretrained"] == "mel"
    random = f"random:{path.parent}"
    assert load(path, "--pretrained", random).hparams["pretrained"] == random


def test_help_lists_the_keys(write, capsys):
    with pytest.raises(SystemExit) as caught:
        load_experiment([str(write()), "--help"])
    assert caught.value.code == 0
    assert "--shuffle" in capsys.readouterr().out


def run_folder(loaded, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    describe = "speechbrain.utils.logger.get_environment_description"
    monkeypatch.setattr(describe, lambda: "environment")
    return start_experiment(loaded)


def test_run_folder(write, tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text("pass\n")
    monkeypatch.setattr(sys, "argv", [str(script)])
    folder = tmp_path / "run"
    options = ["--output_folder", str(folder), "--precision", "bf16"]
    awkward = "a #b: {c} = $d"
    for _ in range(2):
        loaded = load(write(), *options, f"--name={awkward}", "--debug")
        assert run_folder(loaded, monkeypatch) == folder
    assert (folder / "env.log").read_text() == "environment"
    assert (folder / "train.py").exists()
    assert not (folder / "experiment.py").exists()
    text = (folder / "hyperparams.yaml").read_text()
    saved = yaml.load(text.replace("!", "#"), Loader=yaml.SafeLoader)
    assert saved["precision"] == "bf16"
    assert saved["name"] == awkward
    launches = json.loads((folder / "run.json").read_text())["launches"]
    assert len(launches) == 2
    first = launches[0]
    assert first["command"][0] == str(script)
    assert first["run_options"] == {"debug": True}
    assert first["overrides"]["name"] == awkward
    assert first["seeds"] == {"seed": 3}
    assert first["world_size"] == 1
    assert first["versions"]["torch"].startswith("2.")
    assert first["started"].endswith("Z")
    assert first["git"] is None or len(first["git"]["commit"]) == 40


def test_the_saved_yaml_loads_again(write, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    loaded = load(write(), "--output_folder", str(folder), "--name", "(x)")
    run_folder(loaded, monkeypatch)
    again = load_experiment([str(folder / "hyperparams.yaml")])
    assert again.hparams["name"] == "(x)"
    assert again.hparams["masking"]["generator"].p == 0.2


def test_a_damaged_record_is_not_overwritten(write, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{")
    loaded = load(write(), "--output_folder", str(folder))
    with pytest.raises(UserError, match="run.json is damaged"):
        run_folder(loaded, monkeypatch)


def test_an_output_folder_that_cannot_be_made(write, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    loaded = load(write(), "--output_folder", str(tmp_path / "file" / "run"))
    with pytest.raises(UserError, match="cannot be written"):
        run_folder(loaded, monkeypatch)


HOLDER = """\
import sys, time
from muselq_modules.locks import lock_folder
lock_folder(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""


def test_two_runs_in_one_folder(tmp_path):
    pytest.importorskip("fcntl")
    from muselq_modules.locks import lock_folder

    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=str(tmp_path)):
            lock_folder(tmp_path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    lock_folder(tmp_path)  # released by the operating system
    lock_folder(tmp_path)  # the same process may start again


def test_torchrun_backends(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    on_cpu = {"distributed_backend": "gloo", "device": "cpu"}
    assert choose_backend(None, 2) == on_cpu
    assert choose_backend("cpu", 2) == {"distributed_backend": "gloo"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_backend(None, 2) == {"distributed_backend": "nccl"}
    with pytest.raises(UserError, match="4 processes but there are 2 GPUs"):
        choose_backend(None, 4)


def test_a_log_that_cannot_be_opened(write, tmp_path, monkeypatch, capfd):
    """What the disk says is heard through the set-up of logging."""

    def no_space(handler):
        code = errno.ENOSPC
        raise OSError(code, os.strerror(code), handler.baseFilename)

    monkeypatch.setattr(logging.FileHandler, "_open", no_space)
    loaded = load(write(), "--output_folder", str(tmp_path / "run"))
    with pytest.raises(SystemExit) as end:
        exits_cleanly(run_folder)(loaded, monkeypatch)
    assert end.value.code == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert "log.txt cannot be read or written (No space left" in error


TORCHRUN = """\
import sys
from muselq_modules.errors import exits_cleanly
from muselq_modules.experiment import load_experiment, start_experiment
import torch

@exits_cleanly
def main():
    loaded = load_experiment()
    start_experiment(loaded)
    print("ranks", torch.distributed.get_world_size(), loaded.run_opts.device)
    torch.distributed.destroy_process_group()

main()
"""


@pytest.mark.parametrize("good", [True, False])
def test_torchrun_on_cpu(write, tmp_path, good):
    script = tmp_path / "train.py"
    script.write_text(TORCHRUN)
    root = Path(__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    data = tmp_path / ("data" if good else "nothing")
    done = subprocess.run(
        [
            *[sys.executable, "-m", "torch.distributed.run", "--standalone"],
            *["--nproc_per_node=1", str(script), str(write())],
            *["--data_folder", str(data)],
            *["--output_folder", str(tmp_path / "run")],
        ],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    if good:
        assert done.returncode == 0, done.stderr
        assert "ranks 1 cpu" in done.stdout
        assert (tmp_path / "run" / "run.json").exists()
    else:
        assert done.returncode != 0
        assert "Error: data_folder" in done.stderr
