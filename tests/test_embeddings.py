"""The embedding cache: computed once, never stale, resumable."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fake_encoder import FakeEncoder

from muselq_modules.baselines import BASELINES
from muselq_modules.embeddings import cache_digest, embed, pool
from muselq_modules.errors import UserError
from muselq_modules.windows import (
    Window,
    equal_length_batches,
    plan_windows,
)

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def audio(tmp_path):
    """A folder of seven noises of 0.4 s to 2 s and all their windows."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    windows = []
    for i, seconds in enumerate([2.0, 2.0, 2.0, 1.0, 0.4, 0.4, 1.7]):
        wav = rng.normal(scale=0.1 * (i + 1) / 7, size=int(seconds * 24000))
        soundfile.write(folder / f"{i}.wav", wav, 24000)
        row = {"path": f"{i}.wav", "duration": str(seconds)}
        windows += plan_windows(row, 1.0, "marble", FakeEncoder())
    return folder, windows


def run(encoder, audio, cache, **options):
    folder, windows = audio
    options = {"layers": [0, 1, 2], "batch_s": 2.0, **options}
    return embed(encoder, windows, folder, cache, **options)


def plan(duration, protocol, **columns):
    row = {"path": "a.wav", "duration": str(duration), **columns}
    windows = plan_windows(row, 30.0, protocol, FakeEncoder())
    return [(w.start_s, w.samples / 24000) for w in windows]


def test_windows():
    assert plan(30.6, "marble") == [(0.0, 30.0)]
    assert plan(44.9, "marble") == [(0.0, 30.0)]
    assert plan(45.0, "marble") == [(0.0, 30.0), (30.0, 15.0)]
    assert plan(4.0, "marble") == plan(4.0, "paper") == [(0.0, 4.0)]
    assert plan(100.0, "paper") == [(35.0, 30.0)]
    assert plan(90, "marble", start="6.0", stop="9.0") == [(6.0, 3.0)]
    assert plan(90, "paper", start="6.0", stop="9.0") == [(6.0, 3.0)]
    long = plan(4140.0, "marble")
    assert len(long) == 40 and long[-1] == (4110.0, 30.0)
    # A clip shorter than a token stays as it is.
    assert plan(0.02, "paper") == [(0.0, 0.02)]
    with pytest.raises(UserError, match="duration of 0.0 s"):
        plan(0.0, "paper")


def test_batches_have_one_length():
    windows = [Window(f"{i}", 0.0, 960 * (1 + i % 3)) for i in range(20)]
    batches = equal_length_batches(windows, range(20), 960 * 6)
    assert sorted(sum(batches, [])) == list(range(20))
    for batch in batches:
        lengths = {windows[i].samples for i in batch}
        assert len(lengths) == 1 and len(batch) * lengths.pop() <= 960 * 6


def test_second_run_encodes_nothing(audio, tmp_path):
    encoder = FakeEncoder()
    first = run(encoder, audio, tmp_path / "cache")
    calls, values = encoder.calls, np.array(first.values)
    assert calls > 0 and (first.tokens > 0).all()
    second = run(encoder, audio, tmp_path / "cache")
    assert encoder.calls == calls
    assert np.array_equal(second.values, values)
    # Workers and the batch size are no part of the key.
    run(encoder, audio, tmp_path / "cache", workers=1, batch_s=9.0)
    assert encoder.calls == calls


def test_cached_equals_uncached_and_single(audio, tmp_path):
    folder, windows = audio
    encoder = FakeEncoder()
    cache = run(encoder, audio, tmp_path / "cache", batch_s=100.0)
    for window in windows:
        start = round(window.start_s * 24000)
        wav, _ = soundfile.read(
            folder / window.path,
            window.samples,
            start,
            dtype="float32",
        )
        expected = pool(encoder, encoder(wav, 24000))[0]
        got = cache.values[cache.rows([window])[0]]
        np.testing.assert_allclose(got, expected.detach(), atol=1e-6)


def test_padded_equals_single():
    wav = torch.randn(3, 24000)
    lengths = torch.tensor([1.0, 0.5, 0.1])
    for encoder in (FakeEncoder(), *(kind() for kind in BASELINES.values())):
        padded = pool(encoder, encoder(wav, 24000, lengths))
        for i, length in enumerate(lengths):
            single = wav[i : i + 1, : int(24000 * length)]
            got = pool(encoder, encoder(single, 24000))[0]
            torch.testing.assert_close(padded[i], got, atol=1e-4, rtol=1e-4)


def test_frames_are_kept_when_asked(audio, tmp_path):
    encoder = FakeEncoder()
    frames = run(encoder, audio, tmp_path / "cache", frames=True)
    pooled = run(encoder, audio, tmp_path / "cache")
    for window in audio[1]:
        states = frames.frames(window)
        assert states.shape == (window.samples // 960, 3, 8)
        np.testing.assert_allclose(
            states.mean(0), pooled.values[pooled.rows([window])[0]], atol=1e-6
        )


def test_changes_rebuild(audio, tmp_path):
    folder, windows = audio
    encoder = FakeEncoder()
    before = run(encoder, audio, tmp_path / "cache")
    all_calls = encoder.calls

    changed = FakeEncoder()
    with torch.no_grad():
        changed.weight[0, 0, 0] += 1e-3
    after = run(changed, audio, tmp_path / "cache")
    assert changed.calls == all_calls and after.folder != before.folder

    run(encoder, audio, tmp_path / "cache", layers=[2])
    assert encoder.calls == 2 * all_calls

    # A new file costs its own windows only; so does a changed one.
    soundfile.write(folder / "new.wav", np.ones(24000) * 0.1, 24000)
    more = [*windows, Window("new.wav", 0.0, 24000)]
    run(encoder, (folder, more), tmp_path / "cache")
    assert encoder.calls == 2 * all_calls + 1
    soundfile.write(folder / "4.wav", np.ones(9600) * 0.1, 24000)
    os.utime(folder / "4.wav", ns=(1, 1))
    renewed = run(encoder, audio, tmp_path / "cache")
    assert encoder.calls == 2 * all_calls + 2
    row = renewed.rows([Window("4.wav", 0.0, 9600)])[0]
    old = before.values[before.rows([Window("4.wav", 0.0, 9600)])[0]]
    assert not np.allclose(renewed.values[row], old)


def test_digest_depends_on_all_that_matters(audio):
    folder, windows = audio
    encoder = FakeEncoder()
    digests = {
        cache_digest(encoder, windows, folder, [2]),
        cache_digest(encoder, windows[1:], folder, [2]),
        cache_digest(encoder, windows, folder, [1]),
        cache_digest(encoder, windows, folder, [2], frames=True),
        cache_digest(FakeEncoder(seed=1), windows, folder, [2]),
    }
    assert len(digests) == 5
    shuffled = windows[::-1] + windows[:2]
    assert cache_digest(encoder, shuffled, folder, [2]) in digests


KILLED = """
    import os, signal, sys
    sys.path[:0] = [{tests!r}, {project!r}]
    import muselq_modules.embeddings as embeddings
    from fake_encoder import FakeEncoder
    from muselq_modules.windows import Window

    embeddings.FLUSH_SECONDS = 0.0
    class Killed(FakeEncoder):
        def forward(self, *inputs):
            if self.calls == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(*inputs)

    windows = [Window(*w) for w in {windows!r}]
    embeddings.embed(Killed(), windows, {folder!r}, {cache!r}, [0, 1, 2],
                     batch_s=2.0)
"""


def test_killed_run_continues(audio, tmp_path):
    folder, windows = audio
    whole_encoder = FakeEncoder()
    whole = run(whole_encoder, audio, tmp_path / "whole")
    script = textwrap.dedent(KILLED).format(
        tests=str(PROJECT / "tests"),
        project=str(PROJECT),
        windows=[(w.path, w.start_s, w.samples) for w in windows],
        folder=str(folder),
        cache=str(tmp_path / "killed"),
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    encoder = FakeEncoder()
    resumed = run(encoder, audio, tmp_path / "killed")
    assert 0 < encoder.calls <= whole_encoder.calls - 3
    assert np.array_equal(resumed.values, whole.values)
    assert np.array_equal(resumed.tokens, whole.tokens)


def test_values_are_on_disk_before_their_marks(audio, tmp_path):
    """Marks that were lost are computed again, whatever stands there."""
    encoder = FakeEncoder()
    cache = run(encoder, audio, tmp_path / "cache")
    expected = np.array(cache.values)
    values = np.lib.format.open_memmap(cache.folder / "values.npy", "r+")
    tokens = np.lib.format.open_memmap(cache.folder / "tokens.npy", "r+")
    values[2:4] = np.nan
    tokens[2:4] = 0
    values.flush(), tokens.flush()
    again = run(encoder, audio, tmp_path / "cache")
    assert np.array_equal(again.values, expected)


@pytest.mark.parametrize("how", ["cut", "flip"])
@pytest.mark.parametrize(
    "name", ["values.npy", "tokens.npy", "sums.npy", "index.json"]
)
def test_damaged_files_are_made_again(audio, tmp_path, name, how):
    cache = run(FakeEncoder(), audio, tmp_path / "cache")
    expected, tokens = np.array(cache.values), np.array(cache.tokens)
    path = cache.folder / name
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[-5] ^= 4
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    encoder = FakeEncoder()
    again = run(encoder, audio, tmp_path / "cache")
    assert np.array_equal(again.values, expected)
    assert np.array_equal(again.tokens, tokens)
    assert encoder.calls > 0
    # A damaged cache is no source for another.
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    folder, windows = audio
    fewer = run(FakeEncoder(), (folder, windows[:-1]), tmp_path / "cache")
    rows = fewer.rows(sorted(set(windows[:-1])))
    wanted = cache.rows(sorted(set(windows[:-1])))
    assert np.array_equal(fewer.values[rows], expected[wanted])


def test_a_cache_has_its_place_on_the_disk(audio, tmp_path):
    """A mapped file with holes kills its writer when the disk is full."""
    cache = run(FakeEncoder(), audio, tmp_path / "cache")
    for name in ("values.npy", "tokens.npy", "sums.npy"):
        status = (cache.folder / name).stat()
        assert status.st_blocks * 512 >= status.st_size


def test_missing_and_broken_files_are_named(audio, tmp_path):
    folder, windows = audio
    (folder / "3.wav").write_bytes(b"no audio at all")
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"3\.wav"):
            run(FakeEncoder(), audio, tmp_path / "cache", workers=workers)
    (folder / "3.wav").unlink()
    with pytest.raises(UserError, match=r"3\.wav is in the manifest but not"):
        run(FakeEncoder(), audio, tmp_path / "cache")


def test_a_file_that_holds_no_audio_is_named(audio, tmp_path):
    folder, _ = audio
    path = folder / "3.wav"
    wav, rate = soundfile.read(path, dtype="float32")
    wav[100] = np.nan
    soundfile.write(path, wav, rate, subtype="FLOAT")
    with pytest.raises(UserError, match=r"3\.wav holds NaN"):
        run(FakeEncoder(), audio, tmp_path / "cache")


def test_several_machines_are_refused(audio, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--nnodes=1"):
        run(FakeEncoder(), audio, tmp_path / "cache")


def test_index_tells_what_was_embedded(audio, tmp_path):
    cache = run(FakeEncoder(), audio, tmp_path / "cache")
    index = json.loads((cache.folder / "index.json").read_text("utf-8"))
    assert index["encoder"] == FakeEncoder().digest()
    assert len(index["windows"]) == len(set(audio[1])) == len(cache.tokens)


def test_baselines_see_what_they_should():
    time = torch.arange(48000) / 24000
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * time)[None]
    chroma = BASELINES["chroma"]()
    pooled = pool(chroma, chroma(tone, 24000))
    assert pooled.shape == (1, 1, 24) and pooled[0, 0, :12].argmax() == 9
    mel = BASELINES["mel"]()
    assert pool(mel, mel(tone, 24000)).shape == (1, 1, 256)
    steady = pool(mel, mel(tone, 24000))[0, 0, 128:].mean()
    noisy = pool(mel, mel(torch.randn(1, 48000), 24000))[0, 0, 128:].mean()
    assert torch.isfinite(steady) and noisy > 1
    assert len({kind().digest() for kind in BASELINES.values()}) == 3
