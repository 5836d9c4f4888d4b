"""Prepare scripts of emomusic, nsynth, vocalset and template"""

import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path

import miniatures_emotion_notes_voice as small
import miniatures_tags_key_genre as miniatures
import numpy as np
import pytest
from prepare_checks import SPLITS, manifests, one_sentence, read_tsv, skipped

from muselq_modules import audio_scan
from muselq_modules.errors import UserError

ROOT = Path(__file__).parents[1]
OFFICIAL = ROOT.parent / "shared" / "annotations"


def load(recipe, root=ROOT / "recipes"):
    """The module <root>/<recipe>/<recipe>_prepare.py"""
    path = Path(root) / recipe / f"{recipe}_prepare.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


emomusic = load("emomusic")
nsynth = load("nsynth")
vocalset = load("vocalset")
template = load("template")


def write_tones(root):
    template.synthesise(Path(root), n_themes=9, sample_rate=16000)
    (Path(root) / "bell/theme_01.wav").write_bytes(miniatures.CORRUPT)
    return Path(root)


RECIPES = {
    "emomusic": (
        small.write_emomusic,
        emomusic.prepare_emomusic,
    ),
    "nsynth": (
        small.write_nsynth,
        nsynth.prepare_nsynth,
    ),
    "vocalset": (
        small.write_vocalset,
        vocalset.prepare_vocalset,
    ),
    "template": (write_tones, template.prepare_template),
}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Processes start slowly, and test_preparation.py tests them already"""

    def run(function, items, workers=None, description=None):
        return [(item, function(item)) for item in items]

    monkeypatch.setattr(audio_scan, "run_parallel", run)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A miniature of each dataset; tests must leave them as they are"""
    root = tmp_path_factory.mktemp("data")
    return {name: write(root / name) for name, (write, _) in RECIPES.items()}


def counts(rows):
    return [len(rows[split]) for split in SPLITS]


def paths(rows):
    return {row["path"] for split in SPLITS for row in rows[split]}


# -- All recipes --------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_second_run_does_nothing(name, data, tmp_path):
    _, prepare = RECIPES[name]
    prepare(data[name], tmp_path)
    manifests(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    prepare(data[name], tmp_path)
    assert before == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["emomusic", "nsynth", "vocalset"])
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


@pytest.mark.parametrize("name", ["emomusic", "nsynth", "vocalset"])
def test_counts_that_differ_are_one_warning(name, data, tmp_path, caplog):
    _, prepare = RECIPES[name]
    prepare(data[name], tmp_path)
    assert sum("instead of" in r.getMessage() for r in caplog.records) == 1


# -- EmoMusic -----------------------------------------------------------------


@pytest.mark.parametrize("annotations", [".", "annotations"])
def test_emomusic(annotations, tmp_path):
    root = small.write_emomusic(tmp_path / "data", annotations)
    emomusic.prepare_emomusic(root, tmp_path / "m")
    rows = manifests(tmp_path / "m")
    gone = {
        small.NO_CLIP,
        small.NO_AUDIO,
    }
    assert set(skipped(tmp_path / "m")) == gone
    assert len(paths(rows)) == len(small.SONGS) - len(gone)
    assert {row["ID"] for row in rows["test"]} == {
        f"clips_45seconds/{song}.mp3" for song in (3, 17, 19, 1000)
    }
    artists = [{row["artist"] for row in rows[s]} for s in ("train", "valid")]
    assert not set.intersection(*artists)
    song = rows["test"][0]
    assert (song["mean_arousal"], song["mean_valence"]) == ("2.1", "7.95")


def test_emomusic_targets_are_standardised(tmp_path):
    root = small.write_emomusic(tmp_path / "data")
    miniatures.write_tone(root / small.NO_CLIP, 300)
    miniatures.write_tone(root / small.NO_AUDIO, 310)
    emomusic.prepare_emomusic(root, tmp_path / "m")
    train = manifests(tmp_path / "m")["train"]
    for target in emomusic.TARGETS:
        values = [float(row[target]) for row in train]
        assert np.allclose([np.mean(values), np.std(values)], [0, 1], atol=1e-5)


def test_emomusic_random_split(data, tmp_path):
    drawn = []
    for run, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(run)
        emomusic.prepare_emomusic(
            data["emomusic"], folder, random_split=True, seed=seed
        )
        drawn.append({row["ID"] for row in manifests(folder)["test"]})
    assert drawn[0] == drawn[1] != drawn[2]


def official_emomusic():
    path = OFFICIAL / "emomusic" / "emomusic_split.tsv"
    if not path.is_file():
        pytest.skip("the official annotations are not at hand")
    return read_tsv(path)


def test_emomusic_official_split():
    songs = official_emomusic()
    found = Counter()
    for song in songs:
        info = {"Mediaeval 2013 set": song["mediaeval2013_set"]}
        artist = emomusic.normal_artist(song["artist"])
        split = emomusic.official_split(info, artist)
        assert split == song["split"]
        found[split] += 1
    assert found == emomusic.EXPECTED[False]


def test_emomusic_official_random_counts():
    rows = [{} for _ in official_emomusic()]
    emomusic.split_at_random(rows, seed=1234)
    assert Counter(r["split"] for r in rows) == emomusic.EXPECTED[True]


@pytest.mark.parametrize(
    ("name", "old", "new", "parts"),
    [
        (
            "songs_info",
            "Mediaeval 2013 set",
            "set",
            ["songs_info.csv", "column"],
        ),
        ("songs_info", "evaluation", "trial", ["song 3", "'trial'"]),
        ("songs_info", "\r\n7,", "\r\n6,", ["songs_info.csv", "song 7"]),
        ("static_annotations", "mean_valence", "v", ["'mean_valence'"]),
        ("static_annotations", "4, 2.6", "4, n/a", ["song 4", "'n/a'"]),
        ("static_annotations", "4, 2.6", "4, 12", ["song 4", "'12'", "1 to 9"]),
    ],
)
def test_emomusic_damaged_annotations(name, old, new, parts, tmp_path):
    root = small.write_emomusic(tmp_path / "data")
    path = root / f"{name}.csv"
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())
    with pytest.raises(UserError) as error:
        emomusic.prepare_emomusic(root, tmp_path / "m")
    one_sentence(error, "unpack annotations.tar.gz again", *parts)


@pytest.mark.parametrize("name", ["songs_info.csv", "static_annotations.csv"])
def test_emomusic_missing_annotations(name, tmp_path):
    root = small.write_emomusic(tmp_path / "data")
    (root / name).unlink()
    with pytest.raises(UserError) as error:
        emomusic.prepare_emomusic(root, tmp_path / "m")
    one_sentence(error, root / name, "unpack annotations.tar.gz")


# -- NSynth -------------------------------------------------------------------


def test_nsynth(data, tmp_path):
    nsynth.prepare_nsynth(data["nsynth"], tmp_path)
    rows = manifests(tmp_path)
    assert counts(rows) == [20, 10, 10]
    assert len(skipped(tmp_path)) == 2
    families = {s: {row["family"] for row in rows[s]} for s in SPLITS}
    assert families["train"] == set(nsynth.FAMILIES)
    assert families["test"] == set(nsynth.FAMILIES) - {"synth_lead"}
    instruments = {s: {row["instrument"] for row in rows[s]} for s in SPLITS}
    assert instruments["valid"] == instruments["test"]
    assert not instruments["train"] & instruments["test"]
    for row in sum(rows.values(), []):
        name = Path(row["path"]).stem
        assert row["instrument"], row["pitch"] == name.rsplit("-", 2)[:2]


def test_nsynth_options(data, tmp_path):
    def train(folder, **options):
        nsynth.prepare_nsynth(data["nsynth"], tmp_path / folder, **options)
        return manifests(tmp_path / folder)

    whole = train("range", drop_out_of_range=True)
    assert counts(whole) == [20, 7, 7]  # without pitches 9, 20 and 119
    few, more = train("few", train_subset=5), train("more", train_subset=9)
    assert counts(few)[1:] == counts(more)[1:] == [10, 10]
    train_paths = [{row["path"] for row in r["train"]} for r in (few, more)]
    assert train_paths[0] < train_paths[1]


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("instrument_family_str", "theremin", "theremin"),
        ("pitch", 128, "pitch 128"),
    ],
)
def test_nsynth_label_outside_the_list(key, value, part, tmp_path):
    root = small.write_nsynth(tmp_path / "data")
    path = root / "nsynth-test/examples.json"
    notes = json.loads(path.read_text())
    name = next(iter(notes))
    notes[name][key] = value
    path.write_text(json.dumps(notes))
    with pytest.raises(UserError) as error:
        nsynth.prepare_nsynth(root, tmp_path / "m")
    one_sentence(error, path, name, part, "nsynth-test.jsonwav.tar.gz")


@pytest.mark.parametrize("text", [None, '{"cut short": {"no', '{"a-1": {}}'])
def test_nsynth_damaged_annotations(text, tmp_path):
    root = small.write_nsynth(tmp_path / "data")
    path = root / "nsynth-valid/examples.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError) as error:
        nsynth.prepare_nsynth(root, tmp_path / "m")
    one_sentence(error, path, "unpack nsynth-valid.jsonwav.tar.gz")


def test_nsynth_official_families():
    path = OFFICIAL / "nsynth" / "families.tsv"
    if not path.is_file():
        pytest.skip("the official annotations are not at hand")
    families = read_tsv(path)
    assert tuple(row["family"] for row in families) == nsynth.FAMILIES
    total = sum(int(row["notes_total"]) for row in families)
    assert total == sum(nsynth.COUNTS.values())


# -- VocalSet -----------------------------------------------------------------


def test_vocalset_technique(data, tmp_path):
    vocalset.prepare_vocalset(data["vocalset"], tmp_path)
    rows = manifests(tmp_path)
    singers = {s: {row["singer"] for row in rows[s]} for s in SPLITS}
    assert singers["test"] == {"f2", "f8", "m3"}
    assert singers["train"] == {"f1", "f3", "f9", "m1", "m11"}
    assert singers["valid"] <= singers["train"]
    # Substrings of one another, and one recording of each held out.
    for technique in ("lip_trill", "trill", "trillo", "vibrato"):
        held_out = [r for r in rows["valid"] if r["technique"] == technique]
        assert len(held_out) == 1
        assert f"/{technique}/" in held_out[0]["path"]
    names = {row["technique"] for s in SPLITS for row in rows[s]}
    assert names <= set(vocalset.TECHNIQUES)
    assert all(path.startswith("FULL/") for path in paths(rows))
    reasons = skipped(tmp_path).items()
    reasons = {Path(path).name: reason for path, reason in reasons}
    assert "unreadable" in reasons.pop("f1_long_vibrato_u.wav")
    assert {name: reason[:9] for name, reason in reasons.items()} == {
        "f1_outside.wav": "misplaced",
        "f2_scales_vibrato_a(1).wav": "duplicate",
        "slow_vibrato_arps.wav": "duplicate",
        "f1_long_vibrato_i.wav": "too short",
        "._f1_long_vibrato_o.wav": "hidden fi",
    }


def test_vocalset_chunks(data, tmp_path):
    vocalset.prepare_vocalset(data["vocalset"], tmp_path)
    rows = sum(manifests(tmp_path).values(), [])

    def spans(path):
        return [
            (float(row["start"]), float(row["stop"]))
            for row in rows
            if row["group"] == path
        ]

    silent, tail = (
        small.LONG_SILENCE[0],
        small.SHORT_TAIL[0],
    )
    expected = [(1.0, 4.0), (4.0, 7.0), (7.0, 8.5)]
    assert np.allclose(spans(silent), expected, atol=0.03)
    assert spans(tail) == [(0.0, 3.0)]
    assert all(float(r["stop"]) <= float(r["duration"]) for r in rows)


def test_vocalset_valid_singers(data, tmp_path):
    vocalset.prepare_vocalset(data["vocalset"], tmp_path, valid="singers")
    rows = manifests(tmp_path)
    assert {row["singer"] for row in rows["valid"]} == {"f9", "m11"}
    assert {row["singer"] for row in rows["train"]} == {"f1", "f3", "m1"}


@pytest.mark.parametrize("split", ["random", "marble"])
def test_vocalset_singer(split, data, tmp_path):
    vocalset.prepare_vocalset(
        data["vocalset"], tmp_path, subset="singer", split=split
    )
    rows = manifests(tmp_path)
    for name in SPLITS:
        assert len({row["singer"] for row in rows[name]}) == 8
    assert any(row["technique"] == "fast_piano" for row in rows["train"])
    share = len({r["group"] for r in rows["test"]}) / len(paths(rows))
    assert abs(share - (0.1 if split == "random" else 0.2)) < 0.04


def test_vocalset_shares_the_scan(data, tmp_path):
    cache = tmp_path / "scan.jsonl"
    for subset in ("singer", "technique"):
        vocalset.prepare_vocalset(
            data["vocalset"], tmp_path / subset, subset, scan_cache=cache
        )
        lines = [line for line in cache.read_text().splitlines() if line]
        facts = [json.loads(line.rpartition("\t")[0]) for line in lines]
        assert len(lines) == len({fact["path"] for fact in facts})


def test_vocalset_unknown_singer(tmp_path):
    root = small.write_vocalset(tmp_path / "data")
    (root / "FULL/male11").rename(root / "FULL/male12")
    with pytest.raises(UserError) as error:
        vocalset.prepare_vocalset(root, tmp_path / "m")
    one_sentence(error, root / "FULL/male12", "move it out of FULL/")


def test_vocalset_unknown_option(data, tmp_path):
    with pytest.raises(UserError) as error:
        vocalset.prepare_vocalset(data["vocalset"], tmp_path, subset="vowel")
    one_sentence(error, "vowel", "technique, singer")


def test_vocalset_without_test_singers(tmp_path):
    root = small.write_vocalset(tmp_path / "data", "female1 male1")
    with pytest.raises(UserError) as error:
        vocalset.prepare_vocalset(root, tmp_path / "m")
    one_sentence(error, "test", root)


def test_vocalset_official_lists():
    folder = OFFICIAL / "vocalset"
    if not folder.is_dir():
        pytest.skip("the official annotations are not at hand")
    techniques = (folder / "techniques10.txt").read_text().split()
    assert tuple(techniques) == vocalset.TECHNIQUES
    singers = read_tsv(folder / "singers_technique_split.tsv")
    assert {row["singer"] for row in singers} == set(vocalset.SINGERS)
    test = {row["singer"] for row in singers if row["split"] == "test"}
    assert test == set(vocalset.TEST_SINGERS)
    fixes = read_tsv(folder / "filename_fixes.tsv")
    dropped = {r["technique_dir/file"] for r in fixes if r["action"] == "drop"}
    assert dropped == vocalset.STRAY_COPIES


# -- Template -----------------------------------------------------------------


def test_template_makes_its_tones(tmp_path):
    template.prepare_template(tmp_path / "tones", tmp_path / "m")
    rows = manifests(tmp_path / "m")
    assert counts(rows) == [96, 32, 32]
    for split in SPLITS:
        timbres = Counter(row["timbre"] for row in rows[split])
        assert set(timbres) == set(template.TIMBRES)
        assert len(set(timbres.values())) == 1
    assert not skipped(tmp_path / "m")


def test_template_reports_a_broken_file(data, tmp_path):
    template.prepare_template(data["template"], tmp_path)
    assert set(skipped(tmp_path)) == {"bell/theme_01.wav"}


def test_template_label_outside_the_list(tmp_path):
    root = write_tones(tmp_path / "tones")
    (root / "sine").rename(root / "cosine")
    with pytest.raises(UserError) as error:
        template.prepare_template(root, tmp_path / "m")
    one_sentence(error, root / "cosine", "rename it")


def test_template_copied(data, tmp_path):
    recipe = tmp_path / "recipes" / "mine"
    shutil.copytree(ROOT / "recipes" / "template", recipe)
    for path in (recipe / "template_prepare.py", recipe / "train.py"):
        path.write_text(path.read_text().replace("template", "mine"))
    (recipe / "template_prepare.py").rename(recipe / "mine_prepare.py")
    mine = load("mine", tmp_path / "recipes")
    mine.prepare_mine(data["template"], tmp_path / "m")
    assert manifests(tmp_path / "m")
