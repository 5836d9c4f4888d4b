"""Label files that were cut, edited or are no text: a result or a sentence."""

import runpy

import pytest
from pretrain_runs import ROOT
from test_recipes import write_data

from muselq_modules import audio_scan
from muselq_modules.errors import UserError

RECIPES = ("emomusic", "giantsteps", "magnatagatune", "mtg_jamendo", "nsynth")
FACTS = {"frames": 96000, "sample_rate": 24000, "channels": 1, "silent": False}


def first_line(data):
    """The header, or all of one line."""
    return data[: data.find(b"\n") + 1]


DAMAGES = {
    "absent": lambda data: None,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "header": first_line,
    "no header": lambda data: data[len(first_line(data)) :],
    "binary": lambda data: bytes(range(256)) * 8,
    "not UTF-8": lambda data: data + b"caf\xe9\t\xff,\xfe\n",
    "NUL": lambda data: data + b"a\0b\n",
    "blank line": lambda data: data + b"\n\n",
    "separators": lambda data: data + b",,,,,\t\t\t\t\t\n",
    "one word": lambda data: data + b"word\n",
    "twice": lambda data: data + data,
    "first column": lambda data: b"\n".join(
        line.split(b"\t")[0].split(b",")[0] for line in data.split(b"\n")
    ),
    "huge field": lambda data: data + b"x" * 200_000 + b"\n",
    "outside": lambda data: data.replace(b"/", b"/../../../"),
    "carriage returns": lambda data: data.replace(b"\n", b"\r"),
    "open quote": lambda data: data + b'"open, quote\n',
    "list": lambda data: b"[1, [2, {}]]\n",
    "number": lambda data: b"1e999\n",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Miniatures of the datasets, made once."""
    made = {}

    def make(recipe):
        if recipe not in made:
            folder = tmp_path_factory.mktemp(recipe) / "data"
            made[recipe] = write_data(recipe, folder)
        return made[recipe]

    return make


def annotations(folder):
    """Text files of a dataset, two of each folder and kind."""
    kinds = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".csv", ".tsv", ".txt", ".json", ".key"):
            kinds.setdefault((path.parent, path.suffix), []).append(path)
    return [path for paths in kinds.values() for path in paths[:3]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_damaged_annotations(recipe, data, tmp_path, monkeypatch):
    folder = data(recipe)
    # Not the audio is tried here, which is there in every case.
    monkeypatch.setattr(
        audio_scan,
        "run_parallel",
        lambda check, paths, *rest: [(path, dict(FACTS)) for path in paths],
    )
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / recipe))
    script = ROOT / "recipes" / recipe / f"{recipe}_prepare.py"
    prepare = runpy.run_path(str(script))[f"prepare_{recipe}"]
    options = {"subset": "genre"} if recipe == "mtg_jamendo" else {}
    prepare(folder, tmp_path / "sound", **options)
    paths = annotations(folder)
    assert paths
    for path in paths:
        sound = path.read_bytes()
        for name, damage in DAMAGES.items():
            target = tmp_path / f"{path.name} {name}"
            try:
                damaged = damage(sound)
                if damaged is None:
                    path.unlink()
                else:
                    path.write_bytes(damaged)
                prepare(folder, target, **options)
            except UserError as error:
                assert str(error)
                assert not (target / "options.json").exists(), name
            except Exception as error:
                raise AssertionError(f"{path.name}, {name}") from error
            finally:
                path.write_bytes(sound)
