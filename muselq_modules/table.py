"""Run every downstream task whose data is there, then make the table.

    python -m muselq_modules.table /data results/brn_summary/1234 results/table

``/data`` holds one folder for each recipe, named as the recipe (``gtzan``,
``nsynth``, ...). Each task runs for the encoder, for the same architecture
untrained, and for the baselines. ``mert:95M`` or
``python:my_module.my_encoder`` in the place of the run folder adds somebody
else's encoder to the same table. Finished runs are kept, so an interrupted
call is simply repeated; a task that fails is named at the end and does not
stop the others.
"""

import subprocess
import sys
from pathlib import Path

from muselq_modules.errors import CommandParser, UserError, exits_cleanly

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
BASELINES = ("mel", "mfcc", "chroma")


def find_tasks(data, recipes=RECIPES):
    """Tasks whose data is there, and the names of the others.

    Parameters
    ----------
    data : str or Path
        Holds a folder for each dataset.
    recipes : Path
        The recipes' folder.

    Returns
    -------
    present : list of tuple
        (train.py, YAML, data folder) of each task.
    absent : list of str
        Recipes without a data folder.

    Raises
    ------
    UserError
        When there is no recipe or no data at all.
    """
    recipes = Path(recipes)
    present, absent = [], []
    for script in sorted(recipes.glob("*/train.py")):
        folder = script.parent
        tasks = sorted((folder / "hparams").glob("*.yaml"))
        if not tasks or folder.name == "template":
            continue
        if (Path(data) / folder.name).is_dir():
            present += [(script, t, Path(data) / folder.name) for t in tasks]
        else:
            absent.append(folder.name)
    if not present:
        raise UserError(
            f"{data} holds none of the folders {', '.join(absent)}: link or "
            "move each dataset to a folder of that name."
        )
    return present, absent


def command(script, yaml, data_folder, encoder, output_folder, options=()):
    """The command line of one run, as a list."""
    return [
        sys.executable,
        str(script),
        str(yaml),
        "--data_folder",
        str(data_folder),
        "--pretrained",
        str(encoder),
        "--output_folder",
        str(output_folder),
        *options,
    ]


@exits_cleanly
def main(argv=None):
    """Run from the command line."""
    parser = CommandParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="one folder for each recipe")
    parser.add_argument(
        "pretrained", help="run folder of an encoder, mert:95M, python:..."
    )
    parser.add_argument("results", help="where the runs and the page go")
    parser.add_argument(
        "--baselines",
        nargs="*",
        default=["random", *BASELINES],
        choices=["random", *BASELINES],
        help="rows beside the encoder",
    )
    known, options = parser.parse_known_args(argv)
    present, absent = find_tasks(known.data)
    encoders = [known.pretrained]
    for name in known.baselines:
        if name != "random":
            encoders.append(name)
        elif not known.pretrained.startswith(("mert:", "python:")):
            encoders.append(f"random:{known.pretrained}")
    failed, total = [], len(present) * len(encoders)
    for number, (script, yaml, folder) in enumerate(present):
        for place, encoder in enumerate(encoders):
            count = number * len(encoders) + place + 1
            name = f"{script.parent.name}/{yaml.stem}, {encoder}"
            print(f"[{count}/{total}] {name}", flush=True)
            line = command(
                script, yaml, folder, encoder, known.results, options
            )
            if subprocess.run(line).returncode != 0:
                failed.append(name)
    for name in absent:
        print(f"Skipped {name}: {Path(known.data) / name} does not exist.")
    subprocess.run(
        [sys.executable, "-m", "muselq_modules.results", known.results],
        check=True,
    )
    if failed:
        raise UserError(
            f"{len(failed)} of {total} runs failed: {'; '.join(failed)}: see "
            "their messages above, and repeat the command when mended."
        )


if __name__ == "__main__":
    main()
