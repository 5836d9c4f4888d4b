"""The results table: every cell from its run, one page that stands alone."""

import csv
import json
import re

import pytest

from muselq_modules.results import (
    PAPER,
    collect,
    main,
    write_report,
)
from muselq_modules.results_tables import our_table, paper_table

PAPER_TABLE = json.loads(PAPER.read_text("utf-8"))


def add_run(folder, name, dataset, task, test, layers=1, **changes):
    """Write a finished run; ``test`` maps a metric to its mean."""
    run_folder = folder / f"{dataset}_{task}" / name
    run_folder.mkdir(parents=True, exist_ok=True)
    headline = next(iter(test.values()))
    run = {
        "encoder": {"name": name, "spec": name, "digest": name * 8},
        "dataset": dataset,
        "task": task,
        "protocol": "paper",
        "probe": {"finetune": False},
        "metrics": list(test),
        "seeds": [1, 2, 3],
        "layer": 0,
        "learning_rate": 0.001,
        "commit": None,
        "manifests": {"test": "digest"},
        "counts": {s: {"rows": 9} for s in ("train", "valid", "test")},
        "test": {
            metric: {
                "per_seed": [mean] * 3,
                "mean": mean,
                "std": 0.01,
                "interval": [mean - 0.05, mean + 0.05],
            }
            for metric, mean in test.items()
        },
        "layers": [
            {"layer": layer, "test": headline - i / 100}
            for i, layer in enumerate([0, 1, 2, "weighted"][:layers])
        ],
        **changes,
    }
    (run_folder / "results.json").write_text(json.dumps(run), "utf-8")
    if "accuracy" in test:
        text = "target,0 a,1 <b>\n0 a,5,1\n1 <b>,2,4\n"
        (run_folder / "confusion.csv").write_text(text, "utf-8")
    return run_folder


@pytest.fixture
def folder(tmp_path):
    for shift, encoder in enumerate(["mine", "mel", "random_mine"]):
        value = 0.5 + shift / 100
        add_run(
            tmp_path,
            encoder,
            "gtzan",
            "genre",
            {"accuracy": value, "macro_f1": value - 0.1},
            layers=4 if encoder == "mine" else 1,
        )
        add_run(
            tmp_path,
            encoder,
            "emomusic",
            "emotion",
            {"r2_arousal": value, "r2_valence": -0.02},
        )
    add_run(tmp_path, "mel", "own", "task", {"accuracy": 0.9})
    return tmp_path


def test_paper_table():
    """The numbers of DATASETS.md, section 0.1, at their places."""
    header, lines = paper_table(PAPER_TABLE)
    assert len(lines) == 12 and {len(line) for line in lines} == {17}
    titles = header[1:]
    rows = {row["name"]: row["values"] for row in PAPER_TABLE["rows"]}
    best = rows["BRN summary large 164 M, proprietary"]
    assert best[titles.index("GTZAN genre, accuracy")] == 0.666
    assert best[titles.index("VocalSet singer, accuracy")] == 0.992
    mert = rows["MERT-330"]
    assert mert[titles.index("NSynth pitch, accuracy")] == 0.928
    assert mert[titles.index("MTG genre, AP")] == 0.137
    assert mert[titles.index("EmoMusic valence, r2")] == 0.413


def test_cells_come_from_their_runs(folder):
    header, lines = our_table(collect(folder), PAPER_TABLE)
    # Baselines, then untrained, then trained; the paper last.
    assert header[1:4] == ["mel", "random_mine", "mine"]
    table = {
        line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines
    }
    assert list(table) == [
        "GTZAN genre, accuracy",
        "EmoMusic arousal, r2_arousal",
        "EmoMusic valence, r2_valence",
        "own task, accuracy",
    ]
    gtzan = table["GTZAN genre, accuracy"]
    assert gtzan["mine"] == ".500 [.450, .550]"
    assert gtzan["random_mine"] == ".520 [.470, .570]"
    assert gtzan["paper: MERT-330"] == ".689"
    assert table["EmoMusic valence, r2_valence"]["mel"] == "-.020 [-.070, .030]"
    assert table["own task, accuracy"]["mine"] == ""


def test_report(folder, capsys):
    page = write_report(folder)
    report = folder / "report"
    assert page == report / "index.html"
    text = page.read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", text)  # stands alone
    names = sorted(path.name for path in report.glob("*.png"))
    assert len([name for name in names if name.startswith("confusion")]) == 4
    assert {"layers.png", "scores.png"} <= set(names)
    assert text.count("data:image/png;base64,") == len(names)
    for row in PAPER_TABLE["rows"]:
        assert row["name"] in text
        assert row["name"] in (report / "results.md").read_text("utf-8")
    assert "not ours" in text
    with open(report / "results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4 + 1
    assert {row["encoder"] for row in rows} == {"mel", "mine", "random_mine"}
    content = json.loads((report / "results.json").read_text("utf-8"))
    assert len(content["runs"]) == 7
    # The report lies under the results and must not be read as a run.
    assert len(collect(folder)) == 7
    assert ".500 [.450, .550]" in capsys.readouterr().out


def test_runs_that_share_a_name_are_told_apart(folder):
    other = {"name": "mine", "spec": "x", "digest": "abcdef123"}
    add_run(
        folder / "other",
        "mine",
        "gtzan",
        "genre",
        {"accuracy": 0.1},
        encoder=other,
    )
    add_run(
        folder / "marble",
        "mel",
        "gtzan",
        "genre",
        {"accuracy": 0.2},
        protocol="marble",
    )
    add_run(
        folder / "tuned",
        "mel",
        "gtzan",
        "genre",
        {"accuracy": 0.3},
        probe={"finetune": True},
    )
    rows = {run["row"] for run in collect(folder)}
    assert {
        "mel (paper)",
        "mel (marble)",
        "mel (paper) (fine-tuned)",
        "mine abcdef (paper)",
        "mine minemi (paper)",
    } <= rows


def test_repeated_run_is_replaced_with_a_warning(folder, caplog):
    add_run(folder / "again", "mel", "own", "task", {"accuracy": 0.4})
    runs = [run for run in collect(folder) if run["dataset"] == "own"]
    assert len(runs) == 1 and runs[0]["test"]["accuracy"]["mean"] == 0.4
    assert "same encoder and task" in caplog.text


def test_mistakes(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path)])
    assert end.value.code == 2
    assert "No finished run" in capsys.readouterr().err
    broken = add_run(tmp_path, "mel", "own", "task", {"accuracy": 0.4})
    (broken / "results.json").write_text("{", "utf-8")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "not valid JSON" in capsys.readouterr().err
