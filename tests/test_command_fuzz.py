"""Any words after a command give a result or one sentence, never a traceback.

The commands that have no YAML: hypothesis draws their options, real work is
done on a second of noise. CHAOS_EXAMPLES sets how often.
"""

import functools
import importlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from small_run import finish_run
from test_configuration_fuzz import FUZZ, VALUES

from muselq_modules import decoding, parallel

ROOT = Path(__file__).parents[1]
PREPARE = ROOT / "recipes" / "pretrain" / "folder_prepare.py"
SHARD = ROOT / "recipes" / "pretrain" / "shard.py"
TEMPLATE = ROOT / "recipes" / "template" / "template_prepare.py"
# Command -> what it is called with, and its options.
COMMANDS = {
    "muselq_modules.extract": (
        ["music", "OUT", "--pretrained", "mel", "--workers", "0"],
        "layers pool per format dtype context window_s overlap_s precision "
        "device batch workers memory_gb overwrite pretrained",
    ),
    "muselq_modules.export": (
        ["run", "OUT"],
        "name license data data_license results overwrite push public",
    ),
    "muselq_modules.results": (["music"], "output"),
    "muselq_modules.table": (["music", "mel", "OUT"], "baselines device"),
    "muselq_modules.explore": (
        ["music", "--pretrained", "mel", "--output", "OUT/page.html"],
        "pretrained output layer cell_s preview_s embed_audio cache_folder "
        "workers device",
    ),
    PREPARE: (
        ["--data_folder", "music", "--manifest_folder", "OUT"]
        + ["--segment_s", "0.5", "--min_tail_s", "0.5"],
        "data_folder manifest_folder segment_s min_tail_s valid_fraction "
        "workers transcode_folder refresh",
    ),
    SHARD: (
        ["--manifest_folder", "manifests", "--shard_folder", "OUT"],
        "manifest_folder shard_folder shard_gb workers verify",
    ),
    TEMPLATE: (
        ["--data_folder", "tones", "--manifest_folder", "OUT"],
        "data_folder manifest_folder",
    ),
}
FLAGS = {"overwrite", "public", "refresh", "verify", "embed_audio"}


@st.composite
def options(draw, names):
    """One or two options as somebody might type them."""
    words = []
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(names.split()))
        at = draw(st.integers(2, len(name)))
        name = draw(st.sampled_from([*[name] * 6, name[:at], name + "s"]))
        # Nothing outside of the folder of this test.
        value = draw(VALUES.filter(lambda text: "/" not in text))
        form = draw(st.sampled_from(["--{}={}", "--{} {}", "--{}"]))
        if name in FLAGS or form == "--{}":
            words.append(f"--{name}")
        elif form == "--{} {}":
            words += [f"--{name}", value]
        else:
            words.append(form.format(name, value))
    return words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Music, manifests and a run folder; work is done in this process."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "music").mkdir()
    noise = np.random.default_rng(0)
    for name in "abc":
        wav = noise.normal(size=12000) * 0.1
        soundfile.write(folder / "music" / f"{name}.wav", wav, 12000)
    finish_run(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        in_this_process(patch)
        command(PREPARE, *COMMANDS[PREPARE][0][:3], "manifests")
        yield folder


def in_this_process(patch):
    """Without workers, whose number is none of what is tried here."""

    def run_parallel(function, items, *_):
        for item in list(items):
            yield item, function(item)

    alone = functools.partial(decoding.decode_all, workers=0)
    for name in ("audio_scan", "shard_sets", "transcoding", "previews"):
        module = importlib.import_module(f"muselq_modules.{name}")
        patch.setattr(module, "run_parallel", run_parallel)
    run = importlib.import_module("muselq_modules.extraction_run")
    patch.setattr(run, "decode_all", lambda paths, rate, _: alone(paths, rate))
    patch.setattr(parallel, "available_cpus", lambda: 0)


@functools.cache
def main_of(command):
    """The entry point of a command."""
    if isinstance(command, Path):
        sys.path.insert(0, str(command.parent))
        return runpy.run_path(str(command))["main"]
    return importlib.import_module(command).main


def command(name, *words):
    """Exit code of a command."""
    argv = sys.argv
    sys.argv = [str(name), *words]
    try:
        main_of(name)()
    except SystemExit as end:
        return 0 if end.code is None else end.code
    finally:
        sys.argv = argv
    return 0


@pytest.mark.parametrize("name", COMMANDS, ids=lambda n: Path(n).stem)
@FUZZ
@given(data=st.data())
def test_commands(place, name, data, capsys):
    words, names = COMMANDS[name]
    target = f"out{data.draw(st.integers(0, 10**9))}"
    words = [word.replace("OUT", target) for word in words]
    words += data.draw(options(names))
    code = command(name, *words)
    error = capsys.readouterr().err
    assert code in (0, 1, 2), error
    assert "Traceback" not in error
    if code == 2:
        # The bar of what was done before ends without a line break.
        last = error.rstrip("\n").splitlines()[-1]
        assert "rror: " in last and len(last) < 2000, error


@pytest.mark.parametrize("name", COMMANDS, ids=lambda n: Path(n).stem)
def test_an_option_is_not_abbreviated(place, name, capsys):
    words, names = COMMANDS[name]
    long = max(names.split(), key=len)
    assert command(name, *words, f"--{long[:-1]}") == 2
    assert "rror: " in capsys.readouterr().err
