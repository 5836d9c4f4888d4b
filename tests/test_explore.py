"""A folder of music as a page: what is computed, and what is in it."""

import base64
import io
import json
import re
import sys
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
import torch
from fake_encoder import FakeEncoder

from muselq_modules import baselines
from muselq_modules.audio_scan import AudioFile
from muselq_modules.cell_averages import CellAverages
from muselq_modules.errors import UserError
from muselq_modules.explore import explore, main
from muselq_modules.explore_page import (
    MAX_GROUPS,
    audio_url,
    group_by_folder,
    page,
    page_data,
)
from muselq_modules.music_map import (
    compact,
    dimension_statistics,
    layout,
    nearest,
    unit,
)
from muselq_modules.previews import make_previews
from muselq_modules.track_cells import track_windows

RATE = 8000
NASTY = [
    "<script>alert(1)<",
    "\"><img src=x onerror='alert(2)'>.wav",
    "new\nline @@data@@ ${alert(3)}.wav",
    "空白 ünïcode #1?x=100%.wav",
    "javascript:alert(4).wav",
]


def write_track(path, level, seconds=3.0, seed=0):
    """A tone in noise that stops halfway."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * 440 * time) * (time < seconds / 2)
    noise = np.random.default_rng(seed).normal(scale=0.01, size=len(time))
    soundfile.write(path, level * tone + noise, RATE)


@pytest.fixture
def music(tmp_path):
    """Two folders of four tracks each, and a broken file."""
    folder = tmp_path / "music"
    for i in range(4):
        write_track(folder / "loud" / f"{i}.wav", 0.9, 3 + i, seed=i)
        write_track(folder / "soft" / f"{i}.wav", 0.1, seed=9 + i)
    (folder / "broken.wav").write_bytes(b"no audio")
    return folder


@pytest.fixture
def fake(monkeypatch):
    """`fake` as an encoder; the ones that were made."""
    made = []

    def make():
        made.append(FakeEncoder())
        return made[-1]

    monkeypatch.setitem(baselines.BASELINES, "fake", make)
    return made


def data_of(path):
    """What the script of a page reads."""
    text = path.read_text("utf-8")
    (found,) = re.findall(r'json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def unpack(data, key, dtype):
    return np.frombuffer(base64.b64decode(data[key]), np.dtype(dtype))


def test_the_page_of_a_folder(music, tmp_path, fake, capsys):
    output = explore(music, "fake", tmp_path / "pages" / "map.html", workers=1)
    data = data_of(output)
    tracks = data["tracks"]
    assert len(tracks) == 8 and data["k"] == 7
    assert data["groups"] == ["loud", "soft"]
    assert [track["group"] for track in tracks] == [0] * 4 + [1] * 4
    # loud/2.wav lasts 5 s: 5 cells of a second.
    assert [track["n"] for track in tracks] == [3, 4, 5, 6, 3, 3, 3, 3]
    assert tracks[4]["url"] == "../music/soft/0.wav"
    assert tracks[2]["duration_s"] == 5.0 and tracks[2]["cell_s"] == 1.0
    # Each track is most like those of its own folder.
    neighbours = unpack(data, "neighbours", "<u4").reshape(8, 7)
    for i, row in enumerate(neighbours[:, :3].tolist()):
        assert {tracks[j]["group"] for j in row} == {tracks[i]["group"]}
    text = output.read_text("utf-8")
    assert "1 file skipped" in text and "broken.wav: unreadable" in text
    assert "layer 2 of 2" in text and "://" not in text
    assert "8 tracks" in capsys.readouterr().out


def test_a_second_run_embeds_nothing(music, tmp_path, fake):
    first = explore(music, "fake", tmp_path / "map.html", workers=1)
    before = first.read_bytes()
    assert fake[0].calls > 0
    second = explore(music, "fake", tmp_path / "map.html", workers=1)
    assert fake[1].calls == 0
    assert second.read_bytes() == before  # the map is the same map
    write_track(music / "loud" / "new.wav", 0.5, seed=20)
    explore(music, "fake", tmp_path / "map.html", workers=1)
    assert fake[2].calls == 1


def test_previews_are_in_the_page(music, tmp_path, fake):
    output = explore(
        music,
        "fake",
        tmp_path / "map.html",
        embed_audio=True,
        preview_s=2.0,
        workers=1,
    )
    tracks = data_of(output)["tracks"]
    for track in tracks:
        kind, _, content = track["url"].partition(";base64,")
        assert kind == "data:audio/mpeg"
        wav, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        assert len(wav) / rate == pytest.approx(2.0, abs=0.1)
        assert len(content) < 20_000
    assert tracks[0]["preview"] == [0.5, 2.0]
    # The first second of two is the tone.
    assert (
        np.abs(wav[: rate // 2]).mean() > 5 * np.abs(wav[-rate // 4 :]).mean()
    )


def test_a_preview_that_cannot_be_read_is_none(tmp_path):
    write_track(tmp_path / "a.wav", 0.5)
    files = [AudioFile("a.wav", 24000, RATE, 1), AudioFile("gone.wav", 8, 8, 1)]
    made = make_previews(tmp_path, files, 1.0, workers=1)
    assert made["a.wav"].startswith("data:audio/mpeg;base64,")
    assert made["gone.wav"] is None


def test_what_cannot_be_explored_is_one_sentence(tmp_path, capsys):
    folder = tmp_path / "music"
    write_track(folder / "only.wav", 0.5)
    (folder / "broken.mp3").write_bytes(b"")
    with pytest.raises(UserError, match="1 readable.*1 skipped: empty"):
        explore(folder, output=tmp_path / "map.html", workers=1)
    with pytest.raises(UserError, match="device 0 is not there"):
        explore(tmp_path, "mel", tmp_path / "a.html", device="0")
    with pytest.raises(UserError, match="no folder"):
        explore(tmp_path / "nothing", output=tmp_path / "map.html")
    with pytest.raises(UserError, match="above 0"):
        explore(folder, cell_s=0.0)
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *(str(folder), "--layer", "3", "--pretrained", "mel"),
                *("--output", str(tmp_path / "m.html")),
            ]
        )
    assert ended.value.code == 2
    assert "layers [3] does not exist" in capsys.readouterr().err


def test_windows_cover_the_whole_track():
    encoder = CellAverages(FakeEncoder(), 1.0)
    windows = track_windows(AudioFile("a.wav", 7000, 100, 1), encoder)
    assert [w.start_s for w in windows] == [0.0, 30.0, 60.0]
    assert [w.samples for w in windows] == [720000, 720000, 240000]
    (window,) = track_windows(AudioFile("a.wav", 30, 100, 1), encoder)
    assert window.samples == 7200


def test_cells_are_means_of_valid_tokens():
    encoder = FakeEncoder()
    cells = CellAverages(encoder, 0.2)  # five tokens
    wav = torch.randn(2, 24000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([1.0, 0.5])
    with torch.inference_mode():
        out = cells(wav, 24000, lengths, [0, -1])
        tokens = encoder(wav, 24000, lengths, [0, -1])
        alone = cells(wav[1, :12000], 24000, layers=[-1])
    assert out.layers == [0, 2] and out.token_rate_hz == 5.0
    assert out.lengths.tolist() == [5, 3]
    for ours, every in zip(out.hidden_states, tokens.hidden_states):
        expected = every[0].unflatten(0, (5, 5)).mean(1)
        torch.testing.assert_close(ours[0], expected)
        # 12 tokens: the third cell holds two.
        torch.testing.assert_close(ours[1, 2], every[1, 10:12].mean(0))
    torch.testing.assert_close(
        alone.hidden_states[0][0], out.hidden_states[1][1, :3]
    )
    assert cells.digest() != CellAverages(encoder, 0.4).digest()
    assert cells.digest() != CellAverages(FakeEncoder(1), 0.2).digest()
    # A cell is never shorter than a token.
    assert CellAverages(encoder, 0.001).token_rate_hz == 25.0


def test_statistics_are_those_of_all_cells():
    rng = np.random.default_rng(0)
    tracks = [rng.normal(5, 2, (n, 3)).astype(np.float32) for n in (4, 90, 1)]
    for track in tracks:
        track[:, 2] = 7.3
    mean, std = dimension_statistics(tracks)
    together = np.concatenate(tracks)
    np.testing.assert_allclose(mean, together.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std[:2], together.std(0)[:2], rtol=1e-5)
    assert std[2] == 1.0


@pytest.mark.parametrize("n", [2, 5, 1100])
def test_nearest_is_brute_force(n):
    vectors = unit(np.random.default_rng(0).normal(size=(n, 6)))
    indices, values = nearest(vectors)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -2)
    assert indices.shape == (n, min(10, n - 1))
    expected = np.sort(similarity, axis=1)[:, ::-1][:, : min(10, n - 1)]
    np.testing.assert_allclose(values, expected)
    assert (indices != np.arange(n)[:, None]).all()


@pytest.mark.parametrize("n", [2, 3, 9, 10, 60])
def test_layout_keeps_what_is_alike_together(n):
    rng = np.random.default_rng(1)
    kinds = np.arange(n) % 2
    vectors = unit(np.eye(2, 20)[kinds] + rng.normal(scale=0.05, size=(n, 20)))
    points = layout(vectors)
    assert points.shape == (n, 2)
    assert points.min() >= 0 and points.max() <= 1
    np.testing.assert_array_equal(points, layout(vectors))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    if n > 3:
        assert (kinds[distance.argmin(1)] == kinds).all()


def test_layout_of_equal_tracks_keeps_them_apart():
    points = layout(np.ones((12, 4)) / 2)
    assert len(np.unique(points.round(3), axis=0)) == 12


def test_compact_vectors_give_the_similarity():
    rng = np.random.default_rng(0)
    cells = np.cumsum(rng.normal(size=(300, 40)), 0) @ rng.normal(size=(40, 90))
    vectors, group = compact(cells)
    assert vectors.shape == (100, 16) and group == 3
    averaged = unit(cells.reshape(100, 3, 90).mean(1))
    found = vectors.astype(float) @ vectors.T / 127**2
    assert np.abs(found - averaged @ averaged.T).mean() < 0.02
    few, group = compact(cells[:2])
    assert few.shape == (2, 16) and group == 1


def test_groups_are_the_first_folders_that_differ():
    paths = [f"all/{name}/x/1.wav" for name in "aabc"]
    assert group_by_folder(paths) == ([0, 0, 1, 2], ["a", "b", "c"])
    numbers, names = group_by_folder(["1.wav", "rock/2.wav", "rock/3.wav"])
    assert (numbers, names) == ([1, 0, 0], ["rock", "(no sub-folder)"])
    numbers, names = group_by_folder([f"{i:02}/a.wav" for i in range(20)])
    assert len(names) == MAX_GROUPS + 1 and names[-1] == "others"
    assert max(numbers) == MAX_GROUPS
    assert group_by_folder(["1.wav", "2.wav"])[0] == [0, 0]


@pytest.mark.parametrize("name", NASTY)
def test_addresses_lead_to_the_file(tmp_path, name):
    url = audio_url(tmp_path / "music", f"a/{name}", tmp_path / "pages")
    assert unquote(url) == f"../music/a/{name}"
    assert not set(url) & set("<>\"'#?: \n")


def test_no_name_becomes_html():
    vectors = np.ones((2, 16), np.int8)
    tracks = [
        {
            "path": f"</script>/{name}",
            "url": "x",
            "group": 0,
            "duration_s": 1.0,
            "vectors": vectors,
            "cell_s": 1.0,
        }
        for name in NASTY
    ]
    n = len(tracks)
    points, (found, values) = np.zeros((n, 2)), nearest(np.eye(n))
    data = page_data(tracks, ["</script>"], points, found, values)
    skipped = [(name, "empty") for name in [*NASTY, "bad\udcff.wav"]]
    text = page(NASTY[1], "@@title@@ & facts", skipped, data)
    assert text.count("<script") == 2 and text.count("</script") == 2
    assert "<img" not in text
    assert "@@title@@ &amp; facts" in text
    (found,) = re.findall(r'json" id="data">(.*?)</script>', text, re.S)
    assert json.loads(found) == json.loads(json.dumps(data))
    text.encode("utf-8")


def test_any_encoder_at_its_own_rate(music, tmp_path, monkeypatch):
    """An adapter of 16 kHz gets 16 kHz."""
    (tmp_path / "spectrum.py").write_text(
        "from muselq_modules.adapters import CallableEncoder\n"
        "LENGTHS = set()\n"
        "def states(wav):\n"
        "    LENGTHS.add(wav.shape[1])\n"
        "    return wav.unfold(1, 320, 320).abs()[None]\n"
        "it = CallableEncoder(states, 16000, 50.0, 320, 0, 'it', '1')\n",
        "utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    main([str(music), "--pretrained", "python:spectrum.it", "--workers", "1"])
    assert sys.modules.pop("spectrum").LENGTHS == {48000, 64000, 80000, 96000}
    assert "spectrum.it" in (
        tmp_path / "results" / "explore" / "music.html"
    ).read_text("utf-8")


@pytest.mark.slow
def test_five_thousand_tracks_make_a_page():
    rng = np.random.default_rng(0)
    n = 5000
    vectors = unit(
        rng.normal(size=(40, 64))[rng.integers(0, 40, n)]
        + 0.5 * rng.normal(size=(n, 64))
    )
    small = rng.integers(-127, 128, (128, 16)).astype(np.int8)
    tracks = [
        {
            "path": f"folder {i % 30}/a track with a name {i}.mp3",
            "url": f"../folder%20{i % 30}/a%20track%20with%20a%20name{i}.mp3",
            "group": i % 10,
            "duration_s": 200.0,
            "vectors": small,
            "cell_s": 1.6,
        }
        for i in range(n)
    ]
    data = page_data(
        tracks, [*"abcdefghij"], layout(vectors), *nearest(vectors)
    )
    assert len(page("many", "", [], data)) < 16e6
