"""Table 3: gather the results of all probe runs under a folder.

    python -m muselq_modules.results results/

writes ``<folder>/report/``: ``results.md`` and ``results.csv`` (tables),
``results.json`` (everything), ``scores.png``, ``layers.png``,
``confusion_*.png`` and ``index.html``, one page that holds them all.
"""

import json
import logging
from pathlib import Path

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.files import write_json, write_text
from muselq_modules.preparation import write_csv
from muselq_modules.results_gains import GAINS_NOTE, gains, gains_table
from muselq_modules.results_tables import (
    long_rows,
    markdown,
    our_table,
    paper_table,
    table_columns,
)

logger = logging.getLogger(__name__)
PAPER = Path(__file__).with_name("paper_table3.json")
BASELINE_ORDER = ("chroma", "mfcc", "mel")


def collect(folder):
    """All finished runs under a folder.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    list of dict
        The ``results.json`` of each run, with ``folder`` and ``row``: the
        encoder's name, followed by what sets apart runs that share it.

    Raises
    ------
    UserError
        When there is none, or one cannot be read.
    """
    runs = {}
    for path in sorted(
        Path(folder).rglob("results.json"), key=lambda p: p.stat().st_mtime
    ):
        try:
            run = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UserError(
                f"{path} is not valid JSON ({error}): repeat that run."
            ) from None
        if not isinstance(run, dict) or not {"test", "encoder"} <= set(run):
            continue  # another program's file, or this one's own report
        run["folder"] = path.parent
        key = (run["dataset"], run["task"], *_row_key(run))
        if key in runs:
            logger.warning(
                "%s and %s are the same encoder and task: the newer one, %s, "
                "is shown.",
                runs[key]["folder"],
                path.parent,
                path.parent,
            )
        runs[key] = run
    if not runs:
        raise UserError(
            f"No finished run (results.json) is under {folder}: give the "
            "output_folder of the recipes."
        )
    runs = list(runs.values())
    _name_rows(runs)
    return sorted(runs, key=_order)


def _row_key(run):
    """What makes two runs of a task two rows of a table."""
    return (
        run["encoder"]["name"],
        run["encoder"]["digest"],
        run["protocol"],
        run["probe"]["finetune"],
    )


def _name_rows(runs):
    names = {}
    for run in runs:
        names.setdefault(run["encoder"]["name"], set()).add(_row_key(run)[1])
    protocols = {run["protocol"] for run in runs}
    for run in runs:
        row = run["encoder"]["name"]
        if len(names[row]) > 1:
            row += f" {run['encoder']['digest'][:6]}"
        if len(protocols) > 1:
            row += f" ({run['protocol']})"
        if run["probe"]["finetune"]:
            row += " (fine-tuned)"
        run["row"] = row


def _order(run):
    """Baselines first, then untrained encoders, then trained ones."""
    name = run["encoder"]["name"]
    if name in BASELINE_ORDER:
        return (0, BASELINE_ORDER.index(name), run["row"])
    return (1 if name.startswith("random") else 2, 0, run["row"])


def write_report(folder, output=None):
    """Write all tables, pictures and the page.

    Parameters
    ----------
    folder : str or Path
        Where the runs are.
    output : str or Path, optional
        Where the report goes. Default: ``<folder>/report``.

    Returns
    -------
    Path
        ``index.html``
    """
    # Imported here: drawing takes a second, reading tables should not.
    from muselq_modules import results_page, results_plots

    runs = collect(folder)
    paper = json.loads(PAPER.read_text("utf-8"))
    output = Path(output or Path(folder) / "report")
    output.mkdir(parents=True, exist_ok=True)
    columns = table_columns(runs, paper)
    found = gains(runs, columns)
    sections = [("Results", our_table(runs, paper), explain(runs))]
    if found:
        table = gains_table(found)
        sections.append(("What training gave", table, GAINS_NOTE))
    sections.append(("Table 3 of the paper", paper_table(paper), paper["note"]))
    write_text(
        output / "results.md",
        "\n".join(
            f"{markdown(*table)}\n{note}\n" for _, table, note in sections
        ),
    )
    write_csv(output / "results.csv", long_rows(runs), list(long_rows(runs)[0]))
    plain = [{**run, "folder": str(run["folder"])} for run in runs]
    write_json(
        output / "results.json", {"runs": plain, "gains": found, "paper": paper}
    )
    pictures = results_plots.draw_all(runs, columns, output)
    page = results_page.page(sections, pictures, runs)
    write_text(output / "index.html", page)
    for _, table, _ in sections[:-1]:
        print(markdown(*table))
    return output / "index.html"


def explain(runs):
    """The sentence below our table."""
    seeds = sorted({len(run["seeds"]) for run in runs})
    return (
        f"Mean over {' or '.join(map(str, seeds))} seeds and bootstrap 95 % "
        "interval over the test tracks. Layer and learning rate are chosen on "
        'the validation split. Columns headed "paper" were measured under '
        "another protocol."
    )


@exits_cleanly
def main(argv=None):
    """The command line."""
    parser = CommandParser(
        prog="python -m muselq_modules.results",
        description="Gather probe results into tables, pictures and a page.",
    )
    parser.add_argument("folder", help="folder that holds the runs")
    parser.add_argument("--output", help="default: <folder>/report")
    arguments = parser.parse_args(argv)
    page = write_report(arguments.folder, arguments.output)
    print(f"{page} holds the tables and pictures.")


if __name__ == "__main__":
    main()
