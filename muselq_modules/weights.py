"""The weights of an encoder: a safetensors file, its sizes known beforehand.

The file is a header and raw numbers: nothing in it can run. Its header is
compared with the described layers before a byte of memory is taken for them.
"""

import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from muselq_modules.errors import UserError
from muselq_modules.files import whole_file

# A header has about 100 bytes a tensor; the library would take 100 MB.
MAX_HEADER_BYTES = 2**22
DTYPES = ("F32", "BF16", "F16")
# Modules of an encoder that hold statistics of the training music.
STATISTICS = ("log_mel.", "whitening.")
# Differences told before the others are only counted.
MAX_TOLD = 2


def write_weights(state, path):
    """Write tensors, whole or not at all; equal tensors give equal bytes.

    Parameters
    ----------
    state : dict of torch.Tensor
        A state_dict.
    path : str or Path
        Gets the permissions of any new file: save_file's are the owner's.
    """
    path = Path(path)
    state = {name: t.contiguous().cpu() for name, t in state.items()}
    with whole_file(path, "wb") as file:
        file.write(save(state, {"format": "pt"}))


def halve(state):
    """A state_dict in float16, the statistics of the features left alone.

    Half the bytes on disk; what reads it computes in float32 again.

    Example
    -------
    >>> state = {"log_mel.mean": torch.ones(1), "norm.bias": torch.ones(1)}
    >>> [x.dtype for x in halve(state).values()]
    [torch.float32, torch.float16]
    """
    return {
        name: tensor if name.startswith(STATISTICS) else tensor.half()
        for name, tensor in state.items()
    }


def read_shapes(path):
    """Shape of each tensor of a safetensors file, none of them loaded.

    Returns
    -------
    dict of tuple

    Raises
    ------
    UserError
        When it is no sound safetensors file of floating-point numbers.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            (n_bytes,) = struct.unpack("<Q", file.read(8))
        if n_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"its header says {n_bytes} bytes")
        shapes = {}
        # Checks that offsets, shapes and the size of the file agree.
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                entry = file.get_slice(name)
                if entry.get_dtype() not in DTYPES:
                    raise ValueError(f"{name} is {entry.get_dtype()}")
                shapes[name] = tuple(entry.get_shape())
    except (OSError, ValueError, SafetensorError, struct.error) as error:
        raise UserError(
            f"{path} cannot be read ({_one_line(error)}): copy it again."
        ) from error
    return shapes


def read_weights(path):
    """Tensors of a safetensors file, in float32, in memory of their own.

    The library maps the file; a copy outlives its replacement.
    """
    try:
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({_one_line(error)}): copy it again."
        ) from error
    return {
        name: tensor.to(torch.float32, copy=True)
        for name, tensor in tensors.items()
    }


def read_checkpoint(path):
    """The encoder's tensors in a checkpoint of a run that has not finished.

    A checkpoint is a pickle: it is read by torch's reader of tensors, which
    builds nothing else. It is a zip archive, too, which torch never packs:
    one that unfolds to more than its size is somebody's trap.

    Returns
    -------
    dict of torch.Tensor
        As they were saved; views may be larger than what they show.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise zipfile.BadZipFile("packed")
        state = torch.load(path, map_location="cpu", weights_only=True)
        prefix = "encoder."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix) and tensor.is_floating_point()
        }
    except (
        AttributeError,
        EOFError,
        OSError,
        RuntimeError,
        UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(
            f"{path} is damaged: remove its folder to load the checkpoint "
            "before it."
        ) from error


def fitting_weights(module, path, config_path):
    """Tensors of a file that are exactly those of a module, name by name.

    Parameters
    ----------
    module : torch.nn.Module
        May be on the meta device, where it takes no memory.
    path : Path
        A safetensors file, compared before it is loaded, or a checkpoint.
    config_path : Path
        Where the description of the module stands, for the message.

    Returns
    -------
    dict of torch.Tensor

    Raises
    ------
    UserError
        Names what is missing, unexpected or of another shape.
    """
    if path.suffix == ".safetensors":
        _require_fit(module, read_shapes(path), path, config_path)
        return read_weights(path)
    state = read_checkpoint(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    _require_fit(module, shapes, path, config_path)
    return {name: t.to(torch.float32) for name, t in state.items()}


def _require_fit(module, shapes, path, config_path):
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    faults = [f"{name} is missing" for name in wanted if name not in shapes]
    faults += [f"{name} is unexpected" for name in shapes if name not in wanted]
    faults += [
        f"{name} has the shape {list(shapes[name])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    if faults:
        more = len(faults) - MAX_TOLD
        told = ", ".join(" ".join(f.split())[:120] for f in faults[:MAX_TOLD])
        told += f" and {more} more" if more > 0 else ""
        raise UserError(
            f"the weights in {path} do not fit {config_path}: {told}."
        )


def _one_line(error):
    return " ".join(str(error).split())[:200]
