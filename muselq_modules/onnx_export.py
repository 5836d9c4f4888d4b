"""An encoder as one ONNX file, for onnxruntime and other runtimes.

The file takes a waveform and gives hidden states; sizes of batch and length
are free. Weights are stored as ``fp32``, as ``fp16`` (half the size, computed
in float32) or as ``int8`` (a quarter, linear layers computed in integers);
`onnx_weights` has the details.
"""

import contextlib
import importlib
import logging
import os
import warnings
from pathlib import Path

import torch

from muselq_modules.errors import UserError
from muselq_modules.hidden_states import choose_layers
from muselq_modules.onnx_weights import WEIGHTS, fold, store_weights
from muselq_modules.torch_export import graph_facts, trace_encoder

# The first with a GELU of its own; onnxruntime since 1.17.
OPSET = 20
# A protobuf message cannot be larger.
MAX_BYTES = 2**31


def export_onnx(
    encoder,
    path,
    layers=(-1,),
    pool="none",
    padded=False,
    weights="fp32",
    **facts,
):
    """Write an encoder as an ONNX file, whole or not at all.

    Inputs are ``wav`` float32 [batch, samples] at the encoder's rate and, when
    ``padded``, ``n_samples`` int64 [batch]. Outputs are ``layer_<i>`` [batch,
    tokens, dim], or [batch, dim] when pooled, and ``n_tokens`` int64 [batch]
    when ``padded``; see `EncoderGraph.forward`.

    Parameters
    ----------
    encoder : MusicEncoder
        With float32 weights, on the CPU.
    path : str or Path
        The file to write.
    layers : list of int or None
        Hidden states to return; negative numbers from the end, None is all.
        Layers above the highest are left out of the file.
    pool : str
        ``none`` or ``mean`` over the tokens.
    padded : bool
        Whether clips of a batch may differ in length.
    weights : str
        ``fp32``, ``fp16`` or ``int8``.
    **facts : str
        Stored as metadata beside those of `graph_facts`.

    Returns
    -------
    Path

    Raises
    ------
    UserError
        When the extra ``[export]`` is missing, or for a layer that the
        encoder does not have.
    """
    path = Path(path)
    for package in ("onnx", "onnxscript"):
        require(package)
    if weights not in WEIGHTS:
        raise UserError(
            f"weights {weights} do not exist: take {', '.join(WEIGHTS)}."
        )
    if weights == "int8":
        require("onnxruntime")
    chosen = choose_layers(layers, encoder.n_layers)
    program = trace_encoder(encoder, chosen, pool, padded, portable=True)
    facts = {**graph_facts(encoder, chosen, pool), **facts, "weights": weights}
    with _quiet():
        model = torch.onnx.export(
            program,
            input_names=["wav", *["n_samples"] * padded],
            output_names=[
                *(f"layer_{i}" for i in chosen),
                *["n_tokens"] * padded,
            ],
            opset_version=OPSET,
            verbose=False,
        ).model
        fold(model)
        _name_sizes(model)
        _forget_source(model)
        model.metadata_props.clear()
        model.metadata_props.update(facts)
        proto = store_weights(model, weights)
    if proto.ByteSize() >= MAX_BYTES:
        raise UserError(
            f"{path} would have {proto.ByteSize() / 1e9:.1f} GB and an ONNX "
            "file has less than 2: store the weights as fp16 or int8."
        )
    building = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        building.write_bytes(proto.SerializeToString())
        os.replace(building, path)
    finally:
        building.unlink(missing_ok=True)
    return path


def require(package):
    """Import a package of the extra ``[export]``.

    Raises
    ------
    UserError
        When it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{package} is not installed: pip install 'muselq[export]'."
        ) from error


def _name_sizes(model):
    """Names of the variable sizes, for those who read the file."""
    for values, names in (
        (model.graph.inputs, ("batch", "samples")),
        (model.graph.outputs, ("batch", "tokens")),
    ):
        for value in values:
            for axis, size in enumerate(value.shape):
                if not isinstance(size, int):
                    value.shape[axis] = names[axis]


def _forget_source(model):
    """Leave out where each operator comes from: files and lines of Python."""
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextlib.contextmanager
def _quiet():
    """Without notes about packages and steps that do not concern a user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
