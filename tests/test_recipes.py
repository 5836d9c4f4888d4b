"""Every task of every recipe: its prepare script and train.py, to its metric.

Recipes are found, not listed: a folder that is added is tested. Its data is
a miniature of the official layout, or what its prepare script makes itself.
"""

import json
import runpy
import shutil
import sys

import miniatures_emotion_notes_voice
import miniatures_tags_key_genre
import numpy as np
import pytest
from pretrain_runs import ROOT

from muselq_modules.probing import encoder_name

TASKS = sorted(
    path
    for path in ROOT.glob("recipes/*/hparams/*.yaml")
    if (path.parents[1] / "train.py").is_file()
)
QUICK = (
    "{seeds: 2, epochs: 2, learning_rates: [0.001], workers: 0, batch_size: 16}"
)


def write_data(recipe, folder):
    """A miniature of the recipe's dataset, if there is one."""
    for module in (miniatures_tags_key_genre, miniatures_emotion_notes_voice):
        write = getattr(module, f"write_{recipe}", None)
        if write is not None:
            return write(folder)
    folder.mkdir(parents=True)
    return folder


def launch(yaml, data_folder, output_folder, monkeypatch, pretrained="mel"):
    """Run the train.py beside ``yaml`` as from the command line."""
    script = yaml.parents[1] / "train.py"
    argv = [
        str(script),
        str(yaml),
        *("--data_folder", str(data_folder)),
        *("--pretrained", str(pretrained)),
        *("--output_folder", str(output_folder)),
        *("--probe", QUICK),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    name = encoder_name(pretrained)
    (result,) = output_folder.glob(f"*/{name}/results.json")
    return json.loads(result.read_text(encoding="utf-8"))


def test_all_tasks_of_the_table_are_here():
    names = {f"{path.parents[1].name}/{path.stem}" for path in TASKS}
    assert names >= {
        "magnatagatune/tagging",
        "mtg_jamendo/top50tags",
        "mtg_jamendo/genre",
        "mtg_jamendo/instrument",
        "mtg_jamendo/moodtheme",
        "giantsteps/key",
        "gtzan/genre",
        "emomusic/emotion",
        "nsynth/instrument",
        "nsynth/pitch",
        "vocalset/technique",
        "vocalset/singer",
        "template/timbre",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Miniature of each recipe, made once."""
    made = {}

    def make(recipe):
        if recipe not in made:
            folder = tmp_path_factory.mktemp(recipe) / "data"
            made[recipe] = write_data(recipe, folder)
        return made[recipe]

    return make


@pytest.mark.parametrize(
    "yaml", TASKS, ids=lambda path: f"{path.parents[1].name}/{path.stem}"
)
def test_task_yields_its_metric(yaml, data, tmp_path, monkeypatch):
    result = launch(
        yaml, data(yaml.parents[1].name), tmp_path / "out", monkeypatch
    )
    assert result["metrics"]
    for name in result["metrics"]:
        low, high = result["test"][name]["interval"]
        # A metric may be undefined where a tag has no example; never absent.
        assert len(result["test"][name]["per_seed"]) == 2
        assert np.isnan(low) or low <= high
    assert all(result["counts"][s]["rows"] for s in ("train", "valid", "test"))


def test_copy_of_the_template_runs(tmp_path, monkeypatch):
    """cp -r, rename, run: nothing outside the folder changes."""
    recipes = tmp_path / "recipes"
    mine = recipes / "mine"
    shutil.copytree(ROOT / "recipes" / "template", mine)
    shutil.copytree(ROOT / "hparams", tmp_path / "hparams")
    (mine / "template_prepare.py").rename(mine / "mine_prepare.py")
    for path in [mine / "train.py", mine / "mine_prepare.py"]:
        text = path.read_text("utf-8").replace("template", "mine")
        path.write_text(text, "utf-8")
    yaml = mine / "hparams" / "timbre.yaml"
    text = yaml.read_text("utf-8").replace("dataset: template", "dataset: mine")
    yaml.write_text(text, "utf-8")
    result = launch(yaml, tmp_path / "tones", tmp_path / "out", monkeypatch)
    assert result["dataset"] == "mine"
    assert result["test"]["accuracy"]["mean"] > 0.3
    assert result["probe"]["batch_size"] == 16
