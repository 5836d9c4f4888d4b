#!/usr/bin/env python3
"""Prepare any folder of songs for pre-training.

    python recipes/pretrain/folder_prepare.py \\
        --data_folder DIR --manifest_folder DIR

Every audio file below the folder is decoded once; what is hidden, damaged,
truncated, silent or shorter than `min_tail_s` is listed in skipped.tsv with
the reason. Songs go to validation by a hash of their relative path, so that
the split stays as it is when songs are added. Interrupt it at any time: the
same command continues. `--refresh` looks for songs added since.
"""

from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.preparation import find_audio
from muselq_modules.song_manifests import Songs, prepare_songs, song_parser


def find_songs(root):
    """Return the `Songs` of a folder and of all folders in it.

    Parameters
    ----------
    root : Path
        The folder.

    Returns
    -------
    Songs
    """
    paths = find_audio(root)
    if not paths:
        raise UserError(f"no audio file in {root}: check the path")
    return Songs({path: path for path in paths})


def prepare_folder(data_folder, manifest_folder, **options):
    """Write the manifests of a folder of songs.

    Parameters
    ----------
    data_folder, manifest_folder : str or Path
        The songs; where train.csv and valid.csv go.
    **options
        `segment_s`, `min_tail_s`, `valid_fraction`, `workers`,
        `transcode_folder`, `refresh`: see `prepare_songs`.

    Returns
    -------
    dict
        The content of summary.json.
    """
    return prepare_songs(
        "folder", find_songs, data_folder, manifest_folder, **options
    )


@exits_cleanly
def main():
    """Run from the command line."""
    parser = song_parser("Prepare any folder of songs for pre-training.")
    prepare_folder(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
