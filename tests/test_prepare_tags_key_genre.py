"""Prepare scripts of gtzan, giantsteps, magnatagatune and mtg_jamendo"""

import gzip
import importlib.util
from collections import Counter
from pathlib import Path

import miniatures_tags_key_genre as miniatures
import prepare_checks
import pytest
from prepare_checks import SPLITS, one_sentence, skipped

from muselq_modules import audio_scan
from muselq_modules.errors import UserError
from muselq_modules.preparation import read_csv

ROOT = Path(__file__).parents[1]
OFFICIAL = ROOT.parent / "shared" / "annotations"


def load(recipe):
    """The module recipes/<recipe>/<recipe>_prepare.py"""
    path = ROOT / "recipes" / recipe / f"{recipe}_prepare.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gtzan = load("gtzan")
giantsteps = load("giantsteps")
magnatagatune = load("magnatagatune")
mtg_jamendo = load("mtg_jamendo")


def prepare_jamendo(data_folder, manifest_folder, subset="genre", **options):
    mtg_jamendo.prepare_mtg_jamendo(
        data_folder, manifest_folder, subset, **options
    )


RECIPES = {
    "gtzan": (miniatures.write_gtzan, gtzan.prepare_gtzan),
    "giantsteps": (
        miniatures.write_giantsteps,
        giantsteps.prepare_giantsteps,
    ),
    "magnatagatune": (
        miniatures.write_magnatagatune,
        magnatagatune.prepare_magnatagatune,
    ),
    "mtg_jamendo": (miniatures.write_mtg_jamendo, prepare_jamendo),
}


@pytest.fixture(autouse=True)
def serial(monkeypatch):
    """Checks audio in this process: starting others takes half a second"""

    def run(function, items, *_):
        return ((item, function(item)) for item in items)

    monkeypatch.setattr(audio_scan, "run_parallel", run)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A miniature of each dataset; tests must leave them as they are"""
    root = tmp_path_factory.mktemp("data")
    return {name: write(root / name) for name, (write, _) in RECIPES.items()}


def manifests(folder):
    """{split: rows} of clips that last between 1 and 2 s"""
    rows = prepare_checks.manifests(folder)
    for row in sum(rows.values(), []):
        assert 1 < float(row["duration"]) < 2
    return rows


def counts(rows):
    return {split: len(rows[split]) for split in SPLITS}


# -- All recipes --------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_second_run_does_nothing(name, data, tmp_path):
    _, prepare = RECIPES[name]
    prepare(data[name], tmp_path)
    manifests(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    prepare(data[name], tmp_path)
    assert before == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


@pytest.mark.parametrize("name", RECIPES)
def test_wrong_folder(name, tmp_path):
    _, prepare = RECIPES[name]
    with pytest.raises(UserError) as error:
        prepare(tmp_path / "nowhere", tmp_path / "manifests")
    one_sentence(error, tmp_path / "nowhere")


@pytest.mark.parametrize("name", RECIPES)
def test_wrong_layout(name, tmp_path):
    _, prepare = RECIPES[name]
    miniatures.write_tone(tmp_path / "data" / "song.wav", 220)
    with pytest.raises(UserError) as error:
        prepare(tmp_path / "data", tmp_path / "manifests")
    one_sentence(error, tmp_path / "data")


@pytest.mark.parametrize("name", RECIPES)
def test_counts_that_differ_are_one_warning(name, data, tmp_path, caplog):
    _, prepare = RECIPES[name]
    prepare(data[name], tmp_path)
    assert sum("instead of" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.parametrize(
    ("name", "values", "label", "wrong"),
    [
        ("gtzan", ["jazz"], 5, ["polka"]),
        ("giantsteps", ["B minor"], 23, ["H minor"]),
        ("magnatagatune", ["b|c", ["a", "b", "c"]], [0, 1, 1], ["d", ["a"]]),
        ("mtg_jamendo", ["a", ["a", "b"]], [1, 0], ["c", ["a", "b"]]),
    ],
)
def test_label_pipeline(name, values, label, wrong, monkeypatch):
    """train.py gives a label, or names the value that is none"""
    monkeypatch.syspath_prepend(ROOT / "recipes" / name)
    spec = importlib.util.spec_from_file_location(
        f"{name}_train", ROOT / "recipes" / name / "train.py"
    )
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    assert train.label_pipeline(*values) == label
    with pytest.raises(UserError) as error:
        train.label_pipeline(*wrong)
    one_sentence(error, f"'{wrong[0]}'")


def test_command_line_ends_in_one_sentence(tmp_path, monkeypatch, capsys):
    arguments = ["gtzan_prepare.py", "--data_folder", str(tmp_path / "none")]
    arguments += ["--manifest_folder", str(tmp_path / "m")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as error:
        gtzan.main()
    assert error.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("Error: ") and "\n" not in printed


# -- GTZAN --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "suffix"),
    [("genres", ".au"), ("Data/genres_original", ".wav"), (".", ".wav")],
)
def test_gtzan(folder, suffix, tmp_path):
    miniatures.write_gtzan(tmp_path / "data", folder, suffix)
    gtzan.prepare_gtzan(tmp_path / "data", tmp_path / "manifests")
    rows = manifests(tmp_path / "manifests")
    assert counts(rows) == {"train": 20, "valid": 10, "test": 10}
    row = rows["train"][0]
    assert row["genre"] == "blues"
    assert (tmp_path / "data" / row["path"]).is_file()
    reasons = skipped(tmp_path / "manifests")
    broken = (Path(folder) / "jazz" / f"jazz.00054{suffix}").as_posix()
    absent = (Path(folder) / "rock" / f"rock.00099{suffix}").as_posix()
    assert reasons[broken] != reasons[absent]
    assert len(reasons) == 930 - 40


def test_gtzan_lists():
    assert gtzan.EXPECTED == {"train": 443, "valid": 197, "test": 290}
    clips = sum(gtzan.LISTS.values(), [])
    assert len(set(clips)) == len(clips)
    assert {clip.split(".")[0] for clip in clips} == set(gtzan.GENRES)


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs ../shared")
def test_gtzan_official_lists():
    for split, clips in gtzan.LISTS.items():
        path = OFFICIAL / "gtzan" / f"{split}_filtered.txt"
        official = {Path(line).stem for line in path.read_text().split()}
        assert official == set(clips)


# -- GiantSteps ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("D# minor", ["Eb minor"]),
        ("B major ", ["B major"]),
        ("Gb major", ["Gb major"]),
        ("-", []),
        ("  ", []),
        ("C minor / F# minor", ["C minor", "Gb minor"]),
        ("G minor/major", ["G minor", "G major"]),
        ("A# major / minor", ["Bb major", "Bb minor"]),
        ("A-A# minor", ["A minor", "Bb minor"]),
        ("E / B / A minor", ["E minor", "B minor", "A minor"]),
        ("c# minor / e major", ["Db minor", "E major"]),
    ],
)
def test_parse_key(text, keys):
    assert giantsteps.parse_key(text, "annotations.txt") == keys


@pytest.mark.parametrize("text", ["H minor", "D# dorian", "minor", "C /"])
def test_unknown_key(text):
    with pytest.raises(UserError) as error:
        giantsteps.parse_key(text, "annotations.txt")
    one_sentence(error, "annotations.txt", text)


def test_key_classes():
    assert giantsteps.KEYS[0] == "C major"
    assert giantsteps.KEYS[11] == "B major"
    assert giantsteps.KEYS[12] == "C minor"
    assert giantsteps.KEYS[23:] == ["B minor", "X"]


def test_giantsteps(data, tmp_path):
    giantsteps.prepare_giantsteps(data["giantsteps"], tmp_path)
    rows = manifests(tmp_path)
    assert counts(rows) == {"train": 7, "valid": 7, "test": 6}
    keys = {Path(r["path"]).name.split(".")[0]: r["key"] for r in rows["train"]}
    assert keys["5061"] == "Eb minor"
    labels = (tmp_path / "labels.txt").read_text().splitlines()
    assert labels == giantsteps.KEYS[:24]
    assert keys["299301"] == "B major"
    assert "299304" not in keys  # corrupt
    valid = {Path(r["path"]).name.split(".")[0] for r in rows["valid"]}
    assert {"299311", "299312", "299313"} <= valid  # collaborators
    assert list(skipped(tmp_path)) == [
        "giantsteps-mtg-key-dataset/audio/299304.LOFI.mp3"
    ]


def test_giantsteps_options(data, tmp_path):
    giantsteps.prepare_giantsteps(
        data["giantsteps"], tmp_path / "none", none_class=True
    )
    rows = manifests(tmp_path / "none")
    assert Counter(row["key"] for row in rows["train"])["X"] == 1
    assert Counter(row["key"] for row in rows["valid"])["X"] == 1
    giantsteps.prepare_giantsteps(
        data["giantsteps"], tmp_path / "kw1077", kw1077=True
    )
    rows = manifests(tmp_path / "kw1077")
    assert counts(rows) == {"train": 6, "valid": 6, "test": 6}


def test_giantsteps_options_differ(data, tmp_path):
    """Manifests of other options are written anew"""
    giantsteps.prepare_giantsteps(data["giantsteps"], tmp_path)
    giantsteps.prepare_giantsteps(data["giantsteps"], tmp_path, kw1077=True)
    assert len(read_csv(tmp_path / "train.csv")) == 6


def test_giantsteps_without_artists(tmp_path, caplog):
    root = miniatures.write_giantsteps(tmp_path / "data")
    train = root / "giantsteps-mtg-key-dataset" / "annotations"
    (train / "beatport_metadata.txt").unlink()
    giantsteps.prepare_giantsteps(root, tmp_path / "manifests")
    manifests(tmp_path / "manifests")
    assert "by track, not by artist" in caplog.text


@pytest.mark.parametrize(
    "name", ["annotations.txt", "key/5061.LOFI.key", "key"]
)
def test_giantsteps_missing_annotation(name, tmp_path):
    root = miniatures.write_giantsteps(tmp_path / "data")
    repository = "giantsteps-key-dataset"
    if name != "key":
        repository = "giantsteps-mtg-key-dataset"
    path = root / repository / "annotations" / name
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(UserError) as error:
        giantsteps.prepare_giantsteps(root, tmp_path / "m", kw1077=True)
    one_sentence(error, path, "clone")


def test_giantsteps_without_audio(tmp_path):
    root = miniatures.write_giantsteps(tmp_path / "data")
    audio = root / "giantsteps-key-dataset" / "audio"
    audio.rename(audio.with_name("elsewhere"))
    with pytest.raises(UserError) as error:
        giantsteps.prepare_giantsteps(root, tmp_path / "m")
    one_sentence(error, root, "test split", "skipped.tsv")


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs ../shared")
def test_giantsteps_official_split(tmp_path):
    """Every one of the 1,159 tracks is where the literature has it"""
    folder = OFFICIAL / "giantsteps"
    root = tmp_path / giantsteps.TRAIN_REPOSITORY
    annotations = root / "annotations"
    (annotations / "key").mkdir(parents=True)
    for name in ("annotations.txt", "beatport_metadata.txt"):
        (annotations / name).symlink_to(folder / f"mtg_{name}")
    kw1077, key = set(), {}
    for line in (folder / "mtg_parsed.tsv").read_text("utf-8").split("\n")[1:]:
        if line:
            track, _, key[track], confidence, _, _, kept, remark = line.split(
                "\t"
            )
            text = f"{key[track].lower()}\t{confidence}\t{remark}"
            miniatures.write_text(
                annotations / "key" / f"{track}.LOFI.key", text
            )
            if kept == "1":
                kw1077.add(track)
    official = {}
    table = (folder / "jukemir_split.tsv").read_text("utf-8").splitlines()
    for line in table[1:]:
        track, _, split, *_ = line.split("\t")
        official[track] = split

    def by_track(**options):
        rows = giantsteps.rows_of_train(root, **options)
        return {Path(r["path"]).name.split(".")[0]: r for r in rows}

    rows = by_track(none_class=False, kw1077=False)
    assert {t: row["split"] for t, row in rows.items()} == {
        t: split for t, split in official.items() if split != "test"
    }
    assert all(row["key"] == key[t] for t, row in rows.items())
    assert set(by_track(none_class=False, kw1077=True)) == kw1077
    rows = by_track(none_class=True, kw1077=False)
    assert sum(row["key"] == "X" for row in rows.values()) == 73
    for (none_class, only_kw1077), expected in giantsteps.EXPECTED.items():
        rows = by_track(none_class=none_class, kw1077=only_kw1077).values()
        found = Counter(row["split"] for row in rows)
        assert found == {s: expected[s] for s in ("train", "valid")}
        split_of = {}
        for row in rows:
            assert (
                split_of.setdefault(row["group"], row["split"])
                == (row["split"])
            )


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs ../shared")
def test_giantsteps_official_test_keys(tmp_path):
    table = (OFFICIAL / "giantsteps" / "key_test_604.tsv").read_text()
    key = dict(line.split("\t")[:2] for line in table.splitlines()[1:])
    for track, text in key.items():
        miniatures.write_text(
            tmp_path / "annotations" / "key" / f"{track}.LOFI.key", text
        )
    rows = giantsteps.rows_of_test(tmp_path)
    assert len(rows) == 604
    assert {Path(r["path"]).name.split(".")[0]: r["key"] for r in rows} == key


# -- MagnaTagATune ------------------------------------------------------------


def test_magnatagatune(data, tmp_path):
    magnatagatune.prepare_magnatagatune(data["magnatagatune"], tmp_path)
    rows = manifests(tmp_path)
    assert counts(rows) == {"train": 5, "valid": 2, "test": 4}
    labels = (tmp_path / "labels.txt").read_text().splitlines()
    assert sorted(labels) == sorted(miniatures.MTAT_TAGS)
    assert set(rows["train"][0]["tags"].split("|")) == set(
        miniatures.MTAT_TAGS[::2]
    )
    (path,) = skipped(tmp_path)
    assert path in magnatagatune.ZERO_BYTE_CLIPS
    assert "0 bytes" in skipped(tmp_path)[path]


def test_magnatagatune_keep_untagged(data, tmp_path):
    magnatagatune.prepare_magnatagatune(
        data["magnatagatune"], tmp_path, keep_untagged=True
    )
    rows = manifests(tmp_path)
    assert counts(rows) == {"train": 6, "valid": 3, "test": 5}
    assert sum(row["tags"] == "" for row in rows["test"]) == 1


def test_magnatagatune_in_mp3_folder(tmp_path):
    root = miniatures.write_magnatagatune(tmp_path / "data" / "mp3")
    table = root / "annotations_final.csv"
    table.rename(tmp_path / "data" / table.name)
    magnatagatune.prepare_magnatagatune(tmp_path / "data", tmp_path / "m")
    row = manifests(tmp_path / "m")["test"][0]
    assert row["path"].startswith("mp3/d/")


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ('"mp3_path"', '"path"', "download"),
        ('"1"', '"yes"', "line 2"),
        ('"0/artist_a', '"x/artist_a', "x/artist_a"),
    ],
)
def test_magnatagatune_malformed(old, new, remedy, tmp_path):
    root = miniatures.write_magnatagatune(tmp_path / "data")
    table = root / "annotations_final.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(UserError) as error:
        magnatagatune.prepare_magnatagatune(root, tmp_path / "m")
    one_sentence(error, table, remedy)


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs ../shared")
def test_magnatagatune_official(tmp_path):
    """Counts and tags of the official annotations, rebuilt from a digest"""
    folder = OFFICIAL / "magnatagatune"
    with gzip.open(folder / "clips.tsv.gz", "rt", encoding="utf-8") as stream:
        clips = [line.rstrip("\n").split("\t") for line in stream][1:]
    tags = sorted({tag for clip in clips for tag in clip[5].split("|") if tag})
    table = [["clip_id", *tags, "mp3_path"]]
    for clip in clips:
        own = set(clip[5].split("|"))
        cells = ["1" if tag in own else "0" for tag in tags]
        table.append([clip[0], *cells, clip[1]])
    path = tmp_path / "annotations_final.csv"
    path.write_text(
        "".join("\t".join(f'"{c}"' for c in row) + "\n" for row in table)
    )
    assert len(tags) == 188
    found, top_tags = magnatagatune.read_annotations(path)
    official = (folder / "top50_tags.txt").read_text().splitlines()
    assert set(top_tags) == set(official)
    for keep_untagged, expected in magnatagatune.EXPECTED.items():
        rows = [
            row
            for row in magnatagatune.clip_rows(
                found, top_tags, "", keep_untagged, path
            )
            if row["path"] not in magnatagatune.ZERO_BYTE_CLIPS
        ]
        assert Counter(row["split"] for row in rows) == expected
        groups = {(row["group"], row["split"]) for row in rows}
        assert len(groups) == len({group for group, _ in groups})


# -- MTG-Jamendo --------------------------------------------------------------


@pytest.mark.parametrize("subset", mtg_jamendo.SUBSETS)
def test_mtg_jamendo(subset, data, tmp_path):
    prepare_jamendo(data["mtg_jamendo"], tmp_path, subset)
    rows = manifests(tmp_path)
    assert counts(rows) == {"train": 5, "valid": 2, "test": 4}
    labels = (tmp_path / "labels.txt").read_text().splitlines()
    category, n_tags = miniatures.JAMENDO_TAGS[subset]
    assert labels == [f"{category}---tag{n:02}" for n in range(n_tags)]
    for row in sum(rows.values(), []):
        tags = row["tags"].split("|")
        assert tags == sorted(set(tags)) and set(tags) <= set(labels)
    assert set(skipped(tmp_path)) == {"16/216.mp3", "00/1009600.mp3"}


@pytest.mark.parametrize(
    "tables", [".", "split-0", "mtg-jamendo-dataset/data/splits/split-0"]
)
def test_mtg_jamendo_layouts(tables, tmp_path):
    root = miniatures.write_mtg_jamendo(tmp_path / "data", tables, low=True)
    prepare_jamendo(root, tmp_path / "m")
    rows = manifests(tmp_path / "m")
    assert rows["train"][0]["path"] == "41/241.low.mp3"


def test_mtg_jamendo_audio_folder(tmp_path):
    root = miniatures.write_mtg_jamendo(tmp_path / "data")
    (root / "audio").mkdir()
    for folder in root.glob("[0-9][0-9]"):
        folder.rename(root / "audio" / folder.name)
    prepare_jamendo(root, tmp_path / "m")
    rows = manifests(tmp_path / "m")
    assert rows["train"][0]["path"] == "audio/41/241.mp3"


def test_mtg_jamendo_shares_checks(data, tmp_path, monkeypatch):
    """The second subset decodes nothing that the first has decoded"""
    cache = tmp_path / "scan.jsonl"
    root = data["mtg_jamendo"]
    prepare_jamendo(root, tmp_path / "a", "genre", scan_cache=cache)
    lines = cache.read_text().split()
    prepare_jamendo(root, tmp_path / "b", "moodtheme", scan_cache=cache)
    manifests(tmp_path / "b")
    assert cache.read_text().split() == lines


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"subset": "tags"}, ["'tags'", "top50tags"]),
        ({"split": 5}, ["split 5", "0 to 4"]),
        ({"split": 1}, ["split-1/autotagging_genre-train.tsv", "copy"]),
    ],
)
def test_mtg_jamendo_wrong_options(options, parts, data, tmp_path):
    with pytest.raises(UserError) as error:
        prepare_jamendo(data["mtg_jamendo"], tmp_path, **options)
    one_sentence(error, *parts)


def test_mtg_jamendo_missing_table(tmp_path):
    root = miniatures.write_mtg_jamendo(tmp_path / "data")
    table = root / "data/splits/split-0/autotagging_genre-test.tsv"
    table.unlink()
    with pytest.raises(UserError) as error:
        prepare_jamendo(root, tmp_path / "m")
    one_sentence(error, table, "copy")


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("TRACK_ID", "ID", "TRACK_ID"),
        ("41/241.mp3", "41/241", "line 2"),
        ("artist_000005", "artist_000030", "artist_000030"),
    ],
)
def test_mtg_jamendo_malformed(old, new, part, tmp_path):
    root = miniatures.write_mtg_jamendo(tmp_path / "data")
    table = root / "data/splits/split-0/autotagging_genre-train.tsv"
    text = table.read_bytes().decode().replace(old, new)
    miniatures.write_text(table, text)
    with pytest.raises(UserError) as error:
        prepare_jamendo(root, tmp_path / "m")
    one_sentence(error, part)


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs ../shared")
def test_mtg_jamendo_official():
    for subset, expected in mtg_jamendo.EXPECTED.items():
        artists = {}
        for split, table in mtg_jamendo.TABLES.items():
            name = f"autotagging_{subset}-{table}.tsv"
            path = OFFICIAL / "mtg_jamendo" / "split-0" / name
            if not path.is_file():  # not all tables are at hand
                continue
            rows = mtg_jamendo.read_table(path)
            assert len(rows) == expected[split]
            for row in rows:
                assert artists.setdefault(row["artist"], split) == split
            tags = {tag for row in rows for tag in row["tags"]}
            assert len(tags) == miniatures.JAMENDO_TAGS[subset][1]
