"""How an ONNX file stores the weights of an encoder: fp32, fp16 or int8.

* ``fp16`` halves the file. Weights are cast to float32 when it is loaded, so
  it runs as fast, and where there is no arithmetic in half precision.
* ``int8`` stores the linear layers, 99 % of the weights of brn_summary, as
  integers with a scale for each output, and multiplies them with activations
  that are quantised as they come (dynamic quantisation: no calibration data).
  Integers have 7 bits: processors without VNNI add two products in 16 bits,
  which 8 bits overflow. Convolutions are stored as float16; in a Conformer
  they are 8 % of the weights, with the residual front end another 8 %.

Log-mel features and their whitening are float32 in every form.
"""

import tempfile
from pathlib import Path

import numpy as np

WEIGHTS = ("fp32", "fp16", "int8")
# Operators that only pick or turn parts of a weight.
PICKING = ("Gather", "Reshape", "Slice", "Squeeze", "Transpose")
# Modules whose numbers are left as they are.
FEATURES = ("log_mel", "whitening")


def fold(model):
    """Replace parts of weights, picked in the graph, by weights of their own.

    The tables of the log-mel are left alone: what is looked up in them is a
    thousand times as large.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place.
    """
    from onnxscript.optimizer import fold_constants

    def picks(node):
        return node.op_type in PICKING and _is_weight(node.inputs[0])

    fold_constants(model, output_size_limit=2**31, should_fold=picks)


def store_weights(model, weights):
    """The model with its weights in another form.

    Parameters
    ----------
    model : onnx_ir.Model
        Folded; changed in place.
    weights : str
        One of `WEIGHTS`.

    Returns
    -------
    onnx.ModelProto
    """
    import onnx_ir as ir

    if weights == "fp16":
        _halve(model.graph, ("Conv", "MatMul"))
    if weights != "int8":
        return ir.to_proto(model)
    _halve(model.graph, ("Conv",))
    linear = [
        node.name
        for node in model.graph
        if node.op_type == "MatMul" and _is_weight(node.inputs[1])
    ]
    return _quantise(ir.to_proto(model), linear)


def _quantise(proto, nodes):
    """The products of these names in integers."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            proto,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=True,
        )
        return onnx.load(path)


def _is_weight(value):
    """Whether a value of the graph is a matrix or filter of the encoder."""
    tensor = value.const_value
    return (
        value.is_initializer()
        and tensor.dtype.name == "FLOAT"
        and len(tensor.shape) > 1
        and not any(name in value.name for name in FEATURES)
    )


def _halve(graph, consumers):
    """Store the weights of some operators as float16, cast when loaded."""
    import onnx_ir as ir

    first = graph[0]
    for name, value in list(graph.initializers.items()):
        users = {node.op_type for node, _ in value.uses()}
        if not _is_weight(value) or not users <= set(consumers):
            continue
        array = value.const_value.numpy().astype(np.float16)
        half = ir.Value(name=f"{name}.fp16", const_value=ir.tensor(array))
        graph.register_initializer(half)
        attributes = {"to": ir.DataType.FLOAT}
        cast = ir.node("Cast", [half], attributes, name=f"{name}.cast")
        graph.insert_before(first, cast)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
