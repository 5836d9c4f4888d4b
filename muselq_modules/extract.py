"""Features of audio files and folders, on disk.

    python -m muselq_modules.extract IN OUT [--pretrained results/demo]

IN is a file, several files or a folder, of any length, rate and number of
channels. OUT mirrors it (``album/song.mp3`` -> ``album/song.mp3.npy``), with
``index.jsonl`` and ``skipped.tsv`` beside the features. A ten-hour file needs
no more memory than a ten-minute one. An interrupted call is simply repeated.
Without ``--pretrained`` the encoder of the repository is taken.

Exit code: 0 when every file is done, 1 when some were skipped, 2 when the run
stopped for a reason that its last line tells, 130 after Ctrl-C.
"""

import sys

from muselq_modules.baselines import load_any_encoder
from muselq_modules.encoder import choose_layers
from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.extraction import CONTEXTS, PRECISIONS, Plan
from muselq_modules.extraction_run import ExtractionRun, Storage
from muselq_modules.feature_files import WRITERS, import_arrow
from muselq_modules.feature_index import FeatureFolder
from muselq_modules.feature_rows import POOLS, SPANS
from muselq_modules.preparation import count_reasons
from muselq_modules.pretrained import SMALL_ENCODER, choose_device
from muselq_modules.recordings import find_recordings


def parse_layers(text, n_layers):
    """Layer numbers from what is typed.

    Example
    -------
    >>> parse_layers("last", 4), parse_layers("all", 4), parse_layers("-1,0", 4)
    ([4], [0, 1, 2, 3, 4], [4, 0])
    """
    if text == "all":
        return choose_layers(None, n_layers)
    try:
        numbers = [-1] if text == "last" else list(map(int, text.split(",")))
    except ValueError as error:
        raise UserError(
            f"--layers {text} is neither last nor all nor numbers such as "
            "0,3,-1: give one of these"
        ) from error
    return list(dict.fromkeys(choose_layers(numbers, n_layers)))


def extract(
    inputs,
    output,
    encoder,
    plan,
    storage,
    workers=0,
    overwrite=False,
    pretrained="",
):
    """Extract features of files and folders.

    Parameters
    ----------
    inputs : list of str or Path
        Audio files, and folders of them.
    output : str or Path
        Folder of the features.
    encoder : MusicEncoder or another encoder
        In evaluation mode, on its device.
    plan : Plan
        How to encode.
    storage : Storage
        What to store.
    workers : int
        Processes that decode; 0 for none.
    overwrite : bool
        Replace features of other settings instead of refusing them.
    pretrained : str
        Where the encoder is from, for the record.

    Returns
    -------
    skipped : list of tuple
        (name, reason) of the files that could not be used.

    Raises
    ------
    UserError
        For a mistake in what was asked for; nothing is written then.
    """
    if storage.format == "parquet":
        import_arrow()
    if storage.pool == "none" and storage.per == "window":
        raise UserError("--per window pools: add --pool mean or mean+std")
    recordings = find_recordings(inputs)
    run = ExtractionRun(encoder, plan, storage)
    settings = {**run.settings(), "pretrained": str(pretrained)}
    folder = FeatureFolder(output, settings, overwrite)
    run.run(folder, recordings, workers)
    return folder.skipped


def parse(argv):
    """The command line's arguments."""
    parser = CommandParser(
        prog="python -m muselq_modules.extract",
        description="Extract features of audio files and folders.",
        epilog="Exit code: 0 all done, 1 some files skipped, 2 stopped by "
        "what the last line says, 130 interrupted.",
    )
    parser.add_argument(
        "inputs", metavar="IN", nargs="+", help="audio files and folders"
    )
    parser.add_argument("output", metavar="OUT", help="folder for the features")

    parser.add_argument(
        "--pretrained",
        default=SMALL_ENCODER,
        help="any encoder (default: the small one of the repository)",
    )

    def add(name, default, what, shown=None, **options):
        text = f"{what} (default: {shown or default})"
        parser.add_argument(f"--{name}", default=default, help=text, **options)

    add("layers", "last", "hidden states: last, all, or such as 0,3,-1")
    add("pool", "none", "every token, or moments over time", choices=POOLS)
    add("per", "file", "with --pool: what makes a row", choices=SPANS)
    add("format", "npy", "of the files", choices=[*WRITERS])
    add("dtype", "float32", "of the files", choices=["float32", "float16"])
    add(
        "context",
        "windows",
        "overlapping windows, or one exact pass over each recording",
        choices=CONTEXTS,
    )
    add("window_s", 30.0, "seconds of a window", type=float)
    add("overlap_s", 5.0, "seconds cross-faded with the next", type=float)
    add("precision", "fp32", "of the encoder", choices=[*PRECISIONS])
    add("device", None, "cpu, cuda, cuda:1, mps", "the fastest there is")
    shown = "1 on a CPU, else 8"
    add("batch", None, "windows encoded together", shown, type=int)
    add("workers", None, "decoding processes, or 0", shown, type=int)
    add(
        "memory_gb",
        1.0,
        "with --context full: for one recording; longer ones use a file",
        type=float,
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace features made with other settings",
    )
    return parser.parse_args(argv)


@exits_cleanly
def main(argv=None):
    """The command line."""
    given = parse(argv)
    device = choose_device(given.device)
    on_cpu = device.type == "cpu"
    batch, workers = given.batch, given.workers
    if batch is None:
        batch = 1 if on_cpu else 8
    if workers is None:
        workers = 1 if on_cpu else 8
    if workers < 0:
        raise UserError(f"--workers {workers}: give 0 or more of them")
    encoder = load_any_encoder(given.pretrained, device)
    plan = Plan(
        parse_layers(given.layers, encoder.n_layers),
        given.context,
        given.window_s,
        given.overlap_s,
        given.precision,
        batch,
        given.memory_gb,
    )
    skipped = extract(
        given.inputs,
        given.output,
        encoder,
        plan,
        Storage(given.format, given.pool, given.per, given.dtype),
        workers,
        given.overwrite,
        given.pretrained,
    )
    if skipped:
        reasons = count_reasons(skipped).items()
        text = ", ".join(f"{number:,} {reason}" for reason, number in reasons)
        print(f"{len(skipped):,} skipped ({text}): see skipped.tsv")
        sys.exit(1)


if __name__ == "__main__":
    main()
