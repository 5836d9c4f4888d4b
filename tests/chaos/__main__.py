"""Try every fault and write the table.

PYTHONPATH=tests python -m chaos [--output DIR] [--share 1.0] [NAME ...]
"""

import argparse
import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.registry import FAULTS, Outcome, Place, try_fault
from chaos.suites import SUITES, try_suite
from muselq_modules.files import write_json, write_text

MODULES = (
    "kills",
    "job_faults",
    "machine",
    "processes",
    "data",
    "arithmetic",
    "endurance",
)
HEADER = (
    "| fault | tried | survived | lost | seconds |\n|---|---|---|---|---|\n"
)


def line(outcome):
    """A row of the table."""
    return (
        f"| {outcome.name} | {outcome.tried} | {outcome.survived} | "
        f"{outcome.lost} | {outcome.seconds:.0f} |\n"
    )


def earlier(folder):
    """Outcomes of an earlier table, by the name of the fault."""
    path = folder / "chaos.json"
    rows = json.loads(path.read_text("utf-8")) if path.is_file() else []
    return {row["name"]: Outcome(**row) for row in rows}


def outcomes_of(options, place):
    """Try what was asked for, one after the other."""

    def wanted(name):
        return not options.names or any(n in name for n in options.names)

    for fault in FAULTS:
        if wanted(fault.name):
            times = max(1, round(options.share * fault.times))
            yield try_fault(place, fault, times)
    for name in SUITES:
        if wanted(name):
            yield try_suite(name, place.root, options.share)


def main():
    """The command line; exit code 1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names; default all")
    parser.add_argument("--output", default="results/chaos", type=Path)
    parser.add_argument(
        "--share", default=1.0, type=float, help="of the trials; 0 tries once"
    )
    parser.add_argument("--seed", default=0, type=int)
    options = parser.parse_args()
    for name in MODULES:
        importlib.import_module(f"chaos.{name}")
    options.output.mkdir(parents=True, exist_ok=True)
    place = Place(Path(tempfile.mkdtemp(prefix="chaos-")), options.seed)
    # Faults that are tried by name take their place in an earlier table.
    outcomes = earlier(options.output) if options.names else {}
    print(HEADER, end="", flush=True)
    for outcome in outcomes_of(options, place):
        outcomes[outcome.name] = outcome
        print(line(outcome), end="", flush=True)
        for loss in outcome.losses:
            print(loss, file=sys.stderr)
        # Written after each: who stops it keeps what was tried.
        found = list(outcomes.values())
        table = HEADER + "".join(map(line, found))
        write_text(options.output / "chaos.md", table)
        write_json(options.output / "chaos.json", list(map(vars, found)))
    place.close()
    lost = sum(outcome.lost for outcome in outcomes.values())
    print(f"\n{lost} lost; the table is in {options.output / 'chaos.md'}")
    if lost:
        print(f"What is left of these trials is in {place.root}")
        sys.exit(1)
    shutil.rmtree(place.root)


if __name__ == "__main__":
    main()
