"""From a command line to the objects of a YAML, and to a run folder

    experiment = load_experiment()   # strict; joins the other torchrun ranks
    start_experiment(experiment)     # output folder, resolved YAML, run.json

Everything that can be wrong is told before anything is constructed.
"""

import logging
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.core import DEFAULT_LOG_CONFIG, create_experiment_directory
from speechbrain.utils import distributed
from speechbrain.utils.run_opts import RunOptions

from muselq_modules.checkpoints import AtomicCheckpointer
from muselq_modules.command_line import (
    check_run_option,
    read_options,
    split_command_line,
    usage,
)
from muselq_modules.configuration import RUN_OPTIONS, check_tree, read_tree
from muselq_modules.errors import UserError
from muselq_modules.hub import parse_hub_id
from muselq_modules.locks import lock_folder
from muselq_modules.ranks import (
    choose_backend,
    join_ranks,
    launched_by_torchrun,
    raise_together,
    sentence,
)
from muselq_modules.run_checks import check_run_opts
from muselq_modules.run_record import record_launch

FOLDERLESS_ENCODERS = ("mel", "mfcc", "chroma")


@dataclass
class Experiment:
    """A loaded configuration, ready to run

    Parameters
    ----------
    hparams : dict
        The constructed objects and values of the YAML.
    run_opts : RunOptions
        The effective run options: default, then YAML, then command line;
        `device` is always set. Hand it to the Brain.
    yaml_path : Path
        The launched YAML.
    overrides : dict
        Keys of the YAML that the command line changed.
    run_options : dict
        Run options of the command line that the YAML does not hold.
    command : list of str
        The command line, script first.
    resolved : dict
        The YAML with references and overrides filled in, nothing constructed.
    """

    hparams: dict
    run_opts: RunOptions
    yaml_path: Path
    overrides: dict
    run_options: dict
    command: list
    resolved: dict = field(repr=False)


def load_experiment(argv=None, data_must_exist=True):
    """Reads the command line, checks the YAML, joins the ranks, constructs

    Parameters
    ----------
    argv : list of str, optional
        The command line without the script; by default that of the process.
    data_must_exist : bool
        Whether `data_folder` is checked here. A downstream recipe leaves that
        to its prepare script, which may make the data or can say what layout
        it expects.

    Returns
    -------
    Experiment

    Raises
    ------
    UserError
        One sentence for anything the user can mend: see the module.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hparams.yaml"
    >>> _ = path.write_text("lr: 0.1\\nmodel: !new:torch.nn.ReLU\\n")
    >>> experiment = load_experiment([str(path), "--lr", "1e-4"])
    >>> experiment.hparams
    {'lr': 0.0001, 'model': ReLU()}
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        print(usage(argv))
        raise SystemExit(0)
    yaml_path, given = split_command_line(argv)
    root = read_tree(yaml_path)
    overrides, run_options, merged = read_options(given, root, yaml_path)
    check_tree(merged, yaml_path)
    resolved = _resolve(yaml_path, overrides)
    run_opts = _run_opts(yaml_path, resolved, run_options, overrides)
    check_run_opts(run_opts)
    join_ranks(run_opts)
    raise_together(_missing_folder(resolved, data_must_exist))
    hparams = _construct(yaml_path, overrides)
    command = [sys.argv[0], *argv]
    return Experiment(
        hparams,
        run_opts,
        Path(yaml_path),
        overrides,
        run_options,
        command,
        resolved,
    )


def _resolve(yaml_path, overrides):
    try:
        with open(yaml_path, encoding="utf-8") as file:
            text = resolve_references(file, overrides)
        return ruamel.yaml.YAML().load(text)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise UserError(f"{yaml_path}: {sentence(error)}") from error


def _construct(yaml_path, overrides):
    try:
        with open(yaml_path, encoding="utf-8") as file:
            return load_hyperpyyaml(file, overrides)
    except UserError:
        raise
    except OSError:
        raise
    except Exception as error:  # whatever a class says to its arguments
        reason = f"{type(error).__name__}: {sentence(error)}"
        raise UserError(f"{yaml_path}: {reason}") from error


def _run_opts(yaml_path, resolved, run_options, overrides):
    values = {}
    for name in sorted(RUN_OPTIONS & set(resolved)):
        value = resolved[name]
        values[name] = value if value is None else _plain_scalar(value)
        check_run_option(name, values[name], f"{name} in {yaml_path}")
    values.update(run_options)
    explicit = {**values}
    world = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    launched = launched_by_torchrun()
    if launched and "distributed_backend" not in explicit:
        values.update(choose_backend(values.get("device"), world))
    if values.get("device") is None:
        values["device"] = distributed.infer_device()
    for name in ("precision", "eval_precision"):
        if values.get(name) == "fp16" and values["device"] == "cpu":
            raise UserError(f"{name} fp16 needs a GPU: on CPU use bf16 or fp32")
    for name in ("data_folder", "output_folder"):
        if name in resolved and not isinstance(resolved[name], str):
            # a folder named 2024 in `!ref <output_folder>/<seed>` is divided
            raise UserError(
                f"{name} is the number {resolved[name]}: name a folder that "
                "is not a sum, such as ./2024"
            )
    changed = {*run_options, *(RUN_OPTIONS & set(overrides)), "device"}
    if launched:
        changed.add("distributed_backend")
    values.setdefault("distributed_backend", "nccl")
    return RunOptions(
        **values, param_file=str(yaml_path), overridden_args=changed
    )


def _plain_scalar(value):
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # drops ruamel's scalar classes
    return list(value) if isinstance(value, list) else value


def _missing_folder(resolved, data_must_exist):
    folder = resolved.get("data_folder") if data_must_exist else None
    if folder is not None and not Path(folder).is_dir():
        return f"data_folder {folder} is no folder: check --data_folder"
    encoder = resolved.get("pretrained")
    if not isinstance(encoder, str) or encoder in FOLDERLESS_ENCODERS:
        return None
    path = encoder.removeprefix("random:")
    is_path = path != encoder or re.search(r"^\.|[/\\]", path)
    if parse_hub_id(path):  # found, or not, where it is loaded
        return None
    if (is_path or not path) and not Path(path or "?").exists():
        return f"pretrained {encoder} does not exist: check --pretrained"
    return None


def start_experiment(experiment):
    """Creates the run folder: resolved YAML, environment, script, run.json

    Parameters
    ----------
    experiment : Experiment
        From `load_experiment`; its hparams hold `output_folder`.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    UserError
        The folder cannot be written, or another run is using it.
    """
    folder = experiment.hparams.get("output_folder")
    if folder is None:
        raise UserError(f"{experiment.yaml_path} has no output_folder: add one")
    folder = Path(folder)
    problem = None
    if distributed.if_main_process():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock_folder(folder)
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = (
                f"output_folder {folder} cannot be written ({error.strerror}): "
                "choose another with --output_folder"
            )
    raise_together(problem)
    try:
        create_experiment_directory(
            experiment_directory=str(folder),
            hyperparams_to_save=str(experiment.yaml_path),
            overrides=experiment.overrides,
            log_config=experiment.run_opts.log_config or DEFAULT_LOG_CONFIG,
        )
    except ValueError as error:
        # Of a log.txt that cannot be opened logging says that it was "unable
        # to configure handler"; what the disk said is its cause.
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    if distributed.if_main_process():
        _finish_folder(folder, experiment)
    distributed.ddp_barrier()
    return folder


def _finish_folder(folder, experiment):
    # SpeechBrain archives the module that called it, which is this one; what
    # reproduces the run is the launched script
    script = Path(experiment.command[0])
    archived = folder / script.name
    (folder / Path(__file__).name).unlink(missing_ok=True)
    if script.suffix == ".py" and script.resolve() != archived.resolve():
        shutil.copy(script, archived)
    sys.excepthook = _excepthook
    for value in experiment.hparams.values():
        if isinstance(value, AtomicCheckpointer):
            value.remove_unfinished()
    record_launch(folder, experiment)


def _excepthook(kind, error, traceback):
    # replaces SpeechBrain's hook: a UserError stays one sentence
    logger = logging.getLogger(__name__)
    if issubclass(kind, UserError):
        logger.error("Error: %s", error)
    else:
        logger.error("Exception:", exc_info=(kind, error, traceback))
