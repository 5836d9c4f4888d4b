"""What the documents say can be done, can be done."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from pretrain_runs import ROOT

from muselq_modules.command_line import read_options, split_command_line
from muselq_modules.configuration import check_tree, read_tree

DOCUMENTS = sorted(
    path
    for pattern in (
        "*.md",
        "benchmarks/*.md",
        "recipes/*/README.md",
        "tests/samples/*.md",
    )
    for path in ROOT.glob(pattern)
)
SCRIPTS = sorted([*ROOT.glob("recipes/*/*.py"), *ROOT.glob("hparams/*.yaml")])
SCRIPTS += sorted(ROOT.glob("recipes/*/hparams/*.yaml"))


def blocks(path, language):
    """Fenced code blocks of a document."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(path):
    """Commands of a document, of a YAML header or of a docstring."""
    if path.suffix == ".md":
        lines = "\n".join(blocks(path, "bash"))
    elif path.suffix == ".yaml":
        text = path.read_text(encoding="utf-8")
        comments = [
            line[1:] for line in text.splitlines() if line.startswith("#")
        ]
        lines = "\n".join(comments)
    else:
        lines = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    lines = re.sub(r"\\+\n\s*", " ", lines)
    found = []
    for line in lines.splitlines():
        line = line.strip()
        if re.match(r"(torchrun|python -m|python recipes|make|pytest) ", line):
            found.append(shlex.split(line, comments=True))
    return found


ALL = [
    pytest.param(words, id=f"{path.relative_to(ROOT)}:{number}")
    for path in [*DOCUMENTS, *SCRIPTS]
    for number, words in enumerate(commands(path))
]


def test_there_are_documents_and_commands():
    assert len(DOCUMENTS) >= 13
    assert len(ALL) >= 40
    for folder in ROOT.glob("recipes/*"):
        if folder.name != "__pycache__":
            assert (folder / "README.md").is_file(), folder


@pytest.mark.parametrize("words", ALL)
def test_command_is_accepted(words, monkeypatch):
    """Files exist and every option is one that the program knows."""
    monkeypatch.chdir(ROOT)
    program, *words = words
    if program == "make":
        targets = re.findall(r"^(\w+):", Path("Makefile").read_text(), re.M)
        assert words[0] in targets
        return
    if program == "pytest":
        assert all(Path(w).exists() for w in words if w.startswith("tests"))
        return
    while words[0].startswith("--") or words[0] == "-m":
        if words[0] == "-m":
            assert Path(*words[1].split(".")).with_suffix(".py").is_file()
            return
        words = words[1 if "=" in words[0] else 2 :]
    script, *words = words
    assert Path(script).is_file(), script
    if Path(script).name != "train.py":
        source = Path(script).read_text("utf-8")
        source += Path("muselq_modules/song_manifests.py").read_text("utf-8")
        for word in words:
            if word.startswith("--"):
                assert f'"{word.split("=")[0]}"' in source, word
        return
    yaml_path, given = split_command_line(words)
    root = read_tree(yaml_path)
    _, _, merged = read_options(given, root, yaml_path)
    check_tree(merged, yaml_path)


def test_links_lead_somewhere():
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path}: {target}"


def test_python_of_the_readme_runs(monkeypatch):
    monkeypatch.chdir(ROOT)  # where a reader stands after git clone
    snippets = blocks(ROOT / "README.md", "python")
    assert len(snippets) >= 3
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
