"""Encoders on disk: a description that runs no code, and the weights.

A run folder holds ``encoder/config.json`` (the encoder's part of the YAML, as
plain JSON) and ``encoder/model.safetensors``. Loading builds classes of
``muselq_modules`` and ``torch`` only, by name, and reads tensors; nothing in
a folder from elsewhere can run.
"""

import importlib
import json
import os
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import ruamel.yaml
import torch
from ruamel.yaml.nodes import MappingNode, ScalarNode
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from muselq_modules.errors import UserError

TRUSTED_MODULES = ("muselq_modules.", "torch.nn.")
RANDOM = "random:"


def describe(yaml_path, key):
    """One object of a resolved YAML as JSON values, without building it.

    Parameters
    ----------
    yaml_path : str or Path
        A run's hyperparams.yaml.
    key : str
        Top-level key of the object.

    Returns
    -------
    dict
        ``{"new": class, "arguments": {...}}``; ``!name:`` gives ``"name"``.

    Raises
    ------
    UserError
        When the file or the key is missing.
    """
    yaml_path = Path(yaml_path)
    if not yaml_path.is_file():
        raise UserError(f"{yaml_path} does not exist: is this a run folder?")
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    with open(yaml_path, encoding="utf-8") as stream:
        root = yaml.compose(stream)
    for name, node in root.value:
        if name.value == key:
            return _to_json(node, yaml)
    raise UserError(f"{yaml_path} has no key {key}: is this a run folder?")


def _to_json(node, yaml):
    for kind in ("new", "name"):
        prefix = f"!{kind}:"
        if node.tag.startswith(prefix):
            arguments = {}
            if isinstance(node, MappingNode):
                arguments = {k.value: _to_json(v, yaml) for k, v in node.value}
            return {kind: node.tag[len(prefix) :], "arguments": arguments}
    if isinstance(node, ScalarNode):
        return yaml.constructor.construct_object(node, deep=True)
    if isinstance(node, MappingNode):
        return {k.value: _to_json(v, yaml) for k, v in node.value}
    return [_to_json(item, yaml) for item in node.value]


def build(description):
    """Build what :func:`describe` described.

    Raises
    ------
    UserError
        For a class outside ``muselq_modules`` and ``torch.nn``.

    Example
    -------
    >>> name = "muselq_modules.features.FrameStacking"
    >>> build({"new": name, "arguments": {"factor": 2}})
    FrameStacking()
    >>> build({"new": "os.system", "arguments": {"command": "true"}})
    Traceback (most recent call last):
        ...
    muselq_modules.errors.UserError: the configuration names os.system, ...
    """
    if isinstance(description, list):
        return [build(item) for item in description]
    if not isinstance(description, dict):
        return description
    for kind in ("new", "name"):
        if kind in description:
            target = _trusted(description[kind])
            arguments = build(description["arguments"])
            if kind == "name":
                return partial(target, **arguments)
            return target(**arguments)
    return {name: build(value) for name, value in description.items()}


def _trusted(name):
    module, _, attribute = str(name).rpartition(".")
    target = None
    if f"{module}.".startswith(TRUSTED_MODULES):
        try:
            target = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            target = None
    if not (
        isinstance(target, type)
        and issubclass(target, torch.nn.Module)
        and target.__module__.startswith(("muselq_modules", "torch.nn"))
    ):
        raise UserError(
            f"the configuration names {name}, which is no layer of "
            "muselq_modules or torch.nn: build an encoder with layers of your "
            "own from its YAML, not from a folder."
        )
    return target


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
    state = {k: v.contiguous().cpu() for k, v in encoder.state_dict().items()}
    save_file(state, folder / "model.safetensors.tmp")
    (folder / "config.json.tmp").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )
    for name in ("model.safetensors", "config.json"):
        os.replace(folder / f"{name}.tmp", folder / name)
    return folder


def load_encoder(spec, device="cpu", seed=1234):
    """An encoder, frozen and in evaluation mode.

    Parameters
    ----------
    spec : str or Path
        A run folder, a folder with config.json and model.safetensors, or
        ``random:<folder>`` for the same architecture, untrained (its mel
        statistics are kept).
    device : str or torch.device
        Where to put it.
    seed : int
        Seed of the weights of ``random:``.

    Returns
    -------
    MusicEncoder

    Raises
    ------
    UserError
        When the folder holds no encoder, or one that does not fit.
    """
    untrained = str(spec).startswith(RANDOM)
    folder = Path(str(spec).removeprefix(RANDOM))
    if (folder / "encoder" / "config.json").is_file():
        folder = folder / "encoder"
    if (folder / "config.json").is_file():
        config_path = folder / "config.json"
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
            state = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"the encoder in {folder} cannot be read ({error}): copy it "
                "again."
            ) from error
    else:
        config_path = folder / "hyperparams.yaml"
        config = describe(config_path, "encoder")
        state = _newest_checkpoint(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            encoder = build(config)
            if not isinstance(encoder, torch.nn.Module):
                raise TypeError("it describes no encoder")
            if untrained:
                statistics = {
                    name: value
                    for name, value in state.items()
                    if name.startswith(("log_mel.", "whitening."))
                }
                encoder.load_state_dict(statistics, strict=False)
            else:
                encoder.load_state_dict(state, strict=True)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the weights in {folder} do not fit {config_path}: {reason}"
            ) from error
    return encoder.requires_grad_(False).eval().to(device)


def _newest_checkpoint(run_folder):
    """Encoder weights of a run that has not finished."""
    checkpoints = sorted((run_folder / "save").glob("CKPT+*/model.ckpt"))
    if not checkpoints:
        raise UserError(
            f"{run_folder} holds neither encoder/ nor a checkpoint in save/: "
            "give the output_folder of a pre-training run."
        )
    newest = checkpoints[-1]
    try:
        state = torch.load(newest, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        raise UserError(
            f"{newest} is damaged: remove its folder to load the checkpoint "
            "before it."
        ) from error
    prefix = "encoder."
    return {
        name[len(prefix) :]: tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
