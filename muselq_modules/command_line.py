"""A strict command line: `train.py YAML --key value | --key=value | --flag`

SpeechBrain's own parser swallows abbreviations (`--prec bf16` is accepted and
ignored), cuts values at ` #` and splits them at `=`. Here an option is exactly
a run option of SpeechBrain or a top-level key of the YAML, and its value has
the type of the value it replaces; text arrives exactly as it was typed.
"""

import re
import typing

from ruamel.yaml.nodes import ScalarNode
from speechbrain.utils.run_opts import RunOptions

from muselq_modules import configuration as tree
from muselq_modules.errors import UserError
from muselq_modules.overrides import (
    BOOLEANS,
    EXPECTED,
    TAG,
    compose,
    convert,
    plain,
    read_node,
)

HINTS = typing.get_type_hints(RunOptions)


def split_command_line(argv):
    """Splits a command line into the YAML file and the options as typed

    Parameters
    ----------
    argv : list of str
        The command line without the script.

    Returns
    -------
    yaml_path : str
    given : dict
        Option -> text; None for an option without a value.

    Raises
    ------
    UserError
        No YAML file, a stray word, or an option given twice.

    Example
    -------
    >>> split_command_line(["a.yaml", "--lr=1e-4", "--debug", "--name", "a=b"])
    ('a.yaml', {'lr': '1e-4', 'debug': None, 'name': 'a=b'})
    """
    files, given, words = [], {}, list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            files.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name in given:
            raise UserError(f"--{name} is given twice: keep one of the two")
        if equals:
            given[name] = value
        elif HINTS.get(name) is bool and name in tree.RUN_OPTIONS:
            follows = words and words[0].lower() in BOOLEANS
            given[name] = words.pop(0) if follows else None
        else:
            follows = words and not words[0].startswith("--")
            given[name] = words.pop(0) if follows else None
    if not files:
        raise UserError("name a YAML file: train.py FILE.yaml --key value")
    if len(files) > 1:
        raise UserError(
            f"{files[1]} belongs to no option: write --key value, with quotes "
            "around a value that holds spaces"
        )
    return files[0], given


def read_options(given, root, yaml_path):
    """Turns options as typed into values of the right type

    Parameters
    ----------
    given : dict
        Option -> text, from `split_command_line`.
    root : MappingNode
        The YAML's tree.
    yaml_path : str
        Its file, for messages.

    Returns
    -------
    overrides : dict
        Key of the YAML -> value, for `load_hyperpyyaml`.
    run_options : dict
        Run option that the YAML does not set -> value.
    merged : MappingNode
        The tree with the overrides in place.

    Raises
    ------
    UserError
        An unknown or abbreviated option, a missing value or a wrong type.
    """
    overrides, run_options = {}, {}
    keys = tree.entries(root)
    merged = dict(keys)
    valid = tree.RUN_OPTIONS | {key for key in keys if key[:2] != "__"}
    for name, text in given.items():
        if name not in valid:
            raise UserError(_unknown(name, valid, yaml_path))
        if name in tree.RUN_OPTIONS:
            value = _run_option(name, text)
            if name not in keys:
                run_options[name] = value
                continue
            node = ScalarNode(f"{TAG}str", str(value), keys[name].start_mark)
        else:
            node = read_node(name, text, keys[name], root)
            value = convert(node, keys[name], root, f"--{name}")
        overrides[name] = value
        merged[name] = tree.merge(keys[name], node, name)
    return overrides, run_options, tree.mapping(merged, root)


def _unknown(name, valid, yaml_path):
    parent, *rest = re.split(r"[.\[]", name.replace("]", ""))
    if rest and parent in valid:
        nested = "{" + ": {".join(rest) + ": VALUE" + "}" * len(rest)
        return f'--{name} is no option: write --{parent} "{nested}"'
    return (
        f"--{name} is neither a key of {yaml_path} nor a run option"
        f"{tree.nearest(name, valid)}"
    )


def check_run_option(name, value, source):
    """Raises a UserError unless `value` fits a run option of SpeechBrain

    Parameters
    ----------
    name : str
        The run option.
    value : object
        Its value.
    source : str
        Where the value stands, for the message.
    """
    hint = HINTS[name]
    options = typing.get_args(hint)
    if type(None) in options:
        if value is None:
            return
        hint = options[0]
    if typing.get_origin(hint) is typing.Literal:
        if value not in typing.get_args(hint):
            names = ", ".join(typing.get_args(hint))
            raise UserError(f"{source} is {value}: {name} is one of {names}")
        return
    hint = typing.get_origin(hint) or hint
    right = isinstance(value, (int, float) if hint is float else hint)
    if not right or (isinstance(value, bool) and hint is not bool):
        kind = {"list": "seq"}.get(hint.__name__, hint.__name__)
        raise UserError(f"{source} is {value}: {name} is {EXPECTED[kind]}")
    if name == "max_grad_norm" and not value > 0:
        # a negative one would not disable clipping but turn gradients around
        raise UserError(
            f"{source} is {value}: max_grad_norm is above 0; a huge value such "
            "as 1e9 never clips"
        )


def _run_option(name, text):
    if text is None and HINTS[name] is bool:
        return True
    if text is None:
        raise UserError(f"--{name} has no value: add one after it")
    value = text
    if HINTS[name] is not str and not text.startswith("!"):
        value = plain(compose(text, name), text)
        if typing.get_origin(HINTS[name]) is typing.Literal or (
            HINTS[name] == typing.Optional[str] and value is not None  # noqa: UP045
        ):
            value = text
    check_run_option(name, value, f"--{name}")
    return value


def usage(argv):
    """The text of --help: how to call, and the keys when a YAML is named"""
    lines = ["usage: SCRIPT.py FILE.yaml [--key value | --key=value | --flag]"]
    for path in (word for word in argv if word.endswith((".yaml", ".yml"))):
        keys = tree.entries(tree.read_tree(path))
        names = [f"--{key}" for key in keys if key[:2] != "__"]
        lines += [f"keys of {path}:", *(f"  {name}" for name in names)]
    lines += ["run options:", *(f"  --{n}" for n in sorted(tree.RUN_OPTIONS))]
    return "\n".join(lines)
