"""Imports go one way; importing is quick; the repository has no symlinks."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "muselq_modules"
# A module may import from lines above its own, or from its own line when that
# makes no circle. A new module is added where its imports allow.
LAYERS = [
    "compatibility errors",
    "checksums parallel mp3_frames audio_formats paths files bounds",
    "locks loaders rank_watch",
    # torch: audio, features, model
    "containers audio_checks audio_data audio_scan chunks windows transcoding",
    "features masking tokenizer depthwise subsampling losses schedules",
    "portable_log_mel waveforms",
    "whitening hidden_states",
    "resampling audio_stream decoding recordings",
    "crossfade feature_files feature_rows",
    "summary_mixing attention branchformer conformer",
    # an encoder loads itself; pretrained reaches the layers by name only
    "description hub weights architecture pretrained",
    "encoder model token_store full_context",
    "adapters mert torch_export onnx_weights onnx_export onnx_encoder",
    # data
    "segment_index segments sampling training_statistics",
    "preparation manifests song_manifests shards shard_writing shard_sets",
    "masked_inputs step_sums training_log metrics bootstrap",
    # runs
    "configuration overrides command_line ranks run_record checkpoints",
    "run_checks",
    "experiment interfaces baselines embedding_cache embeddings",
    "extraction tracks feature_index extraction_run",
    # brains
    "rehearsal pretraining probe_head probe_data probe_checks probe_loaders",
    "probe_brain probe_training probe_report",
    "probing results_tables results_gains results_plots html_page",
    "results_page results",
    "cell_averages track_cells music_map previews explore_page",
    # command lines
    "run_facts model_card extract export export_graph table explore",
    # the public names, imported on demand
    "__init__",
]
LEVEL = {
    name: level for level, line in enumerate(LAYERS) for name in line.split()
}


def level(module):
    """Place of a module in LAYERS; one without a place is at the end."""
    return LEVEL.get(module, len(LAYERS))


def imported(path):
    """Every module of a file's imports, also those within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


def own_imports(path):
    """Modules of muselq_modules that a file imports."""
    found = {
        name.split(".")[1]
        for name in imported(path)
        if name.startswith("muselq_modules.")
    }
    return {name for name in found if (PACKAGE / f"{name}.py").is_file()}


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def test_every_module_has_its_layer():
    unknown = set(MODULES) - set(LEVEL)
    assert not unknown, f"add {sorted(unknown)} to LAYERS"
    names = [name for line in LAYERS for name in line.split()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_from_a_later_layer(module):
    for other in own_imports(PACKAGE / f"{module}.py"):
        assert level(other) <= level(module), f"{module} imports {other}"


def test_there_is_no_circle():
    remaining = {m: own_imports(PACKAGE / f"{m}.py") - {m} for m in MODULES}
    while remaining:
        free = {
            m for m, needs in remaining.items() if not needs & set(remaining)
        }
        assert free, f"circle among {sorted(remaining)}"
        for module in free:
            del remaining[module]


def test_the_library_imports_no_recipe_and_no_test():
    scripts = {
        path.stem
        for folder in ("recipes", "tests")
        for path in (ROOT / folder).rglob("*.py")
    } | {"recipes", "tests"}
    for module in MODULES:
        tops = {n.split(".")[0] for n in imported(PACKAGE / f"{module}.py")}
        assert not tops & scripts, f"{module} imports {tops & scripts}"


def test_recipes_import_the_library_and_their_own_folder_only():
    for path in (ROOT / "recipes").rglob("*.py"):
        siblings = {other.stem for other in path.parent.glob("*.py")}
        others = {
            other.stem for other in (ROOT / "recipes").rglob("*.py")
        } - siblings
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & others, f"{path} imports {tops & others}"


def test_importing_is_quick_and_needs_no_transformers():
    code = (
        "import sys, time; import muselq_modules\n"
        "import muselq_modules.encoder, muselq_modules.pretrained\n"
        "seconds = time.process_time()\n"
        "heavy = {'transformers', 'wandb', 'matplotlib', 'sklearn'}\n"
        "print(seconds, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    # Of the processor: the clock would measure who else is using it.
    assert float(seconds) < 6


def test_git_holds_no_symlink():
    try:
        listing = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-s"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    links = [row for row in listing.splitlines() if row.startswith("120000")]
    assert not links
