"""Features of one recording on disk, written row by row.

A row is a token, a window or the whole recording. Nothing but the rows that
are given is in memory, and each format is read by its own library:

* ``npy``: an array ``[row, layer, dim]``; of windows also ``.times.npy``;
* ``safetensors``: ``features`` [row, layer, dim] and ``times``;
* ``parquet``: ``time_s``, or ``start_s`` and ``stop_s``, and one column of
  lists for each layer.

``times`` is [row] for tokens (their centres) and [row, 2] for windows (start
and stop), in seconds; the row of a whole recording has none.
"""

import json
from pathlib import Path

import numpy as np

from muselq_modules.errors import UserError

SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16"}


class NotFinite(Exception):
    """The features hold NaN or infinite values."""


class FeatureWriter:
    """Appends rows to a file; a subclass for each format.

    Parameters
    ----------
    path : str or Path
        The file.
    layers : list of int
        Number of each layer.
    dim : int
        Features of a layer.
    dtype : str
        ``float32`` or ``float16``.
    metadata : dict of str
        Told by the formats that have a place for it.

    Attributes
    ----------
    n_rows : int
        Rows so far.
    files : dict
        What was written, after `close`: suffix behind the input's name ->
        path. The one with the features is the last.
    """

    suffix = None

    def __init__(self, path, layers, dim, dtype, metadata):
        self.path, self.dtype = Path(path), np.dtype(dtype)
        self.layers, self.shape = layers, (len(layers), dim)
        self.metadata = metadata
        self.n_rows = 0
        self.files = {self.suffix: self.path}
        self._open()

    def append(self, rows, times):
        """Add rows.

        Parameters
        ----------
        rows : array
            [row, layer, dim]
        times : array or None
            Seconds, [row] or [row, 2]; None for a whole recording.

        Raises
        ------
        NotFinite
            When a value is not finite, or too large for the dtype.
        """
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(rows, self.dtype)
        if not np.isfinite(rows).all():
            raise NotFinite(
                f"not finite: the features exceed {self.dtype} or are NaN"
            )
        self._write(rows, None if times is None else np.asarray(times, float))
        self.n_rows += len(rows)

    def abandon(self):
        """Close and remove what was written."""
        self._file.close()
        for path in self.files.values():
            path.unlink(missing_ok=True)


class NpyWriter(FeatureWriter):
    """An array [row, layer, dim].

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = NpyWriter(Path(folder, "a.npy"), [2], 4, "float32", {})
    ...     for _ in range(3):
    ...         writer.append(np.zeros((250, 1, 4)), None)
    ...     writer.close()
    ...     np.load(Path(folder, "a.npy")).shape
    (750, 1, 4)
    """

    suffix = ".npy"

    def _open(self):
        self._file = open(self.path, "wb")
        self._times = []
        self._write_header()

    def _write_header(self):
        # numpy leaves room in it for any number of rows.
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.n_rows, *self.shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def _write(self, rows, times):
        self._file.write(memoryview(rows))
        # Those of tokens follow from their rate.
        if times is not None and times.ndim == 2:
            self._times.append(times)

    def close(self):
        """Complete the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()
        if self._times:
            path = self.path.with_suffix(".times.npy")
            np.save(path, np.concatenate(self._times))
            self.files = {".times.npy": path, **self.files}


class SafetensorsWriter(FeatureWriter):
    """The tensors ``features`` and ``times``.

    The library writes tensors that are complete in memory. The format is a
    JSON header, which may end in blanks, and the raw values: room is left for
    the header, which is written last.
    """

    suffix = ".safetensors"

    def _open(self):
        self._file = open(self.path, "wb")
        self._times = []
        # A recording of 10**15 rows has the longest numbers.
        longest = len(self._header(10**15, (10**15, 2)))
        self._header_bytes = (longest + 7) // 8 * 8
        self._file.write(bytes(8 + self._header_bytes))

    def _header(self, n_rows, times_shape):
        size = self.dtype.itemsize * n_rows * self.shape[0] * self.shape[1]
        header = {
            "__metadata__": self.metadata,
            "features": {
                "dtype": SAFETENSORS_DTYPES[self.dtype.name],
                "shape": [n_rows, *self.shape],
                "data_offsets": [0, size],
            },
        }
        if times_shape:
            header["times"] = {
                "dtype": "F64",
                "shape": list(times_shape),
                "data_offsets": [size, size + 8 * int(np.prod(times_shape))],
            }
        return json.dumps(header).encode()

    def _write(self, rows, times):
        self._file.write(memoryview(rows))
        if times is not None:
            self._times.append(times)

    def close(self):
        """Complete the file."""
        shape = ()
        if self._times:
            times = np.concatenate(self._times)
            shape = times.shape
            self._file.write(memoryview(times))
        header = self._header(self.n_rows, shape).ljust(self._header_bytes)
        self._file.seek(0)
        self._file.write(len(header).to_bytes(8, "little") + header)
        self._file.close()


class ParquetWriter(FeatureWriter):
    """A table with a row group for each call of `append`."""

    suffix = ".parquet"

    def _open(self):
        self._arrow, self._parquet = import_arrow()
        self._file = None

    def _write(self, rows, times):
        columns = {}
        if times is not None and times.ndim == 1:
            columns["time_s"] = times
        elif times is not None:
            columns["start_s"], columns["stop_s"] = times.T.copy()
        for place, layer in enumerate(self.layers):
            values = self._arrow.array(rows[:, place].ravel())
            columns[f"layer_{layer}"] = (
                self._arrow.FixedSizeListArray.from_arrays(
                    values, self.shape[1]
                )
            )
        table = self._arrow.table(columns)
        if self._file is None:
            self._file = self._parquet.ParquetWriter(
                self.path,
                table.schema.with_metadata(self.metadata),
                use_dictionary=False,
            )
        self._file.write_table(table.cast(self._file.schema))

    def close(self):
        """Complete the file."""
        self._file.close()

    def abandon(self):
        """Close and remove what was written."""
        if self._file is not None:
            super().abandon()


WRITERS = {
    "npy": NpyWriter,
    "safetensors": SafetensorsWriter,
    "parquet": ParquetWriter,
}


def import_arrow():
    """pyarrow and its parquet module, or the name of the extra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "--format parquet needs pyarrow, which is not installed: run "
            "`pip install -e '.[parquet]'`."
        ) from error
    return pyarrow, pyarrow.parquet
