"""Rows and files of features, read back by each format's own library."""

import numpy as np
import pytest
from safetensors import safe_open

from muselq_modules.feature_files import WRITERS, NotFinite
from muselq_modules.feature_rows import Moments, Rows

LAYERS = [0, 3]
FACTS = {"encoder": "abc", "layers": "0,3"}


def write(folder, name, blocks, times, dtype="float32"):
    writer = WRITERS[name](
        folder / "1", LAYERS, blocks[0].shape[2], dtype, FACTS
    )
    for rows, when in zip(blocks, times):
        writer.append(rows, when)
    writer.close()
    return writer


def read(name, writer):
    """(features [row, layer, dim], times)"""
    path = writer.files[writer.suffix]
    if name == "npy":
        times = writer.files.get(".times.npy")
        return np.load(path), times and np.load(times)
    if name == "safetensors":
        with safe_open(path, "numpy") as file:
            assert file.metadata() == FACTS
            times = "times" in file.keys() and file.get_tensor("times")
            return file.get_tensor("features"), times
    table = pytest.importorskip("pyarrow.parquet").read_table(path)
    assert table.schema.metadata[b"encoder"] == b"abc"
    columns = [np.stack(table[f"layer_{n}"].to_numpy()) for n in LAYERS]
    times = None
    if "time_s" in table.column_names:
        times = table["time_s"].to_numpy()
    elif "start_s" in table.column_names:
        times = np.stack([table[c].to_numpy() for c in ("start_s", "stop_s")])
        times = times.T
    return np.stack(columns, 1), times


@pytest.mark.parametrize("dim", [1, 7, 128])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("times", ["token", "window", "none"])
@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_read(tmp_path, name, times, dtype, dim):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(n, 2, dim)) for n in (5, 1, 300)]
    shape = {"token": lambda n: n, "window": lambda n: (n, 2)}
    when = [
        None if times == "none" else rng.random(shape[times](len(b)))
        for b in blocks
    ]
    writer = write(tmp_path, name, blocks, when, dtype)
    assert writer.n_rows == 306
    features, found = read(name, writer)
    assert features.dtype == np.dtype(dtype)
    assert np.array_equal(features, np.concatenate(blocks).astype(dtype))
    if times == "none" or (name, times) == ("npy", "token"):
        assert found is None or found is False
    else:
        assert np.array_equal(found, np.concatenate(when))
    assert len(list(tmp_path.iterdir())) == len(writer.files)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_values_that_are_not_finite_are_refused(tmp_path, name, value):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    writer = WRITERS[name](tmp_path / "1", LAYERS, 3, "float16", FACTS)
    writer.append(np.zeros((4, 2, 3)), np.zeros(4))
    with pytest.raises(NotFinite, match="exceed float16"):
        writer.append(np.full((4, 2, 3), value), np.zeros(4))
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_moments_are_those_of_all_frames():
    """Small deviations around a large mean survive."""
    frames = 1e4 + 1e-2 * np.random.default_rng(0).normal(size=(2000, 2, 3))
    moments = Moments()
    for block in np.split(frames, [1, 1, 700, 1999]):
        moments.add(block)
    assert moments.row("mean").shape == (2, 3)
    row = moments.row("mean+std")
    np.testing.assert_allclose(row[:, :3], frames.mean(0), rtol=1e-12)
    np.testing.assert_allclose(row[:, 3:], frames.std(0), rtol=1e-6)


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.rows, self.times = [], []

    def append(self, rows, times):
        self.rows.append(np.asarray(rows))
        if times is not None:
            self.times.append(np.asarray(times))

    def close(self):
        self.closed = True


def test_rows():
    frames = np.random.default_rng(0).normal(size=(50, 2, 3))
    tokens = Rows(Kept(), "none", "file", 25.0)
    pooled = Rows(Kept(), "mean", "file", 25.0)
    for rows in (tokens, pooled):
        assert not rows.by_window
        for block in np.split(frames, [0, 20]):
            rows.add_frames(block)
        rows.finish()
        assert rows.n_tokens == 50 and rows.writer.closed
    assert np.array_equal(np.concatenate(tokens.writer.rows), frames)
    times = np.concatenate(tokens.writer.times)
    np.testing.assert_allclose(times, (np.arange(50) + 0.5) / 25)
    (row,) = pooled.writer.rows
    assert not pooled.writer.times
    np.testing.assert_allclose(row, frames.mean(0)[None])


def test_rows_of_windows():
    frames = np.random.default_rng(0).normal(size=(50, 2, 3))
    rows = Rows(Kept(), "mean+std", "window", 25.0)
    assert rows.by_window
    for start, stop in ((0, 30), (20, 50)):
        rows.add_window(start, frames[start:stop])
    rows.finish()
    assert rows.n_tokens == 50
    assert [t.tolist() for t in rows.writer.times] == [
        [[0.0, 1.2]],
        [[0.8, 2.0]],
    ]
    expected = np.concatenate([frames[20:].mean(0), frames[20:].std(0)], -1)
    np.testing.assert_allclose(rows.writer.rows[1], expected[None])
