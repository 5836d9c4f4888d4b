#!/usr/bin/env python3
"""Prepare FMA-large for pre-training: 106,574 clips of 30 s, 888 hours.

    python recipes/pretrain/fma_prepare.py \\
        --data_folder DIR --manifest_folder DIR

Source: https://github.com/mdeff/fma, files fma_large.zip (93 GiB, SHA-1
497109f4dd721066b5ce5e5f250ec604dc78939e) and fma_metadata.zip (342 MiB, SHA-1
f0df49ffe5f2a6008d7dc83c6915b31835dfe733); older versions of unzip fail on
them, 7zip does not. Licence: each track has its own Creative Commons licence
(tracks.csv, track.license), many of them non-commercial; metadata CC BY 4.0.

Layout of the data folder:
    fma_large/000/000002.mp3 ...   the folder is the first three digits
    fma_metadata/tracks.csv

Split: the official one, where training and test are trained on and validation
validates; `--use_all` trains on validation too and splits by `valid_fraction`.
Known faults: some clips are empty or end after a few seconds as their length
was wrong in the source (`BROKEN_TRACKS`); decoding finds others. Songs of less
than 30 s are there in full. EmoMusic's songs come from the same archive, so
that an encoder trained here may have heard its test set.

@inproceedings{fma_dataset,
  title = {{FMA}: A Dataset for Music Analysis},
  author = {Defferrard, Micha{\\"e}l and Benzi, Kirell and Vandergheynst, Pierre
            and Bresson, Xavier},
  booktitle = {18th International Society for Music Information Retrieval
               Conference (ISMIR)},
  year = {2017},
  eprint = {1612.01840}
}
"""

import csv

from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.preparation import (
    check_counts,
    find_audio,
    require_file,
    require_folder,
    telling_damage,
)
from muselq_modules.song_manifests import Songs, prepare_songs, song_parser

N_CLIPS = 106574
# Clips of less than 6 s that the source confirms as cut by a wrong length.
BROKEN_TRACKS = frozenset(
    [1486, 5574, 65753, 80391, 98558, 98559, 98560, 98565, 98566, 98567]
    + [98568, 98569, 98571, 99134, 105247, 108925, 126981, 127336, 133297]
    + [143992]
)


def read_splits(path):
    """Read the official split of tracks.csv.

    Parameters
    ----------
    path : str or Path
        A table with three header rows: group, column, name of the index.

    Returns
    -------
    dict of int to str
        Track id -> training, validation or test.

    Raises
    ------
    UserError
        When the table has no such column.
    """
    # Some artists wrote a book about themselves, in one cell.
    csv.field_size_limit(2**24)
    with open(path, encoding="utf-8", newline="") as file:
        table = csv.reader(file)
        columns = list(zip(next(table, []), next(table, []), strict=False))
        if ("set", "split") not in columns:
            raise UserError(
                f"{path} has no column 'split' below 'set': unpack "
                "fma_metadata.zip again"
            )
        column = columns.index(("set", "split"))
        return {
            int(row[0]): row[column]
            for row in table
            if row and row[0].isdigit() and len(row) > column
        }


def find_songs(root, use_all=False):
    """Return the `Songs` of FMA-large.

    Parameters
    ----------
    root : Path
        Holds fma_large and fma_metadata.
    use_all : bool
        Whether to ignore the official split.

    Returns
    -------
    Songs
    """
    audio = require_folder(
        root / "fma_large", "FMA-large", "fma_large/000/000002.mp3 ..."
    )
    tracks = require_file(
        root / "fma_metadata" / "tracks.csv",
        "FMA-large",
        "unpack fma_metadata.zip beside fma_large",
    )
    with telling_damage(tracks, "unpack fma_metadata.zip again"):
        splits = read_splits(tracks)
    groups, valid, skipped = {}, set(), []
    for name in find_audio(audio):
        path = f"fma_large/{name}"
        stem = name.rpartition("/")[2].removesuffix(".mp3")
        track = int(stem) if stem.isascii() and stem.isdigit() else None
        if track not in splits:
            skipped.append((path, "unknown: not in tracks.csv"))
        elif track in BROKEN_TRACKS:
            skipped.append((path, "known fault: clip cut by a wrong length"))
        else:
            groups[path] = path
            if splits[track] == "validation":
                valid.add(path)
    check_counts(
        "FMA-large", {"clips": len(groups) + len(skipped)}, {"clips": N_CLIPS}
    )
    return Songs(groups, None if use_all else valid, skipped)


def prepare_fma(data_folder, manifest_folder, use_all=False, **options):
    """Write the manifests of FMA-large.

    Parameters
    ----------
    data_folder, manifest_folder : str or Path
        The unpacked dataset; where train.csv and valid.csv go.
    use_all : bool
        Whether to train on the official validation set, too, and validate on
        `valid_fraction` of all clips.
    **options
        `segment_s`, `min_tail_s`, `valid_fraction`, `workers`,
        `transcode_folder`, `refresh`: see `prepare_songs`.

    Returns
    -------
    dict
        The content of summary.json.
    """
    return prepare_songs(
        "fma",
        find_songs,
        data_folder,
        manifest_folder,
        find_options={"use_all": use_all},
        **options,
    )


@exits_cleanly
def main():
    """Run from the command line."""
    parser = song_parser("Prepare FMA-large for pre-training.")
    parser.add_argument(
        "--use_all",
        action="store_true",
        help="ignore the official split; use valid_fraction",
    )
    prepare_fma(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
