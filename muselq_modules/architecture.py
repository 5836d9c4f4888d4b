"""What an encoder from elsewhere may be made of.

A description (see `description`) can only arrange layers of muselq_modules.
`check` refuses all else before anything is imported or built, and bounds what
building costs.
"""

import importlib
from functools import partial

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from muselq_modules.description import MAX_VALUES
from muselq_modules.errors import UserError

# Modules whose layers a description may name; a new kind of layer is added
# here to be loadable from a folder.
LAYER_MODULES = (
    "features subsampling summary_mixing attention branchformer conformer"
).split()
ENCODER = "muselq_modules.encoder.MusicEncoder"
FEATURES = "muselq_modules.features.LogMel"
# Version of the layout, written into every config.json.
FORMAT = 1
# Sizes of layers cost nothing before they are compared with the weights.
# These do: they count layers, or size the filters of the features.
LIMITS = {
    "n_layers": (0, 512),
    "n_blocks": (0, 512),
    "n_fft": (1, 2**16),
    "hop_samples": (1, 2**16),
    "n_mels": (1, 2**10),
    "sample_rate": (1, 2**20),
}
ANY_SIZE = (0, 2**24)


def check(config, path):
    """Raise unless a description is that of an encoder of muselq_modules.

    Parameters
    ----------
    config : object
        From JSON, or from `description.describe`.
    path : str or Path
        Where it stands, for the message.

    Raises
    ------
    UserError
        When it names other classes, or asks for absurd sizes.
    """
    if not isinstance(config, dict) or not {"new", "arguments"} <= set(config):
        raise UserError(
            f"{path} describes no encoder: give a folder of MuseLQ, which "
            "other models' are not."
        )
    if config.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{path} has the format {config['format']!r}: update MuseLQ, "
            f"which reads format {FORMAT}."
        )
    if config["new"] != ENCODER:
        raise _foreign(path, config["new"])
    n_values = 0
    pending = [(config, "")]
    while pending:
        value, name = pending.pop()
        n_values += 1
        if n_values > MAX_VALUES:
            raise UserError(
                f"{path} holds more than {MAX_VALUES} values: it is no "
                "encoder's."
            )
        if isinstance(value, dict):
            if value is not config:
                _check_class(value, name, path)
            elif not isinstance(value["arguments"], dict):
                raise _foreign(path, value["new"])
            pending += [(v, k) for k, v in value.items()]
        elif isinstance(value, list):
            pending += [(item, name) for item in value]
        elif name in LIMITS or isinstance(value, int):
            _check_size(value, name, path)


def _check_class(value, name, path):
    """The features are built at once, every layer by the encoder."""
    for kind in ("new", "name"):
        if kind not in value:
            continue
        named = value[kind]
        features = named == FEATURES and name == "log_mel"
        module, _, attribute = str(named).rpartition(".")
        known = [f"muselq_modules.{layer}" for layer in LAYER_MODULES]
        if (kind == "new" and not features) or module not in known:
            raise _foreign(path, named)
        if not attribute.isidentifier() or not isinstance(
            value.get("arguments"), dict
        ):
            raise _foreign(path, named)


def _foreign(path, named):
    shown = " ".join(str(named).split())[:80]
    return UserError(
        f"{path} names {shown}, which is no layer of muselq_modules in that "
        "place: build an encoder with layers of your own from its YAML, not "
        "from a folder."
    )


def _check_size(value, name, path):
    low, high = LIMITS.get(name, ANY_SIZE)
    if not isinstance(value, int) or not low <= value <= high:
        digits = isinstance(value, int) and abs(value) > 10**18
        shown = "a number of many digits" if digits else repr(value)[:40]
        raise UserError(
            f"{path} asks for {name} {shown}, which is no number between "
            f"{low} and {high}: it is no encoder's."
        )


def build(description):
    """Build what a checked description says.

    Raises
    ------
    UserError
        For what is no layer of ``muselq_modules``.

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
            target = find_class(description[kind])
            arguments = build(description["arguments"])
            if kind == "name":
                return partial(target, **arguments)
            return target(**arguments)
    return {name: build(value) for name, value in description.items()}


class _NoInitialValues(TorchFunctionMode):
    """Skips drawing weights: on the meta device that costs a second."""

    DRAWS = (torch.Tensor.uniform_, torch.Tensor.normal_)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Return the tensor of an initialiser as it is."""
        kwargs = kwargs or {}
        module = getattr(function, "__module__", None)
        if function in self.DRAWS or module == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def build_encoder(config, without_values=False):
    """Build the encoder that a checked description says.

    Parameters
    ----------
    config : dict
        Passed by `check`.
    without_values : bool
        On the meta device: layers have shapes, and take no memory. The
        features are real, for what they compute from their settings is not
        among the weights.

    Returns
    -------
    MusicEncoder
    """
    arguments = build(config["arguments"])
    encoder = find_class(config["new"])
    if not without_values:
        return encoder(**arguments)
    with torch.device("meta"), _NoInitialValues():
        return encoder(**arguments)


def find_class(name):
    """A class of the layer modules or the encoder, by its dotted name."""
    module, _, attribute = str(name).rpartition(".")
    target = None
    known = [f"muselq_modules.{m}" for m in (*LAYER_MODULES, "encoder")]
    if module in known:
        target = getattr(importlib.import_module(module), attribute, None)
    # A module also holds what it imported: that is not its own.
    if not (
        isinstance(target, type)
        and issubclass(target, nn.Module)
        and target.__module__ == module
    ):
        raise _foreign("the configuration", name)
    return target
