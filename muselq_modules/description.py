"""Descriptions of encoders as files: read from YAML or JSON, written as YAML.

    {"new": class, "arguments": {...}}     an object
    {"name": class, "arguments": {...}}    a class with some of its arguments

Reading runs nothing: a file from anywhere gives plain values or one sentence.
What they may describe is checked in `architecture`.
"""

import json
from pathlib import Path

import ruamel.yaml
from ruamel.yaml.nodes import MappingNode, ScalarNode

from muselq_modules.errors import UserError

# Real ones have a few dozen values in a few kilobytes.
MAX_CHARACTERS = 2**18
MAX_VALUES = 1000
# Everything that bytes from elsewhere have been seen to raise.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
    ruamel.yaml.error.YAMLError,
)


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
        When the file or the key is missing, or the file is no YAML.
    """
    yaml_path = Path(yaml_path)
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(_read(yaml_path))
        for name, node in root.value:
            if name.value == key:
                return _to_json(node, yaml, iter(range(MAX_VALUES)))
    except FileNotFoundError as error:
        raise UserError(
            f"{yaml_path} does not exist: is this a run folder?"
        ) from error
    except UNREADABLE as error:
        raise _unreadable(yaml_path, error) from error
    raise UserError(f"{yaml_path} has no key {key}: is this a run folder?")


def read_json(path):
    """The values in a JSON file.

    Raises
    ------
    UserError
        When it is missing, or no JSON.
    """
    try:
        return json.loads(_read(path))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"{path} cannot be read ({type(error).__name__}: {reason}): copy it "
        "again."
    )


def _read(path):
    path = Path(path)
    with open(path, encoding="utf-8") as stream:
        text = stream.read(MAX_CHARACTERS + 1)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"more than {MAX_CHARACTERS} characters")
    return text


def _to_json(node, yaml, budget):
    # An alias repeats its node: a few lines may stand for billions.
    if next(budget, None) is None:
        raise ValueError(f"more than {MAX_VALUES} values")
    for kind in ("new", "name"):
        prefix = f"!{kind}:"
        if node.tag.startswith(prefix):
            arguments = {}
            if isinstance(node, MappingNode):
                arguments = _mapping(node, yaml, budget)
            return {kind: node.tag[len(prefix) :], "arguments": arguments}
    if isinstance(node, ScalarNode):
        return yaml.constructor.construct_object(node, deep=True)
    if isinstance(node, MappingNode):
        return _mapping(node, yaml, budget)
    return [_to_json(item, yaml, budget) for item in node.value]


def _mapping(node, yaml, budget):
    return {k.value: _to_json(v, yaml, budget) for k, v in node.value}


def to_yaml(description, indent=0):
    """A description as the lines of a HyperPyYAML file.

    Example
    -------
    >>> name = "muselq_modules.features.LogMel"
    >>> print("log_mel:" + to_yaml({"new": name, "arguments": {"n_mels": 64}}))
    log_mel: !new:muselq_modules.features.LogMel
        n_mels: 64
    """
    for kind in ("new", "name"):
        if isinstance(description, dict) and kind in description:
            tag = f" !{kind}:{description[kind]}"
            return tag + to_yaml(description["arguments"], indent)
    if isinstance(description, dict) and description:
        pad = " " * (indent + 4)
        return "".join(
            f"\n{pad}{key}:{to_yaml(value, indent + 4)}"
            for key, value in description.items()
        )
    if description == {}:
        return ""
    text = json.dumps(description)
    if isinstance(description, float) and "." not in text:
        text = text.replace("e", ".0e")  # 1e-05 is a string in YAML
    return f" {text}"
