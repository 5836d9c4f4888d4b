"""Any command line and any YAML gives a valid run or one sentence.

Hypothesis mutates every key of the pre-training and the downstream recipes;
CHAOS_EXAMPLES sets how often. Nothing is trained: what is checked before any
work starts is all that runs.
"""

import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml.comments import TaggedScalar
from speechbrain.utils.importutils import LazyModule
from speechbrain.utils.run_opts import RunOptions

from muselq_modules import configuration as tree
from muselq_modules.baselines import load_any_encoder
from muselq_modules.command_line import HINTS
from muselq_modules.errors import UserError
from muselq_modules.experiment import load_experiment
from muselq_modules.probe_checks import check_task
from muselq_modules.probe_training import candidate_layers
from muselq_modules.rehearsal import rehearse
from muselq_modules.sampling import accumulation_steps

# Hypothesis asks every module for its file, and these import theirs for that.
LazyModule.__file__ = None
ROOT = Path(__file__).parents[1]
RECIPES = {
    "pretrain": "hparams/demo.yaml",
    "gtzan": "recipes/gtzan/hparams/genre.yaml",
    "nsynth": "recipes/nsynth/hparams/pitch.yaml",
}
REQUIRED = {
    "pretrain": [
        "--data_folder",
        str(ROOT / "tests"),
        "--encoder",
        "{dim: 16}",
    ],
    "gtzan": ["--data_folder", "/data", "--pretrained", "mel"],
    "nsynth": ["--data_folder", "/data", "--pretrained", "mel"],
}
EXAMPLES = int(os.environ.get("CHAOS_EXAMPLES", 12))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    # Tests are repeatable, `make chaos` explores.
    derandomize="CHAOS_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = (
    "0 1 -1 2 7 16 1000 1000000000000000 -0 007 0x10 0o17 1_000 1e3 1e-3 0.5 "
    ".5 1.0 -0.1 1e400 -1e400 .inf -.inf inf nan .nan NaN 1:30 12e03"
).split()
WORDS = [
    *("", " ", "True", "true", "False", "yes", "no", "on", "null", "~", "None"),
    *("a=b", "a #b", "#", "a: b", ": ", "- a", "'", '"', "{", "}", "[", "]"),
    *("{a: 5}", "{a: {b: [1, 2]}}", "[1, 2]", "[]", "{}", "[a, 1]", "(1, 2)"),
    *("$HOME", "%s", "\\n", "a\nb", "a\tb", "\x00", "\x1b", "é 音楽", "\udcff"),
    *("!apply:os.getcwd", "!ref <seed>", "!new:torch.nn.ReLU", "<seed>", "<<"),
    *("*a", "&a b", "? a", "|", ">", "@", "`", "--", "-", "=", "==", "x" * 500),
    *("[!apply:os.getcwd []]", "{a: !ref <seed>}", "{dim: -1}", "{dim: x}"),
    *("{seed: 1, seed: 2}", "{precision: bf16}", "{hidden: 0}", "{layer: 99}"),
]
VALUES = st.one_of(
    st.sampled_from(NUMBERS + WORDS),
    st.integers(-(10**6), 10**6).map(str),
    st.floats(allow_nan=True).map(repr),
    st.text(max_size=12),
)


def keys_of(recipe):
    """Keys of the launched YAML."""
    root = tree.read_tree(ROOT / RECIPES[recipe])
    return [key for key in tree.entries(root) if key[:2] != "__"]


def mutated(name, draw):
    """A slip of the keyboard in a name, or none."""
    at = draw(st.integers(0, max(0, len(name) - 1)))
    return draw(
        st.sampled_from(
            [
                *[name] * 5,
                name[:at] + name[at + 1 :],
                name[: at + 1],
                name.replace("_", "-"),
                name.upper(),
                name + "s",
                f"{name}.x",
                f"{name}[x]",
                f" {name}",
            ]
        )
    )


@st.composite
def options(draw, recipe):
    """One option of a command line: its words, its name and its text."""
    names = sorted({*keys_of(recipe), *tree.RUN_OPTIONS})
    name = mutated(draw(st.sampled_from(names)), draw)
    text = draw(VALUES)
    form = draw(st.sampled_from(["--{}={}", "--{} {}", "--{}", "-{} {}"]))
    if form == "--{} {}":
        return [f"--{name}", text], name, text
    if form == "--{}":
        return [f"--{name}"], name, None
    return [form.format(name, text)], name, text


def outcome(recipe, arguments):
    """The experiment, or None after a sentence; anything else is a defect."""
    before = torch.get_rng_state()
    try:
        experiment = load_experiment(
            [str(a) for a in arguments], recipe == "pretrain"
        )
        hparams = experiment.hparams
        if recipe == "pretrain":
            rehearse(experiment)
            accumulation_steps(
                hparams["global_batch"], hparams["local_batch"], 1
            )
        else:
            check_task(experiment, prepare_of(recipe))
            candidate_layers(hparams, load_any_encoder("mel"))
        return experiment
    except UserError as error:
        sentence = str(error)
        assert sentence and "\n" not in sentence, sentence
        assert len(sentence) < 2000
        return None
    except SystemExit:
        assert {"--help", "-h"} & set(arguments)
        return None
    finally:
        torch.set_rng_state(before)


def prepare_of(recipe):
    """The prepare function of a recipe."""
    folder = ROOT / "recipes" / recipe
    sys.path.insert(0, str(folder))
    try:
        scope = runpy.run_path(str(folder / f"{recipe}_prepare.py"))
    finally:
        sys.path.remove(str(folder))
    return scope[f"prepare_{recipe}"]


def dependents(recipe, name):
    """Keys of a YAML that a key may change, itself among them."""
    text = (ROOT / RECIPES[recipe]).read_text("utf-8")
    blocks = re.split(r"\n(?=\w)", text)
    found = {name}
    for _ in blocks:
        for block in blocks:
            if any(f"<{key}" in block for key in found):
                found.add(block.partition(":")[0])
    return found


def plain(node):
    """Resolved values with their tags, so that equal ones compare equal."""
    tag = getattr(getattr(node, "tag", None), "value", None)
    if isinstance(node, TaggedScalar):
        return tag, node.value
    if isinstance(node, dict):
        return tag, {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return tag, [plain(item) for item in node]
    return node


def as_number(text):
    """What a number on a command line stands for; None for other text."""
    try:
        return float(int(text, 0)) if text[:2] in ("0x", "0o") else float(text)
    except ValueError:
        return {".inf": float("inf"), "-.inf": -float("inf")}.get(text)


@pytest.mark.parametrize("recipe", RECIPES)
@FUZZ
@given(data=st.data())
def test_command_lines(recipe, data):
    check(recipe, *data.draw(options(recipe)))


def line_of(recipe, name, words):
    """The command line of a recipe with more words about one option."""
    yaml = ROOT / RECIPES[recipe]
    required = list(REQUIRED[recipe])
    if f"--{name}" in required:
        at = required.index(f"--{name}")
        del required[at : at + 2]
    return [yaml, *required, *words]


def check(recipe, words, name, text):
    """A sentence, or an experiment with what was typed and nothing else."""
    experiment = outcome(recipe, line_of(recipe, name, words))
    if experiment is None:
        return
    yaml = ROOT / RECIPES[recipe]
    base = load_experiment(
        [str(yaml), *REQUIRED[recipe]], data_must_exist=False
    )
    changed = {
        key
        for key in {*base.resolved, *experiment.resolved}
        if plain(experiment.resolved.get(key)) != plain(base.resolved.get(key))
    }
    assert changed <= dependents(recipe, name), changed
    if name in base.resolved:
        value, former = experiment.resolved[name], base.resolved[name]
        if isinstance(former, str) and name not in HINTS:
            assert value == text
        elif isinstance(former, (int, float)) and text is not None:
            if not isinstance(former, bool):
                assert float(value) == as_number(text)
    else:
        assert name in tree.RUN_OPTIONS, f"{name} was swallowed"
        value = getattr(experiment.run_opts, name)
        default = getattr(RunOptions(), name)
        assert (
            text is None
            or str(value) == text
            or value != default
            or (as_number(text) == value or text.lower() == str(value).lower())
        ), (name, text, value)


@st.composite
def edits(draw, lines):
    """The lines of a YAML after one to three edits."""
    lines = list(lines)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key, colon, value = lines[at].partition(":")
        other = lines[draw(st.integers(0, len(lines) - 1))]
        lines[at] = draw(
            st.sampled_from(
                [
                    "",
                    other,
                    lines[at] + "\n" + lines[at],
                    mutated(key, draw) + colon + value,
                    f"{key}: {draw(VALUES)}",
                    key + colon + other.partition(":")[2],
                    " " + lines[at],
                    "\t" + lines[at],
                    lines[at].lstrip(),
                    lines[at][: draw(st.integers(0, len(lines[at])))],
                    lines[at].replace("!ref", "!new"),
                    lines[at].replace("<", "<un"),
                    lines[at].replace(": !", ": !!"),
                    draw(st.text(max_size=20)),
                ]
            )
        )
    return "\n".join(lines)


@pytest.fixture(scope="module")
def copied():
    """A copy of the YAML files, which may be spoilt."""
    with TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "hparams", Path(folder, "hparams"))
        for recipe in ("gtzan", "nsynth"):
            target = Path(folder, "recipes", recipe, "hparams")
            shutil.copytree(ROOT / "recipes" / recipe / "hparams", target)
        yield Path(folder)


@pytest.mark.parametrize("recipe", RECIPES)
@FUZZ
@given(data=st.data())
def test_files(recipe, copied, data):
    launched = copied / RECIPES[recipe]
    files = [launched, *sorted((copied / "hparams" / "blocks").iterdir())]
    path = data.draw(st.sampled_from(files))
    text = path.read_text("utf-8")
    # A header of comments may hold anything.
    edited = data.draw(edits(text.split("\n")))
    try:
        path.write_bytes(edited.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return
    try:
        outcome(recipe, [launched, *REQUIRED[recipe]])
    finally:
        path.write_text(text, "utf-8")
