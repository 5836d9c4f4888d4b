"""One HTML page with the tables and pictures in it; it needs no other file."""

import base64
from html import escape

from muselq_modules.html_page import document

STYLE = """
body { margin: 2em auto; padding: 0 1em; max-width: 1200px; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 8px; border-bottom: 1px solid var(--line);
         text-align: left; white-space: nowrap;
         font-variant-numeric: tabular-nums; }
th { background: var(--head); }
div.table { overflow-x: auto; }
img { max-width: 100%; background: #fff; }
figure { display: inline-block; margin: 1em 1em 1em 0; vertical-align: top; }
.note { max-width: 60em; }
"""


def page(sections, pictures, runs):
    """The page as text.

    Parameters
    ----------
    sections : list of (title, (header, lines), note)
        Tables, each with a sentence below it.
    pictures : list of (title, Path)
    runs : list of dict
        From `muselq_modules.results.collect`.

    Example
    -------
    >>> text = page([("title", (["a"], [["<1>"]]), "note")], [], [])
    >>> "&lt;1&gt;" in text, "://" in text
    (True, False)
    """
    parts = ["<h1>MuseLQ: downstream tasks</h1>"]
    for title, table, note in sections:
        parts.append(f"<h2>{escape(title)}</h2>{_table(*table)}")
        parts.append(f'<p class="note">{escape(note)}</p>')
    parts.append("<h2>Pictures</h2>")
    for title, path in pictures:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        parts.append(
            f"<figure><figcaption>{escape(title)}</figcaption>"
            f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
            "</figure>"
        )
    parts.append(f"<h2>Every run</h2>{_table(*_run_table(runs))}")
    return document("MuseLQ results", "".join(parts), STYLE)


def _table(header, lines):
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
        for line in lines
    )
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _run_table(runs):
    """All metrics, and what would be needed to repeat each run."""
    header = ["Task", "Encoder", "Metrics (mean ± deviation over seeds)"]
    header += ["Layer", "Learning rate", "Train / valid / test", "Commit"]
    lines = []
    for run in runs:
        metrics = ", ".join(
            f"{name} {value['mean']:.3f} ± {value['std']:.3f}"
            for name, value in run["test"].items()
        )
        counts = " / ".join(
            str(run["counts"][split]["rows"])
            for split in ("train", "valid", "test")
        )
        commit = (run["commit"] or {}).get("commit", "")[:10]
        lines.append(
            [
                f"{run['dataset']} {run['task']}",
                run["row"],
                metrics,
                str(run["layer"]),
                f"{run['learning_rate']:g}",
                counts,
                commit,
            ]
        )
    return header, lines
