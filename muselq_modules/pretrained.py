"""Encoders on disk and on the Hub: saved by a run, loaded by everybody.

A run folder holds ``encoder/config.json`` (the encoder's part of the YAML, as
plain JSON) and ``encoder/model.safetensors``; an exported folder holds the two
files themselves. Loading arranges layers of ``muselq_modules`` by name and
reads numbers; nothing in a folder from elsewhere can run, and a folder cannot
ask for more memory than its weights take.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from muselq_modules.architecture import FORMAT, build_encoder, check
from muselq_modules.description import describe, read_json
from muselq_modules.errors import UserError
from muselq_modules.files import write_text
from muselq_modules.hub import download, parse_hub_id
from muselq_modules.weights import fitting_weights, write_weights

RANDOM = "random:"
STATISTICS = ("log_mel.", "whitening.")
PROJECT = Path(__file__).resolve().parents[1]
# Travels with the code; found from any working directory.
SMALL_ENCODER = "pretrained/brn_summary_tiny"
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    torch.float32: torch.float32,
    torch.bfloat16: torch.bfloat16,
}


def save_encoder(encoder, run_folder):
    """Write ``encoder/`` into a run folder, atomically.

    Parameters
    ----------
    encoder : MusicEncoder
        As it is now.
    run_folder : str or Path
        Holds the run's hyperparams.yaml.

    Returns
    -------
    Path
        The written folder.
    """
    run_folder = Path(run_folder)
    folder = run_folder / "encoder"
    folder.mkdir(parents=True, exist_ok=True)
    config = describe(run_folder / "hyperparams.yaml", "encoder")
    write_weights(encoder.state_dict(), folder / "model.safetensors")
    write_config(config, folder / "config.json")
    return folder


def write_config(config, path):
    """Write a description as config.json, whole or not at all."""
    text = json.dumps({"format": FORMAT, **config}, indent=2) + "\n"
    write_text(path, text)


def load_encoder(
    spec, device="cpu", seed=1234, revision=None, dtype=torch.float32
):
    """An encoder, frozen and in evaluation mode.

    Parameters
    ----------
    spec : str or Path
        A run folder; a folder with config.json and model.safetensors; a Hub
        id ``org/name`` or ``org/name@revision``; or ``random:`` and one of
        these for the same architecture, untrained (its mel statistics are
        kept). A folder goes before a Hub id, and ``pretrained/...`` is also
        found in the repository.
    device : str, torch.device or None
        Where to put it; None takes the fastest there is.
    seed : int
        Seed of the weights of ``random:``.
    revision : str, optional
        Branch, tag or commit of a Hub id.
    dtype : torch.dtype or str
        Type of the weights, ``fp32`` or ``bf16``. Log-mel frames are always
        made in float32.

    Returns
    -------
    MusicEncoder
        Its ``source`` says what was loaded: the folder, or
        ``org/name@commit``.

    Raises
    ------
    UserError
        When there is no encoder, or one that does not fit.
    """
    device = choose_device(device)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype} is not supported: take fp32 or bf16.")
    untrained = str(spec).startswith(RANDOM)
    stored = find_encoder(str(spec).removeprefix(RANDOM), revision)
    try:
        encoder = build_encoder(stored.config, without_values=True)
        state = fitting_weights(encoder, stored.weights, stored.config_path)
        if untrained:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                encoder = build_encoder(stored.config)
            state = {
                name: value
                for name, value in state.items()
                if name.startswith(STATISTICS)
            }
        encoder.load_state_dict(state, strict=not untrained, assign=True)
    except UserError:
        raise
    except Exception as error:
        # Whatever a wrong value in a description leads to.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{stored.config_path} describes no working encoder "
            f"({type(error).__name__}: {reason}): copy it again."
        ) from error
    encoder.source = f"{RANDOM}{stored.source}" if untrained else stored.source
    encoder.requires_grad_(False).eval()
    return encoder.to(device=device, dtype=DTYPES[dtype])


def choose_device(device=None):
    """A device that is there; None chooses the fastest.

    Example
    -------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if device is None:
        if torch.accelerator.is_available():
            return torch.accelerator.current_accelerator()
        return torch.device("cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise UserError(
            f"device {device} is not there: take cpu, or None for the fastest "
            "there is."
        ) from error
    return device


@dataclass
class StoredEncoder:
    """Where an encoder was found.

    Attributes
    ----------
    config : dict
        Its checked description.
    config_path : Path
        Where the description stands.
    weights : Path
        A safetensors file, or a checkpoint of a run that has not finished.
    source : str
        What finds the very same: the folder, or ``org/name@commit``.
    """

    config: dict
    config_path: Path
    weights: Path
    source: str


def find_encoder(spec, revision=None):
    """Find the files of an encoder, on disk or on the Hub.

    Parameters
    ----------
    spec : str
        As for `load_encoder`, without ``random:``.
    revision : str, optional
        Of a Hub id.

    Returns
    -------
    StoredEncoder

    Raises
    ------
    UserError
        When there is none, or its description is not an encoder's.
    """
    folder = _local_folder(spec)
    if folder is None:
        if not parse_hub_id(spec):
            raise UserError(
                f"{spec} does not exist: give a run folder, an exported folder "
                "or a Hub id org/name."
            )
        # Never the layouts of a run: those may lead to a pickle.
        folder, source = download(spec, revision)
        return _stored(folder / "config.json", source)
    if revision is not None:
        raise UserError(
            f"{folder} is a folder, which has no revision {revision}: leave "
            "revision out."
        )
    source = str(folder.resolve())
    for path in (folder / "encoder", folder):
        if (path / "config.json").is_file():
            return _stored(path / "config.json", source)
    config_path = folder / "hyperparams.yaml"
    config = describe(config_path, "encoder")
    check(config, config_path)
    checkpoints = sorted((folder / "save").glob("CKPT+*/model.ckpt"))
    if not checkpoints:
        raise UserError(
            f"{folder} holds neither encoder/ nor a checkpoint in save/: "
            "give the output_folder of a pre-training run."
        )
    return StoredEncoder(config, config_path, checkpoints[-1], source)


def _stored(config_path, source):
    config = read_json(config_path)
    check(config, config_path)
    weights = config_path.with_name("model.safetensors")
    return StoredEncoder(config, config_path, weights, source)


def _local_folder(spec):
    """The folder that a spec names, or None."""
    path = Path(spec).expanduser()
    if path.is_file():
        raise UserError(f"{path} is a file: give the folder that holds it.")
    if path.is_dir():
        return path
    if path.parts[:1] == ("pretrained",) and (PROJECT / path).is_dir():
        return PROJECT / path
    return None
