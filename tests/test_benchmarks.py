"""Every benchmark runs, at its quick setting, and writes what it says."""

import doctest
import json
import sys
from pathlib import Path

import pytest
import soundfile
import torch

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[1]
TIMBRE = ROOT / "recipes" / "template" / "hparams" / "timbre.yaml"
# What --quick cannot do without: the rest are defaults.
ARGUMENTS = {
    "gpu": ["--device", "cpu"],
    "embedding": ["--seconds", "2"],
    "compression": [
        *("--tasks", f"{TIMBRE}={{folder}}/tones"),
        *("--probe", "{{seeds: 1, epochs: 2, workers: 0}}"),
    ],
}
HELPERS = {
    *("networks", "side_by_side", "steps", "gpu_cases", "gpu_checks"),
    "compression_probes",
}
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if path.stem not in HELPERS
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a benchmark in this process; returns its JSON."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()

    def run(name):
        module = __import__(name)
        arguments = ["--quick", "--repetitions", "1"]
        arguments += ["--output_folder", str(tmp_path)]
        given = [x.format(folder=tmp_path) for x in ARGUMENTS.get(name, [])]
        module.main(arguments + given)
        (path,) = tmp_path.glob("*.json")
        assert path.with_suffix(".png").stat().st_size > 1000
        return json.loads(path.read_text())

    yield run
    torch.set_num_threads(threads)
    for name in {*SCRIPTS, *HELPERS}:
        sys.modules.pop(name, None)


def test_windows_of_the_probing_benchmark_lie_in_their_pieces(run):
    probing = __import__("probing")
    splits = probing.make_splits(8, 10)  # the defaults
    for split in splits.values():
        for window in split.windows:
            end_s = window.start_s + window.samples / 24000
            info = soundfile.info(probing.SAMPLES / window.path)
            assert end_s <= info.duration
    with pytest.raises(SystemExit, match="--pieces 99: .* has 35 pieces"):
        probing.make_splits(99, 5)


def test_helpers_do_as_they_say(run):
    assert doctest.testmod(__import__("side_by_side")).failed == 0


def test_there_is_a_script_for_each_question():
    assert len(SCRIPTS) == 15
    makefile = (ROOT / "Makefile").read_text("utf-8")
    without_gpu = makefile.split("benchmarks: ")[1].split("chaos:")[0]
    for name in SCRIPTS:
        # One needs a GPU, one hours and a folder of music.
        elsewhere = name in ("gpu", "front_end_training")
        assert elsewhere or name in without_gpu
        source = (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")
        assert f"    python benchmarks/{name}.py" in source


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs(run, name, capsys):
    found = run(name)
    output = capsys.readouterr().out
    assert found["machine"]["cpu"] and found["quick"]
    assert "\n|---|" in output and found["machine"]["torch"] in output
    if name == "depthwise":
        cases = [found[key] for key in found if "forward" in key]
        assert len(cases) == 8
        assert all(case["largest_difference"] < 1e-5 for case in cases)
    if name == "quantizers":
        assert found["SpeechBrain"]["equal_tokens"] == 1.0
    if name == "front_end_training":
        rules = [r["rule"] for r in found["runs"]]
        assert rules == ["same steps", "same steps", "same compute"]
        assert all(
            0 <= r["metrics"]["template timbre"] <= 1 for r in found["runs"]
        )
    if name == "compression":
        sizes, distances = found["bytes"], found["fidelity"]
        assert len(sizes) == 6 and sizes["ONNX int8"] < sizes["ONNX fp16"]
        assert distances["ONNX fp32"]["relative_error"] < 1e-4
        assert distances["ONNX fp16"]["relative_error"] < 1e-2
        assert 1e-3 < distances["ONNX int8"]["relative_error"] < 0.2
        for scored in found["scores"]["timbre"].values():
            assert scored.keys() == sizes.keys()
            assert all(0 <= x["mean"] <= 1 for x in scored.values())
    if name == "mixing_profile":
        for cell in found["cells"]:
            assert 0 < cell["products_share"] < 1
            assert cell["gflop_s"] > 0
        ours, rotary, square = found["cells"][:3]
        tokens, dim = 2 * 25, 128
        # Four heads: 1/4 of the dense products, but for the combiner, half of
        # which the summary of the clip needs once.
        first, second = dim * 1.5 * dim / 4, (dim**2 + (dim / 2) ** 2) / 4
        combined = tokens * dim * dim / 2 + dim * dim
        assert ours["flop"] == 2 * (tokens * (first + second) + combined)
        projections, scores = tokens * dim * 4 * dim, 2 * tokens**2 * dim
        assert rotary["flop"] == 2 * (projections + scores)
        assert square["flop"] == 2 * (2 * dim) ** 3
    if name == "probing":
        assert found["same_metric"]
        assert found["largest_weight_difference"] < 1e-4
    if name == "gpu":
        kinds = {case["kind"] for case in found["cases"]}
        assert kinds == {"correct", "waits", "train", "spend", "mix"}
        skipped = [c["name"] for c in found["cases"] if "skipped" in c]
        assert skipped == ["brn_summary"]  # the host waits for no CPU
        trained = [c for c in found["cases"] if c["kind"] == "train"]
        assert len(trained) == 8
        assert all(0 < c["loss"] < 30 for c in trained)
