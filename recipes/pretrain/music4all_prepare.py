#!/usr/bin/env python3
"""Prepare Music4All for pre-training: 109,269 clips of 30 s, 910 hours.

    python recipes/pretrain/music4all_prepare.py \\
        --data_folder DIR --manifest_folder DIR

Source: on request, with a signed agreement, from
https://sites.google.com/view/contact4music4all. Licence: research only; the
audio may not be passed on. No checksum is published.

Layout of the data folder:
    audios/0009fFIM1eYThaPg.mp3 ...   the name is the id, 16 characters
    id_information.csv                tab-separated: id, artist, song, album

Split: none is official. 98 % of the artists train, 2 % validate, by a hash of
the artist's name, so that no artist is on both sides.

@inproceedings{santana2020music4all,
  title = {Music4All: A New Music Database and Its Applications},
  author = {Santana, Igor Andr{\\'e} Pegoraro and Pinhelli, Fabio and Donini,
            Juliano and Catharin, Leonardo and Mangolin, Rafael Biazus and
            Costa, Yandre Maldonado e Gomes da and Feltrim, Val{\\'e}ria
            Delisandra and Domingues, Marcos Aur{\\'e}lio},
  booktitle = {2020 International Conference on Systems, Signals and Image
               Processing (IWSSIP)},
  year = {2020},
  doi = {10.1109/IWSSIP48289.2020.9145170}
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

N_CLIPS = 109269


def read_artists(path):
    """Read the artist of each clip from id_information.csv.

    Parameters
    ----------
    path : str or Path
        The tab-separated table.

    Returns
    -------
    dict of str to str
        Id -> artist, in lower case and without spaces around.

    Raises
    ------
    UserError
        When the columns `id` and `artist` are missing.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        # Titles hold single quotation marks, which quote nothing.
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"id", "artist"} <= set(table.fieldnames or []):
            raise UserError(
                f"{path} has no tab-separated columns 'id' and 'artist': use "
                "the file of the official archive"
            )
        return {
            row["id"].strip(): (row["artist"] or "").strip().casefold()
            for row in table
        }


def find_songs(root):
    """Return the `Songs` of Music4All, grouped by artist.

    Parameters
    ----------
    root : Path
        Holds audios and id_information.csv.

    Returns
    -------
    Songs
    """
    audio = require_folder(root / "audios", "Music4All", "audios/<id>.mp3")
    information = require_file(
        root / "id_information.csv",
        "Music4All",
        "it tells the artists, by which the split is made",
    )
    with telling_damage(information, "copy it from the archive again"):
        artists = read_artists(information)
    groups, skipped = {}, []
    for name in find_audio(audio):
        path, clip = f"audios/{name}", name.removesuffix(".mp3")
        if clip in artists:
            groups[path] = artists[clip] or clip
        else:
            skipped.append((path, "unknown: not in id_information.csv"))
    check_counts(
        "Music4All", {"clips": len(groups) + len(skipped)}, {"clips": N_CLIPS}
    )
    return Songs(groups, skipped=skipped)


def prepare_music4all(data_folder, manifest_folder, **options):
    """Write the manifests of Music4All.

    Parameters
    ----------
    data_folder, manifest_folder : str or Path
        The unpacked dataset; where train.csv and valid.csv go.
    **options
        `segment_s`, `min_tail_s`, `valid_fraction`, `workers`,
        `transcode_folder`, `refresh`: see `prepare_songs`.

    Returns
    -------
    dict
        The content of summary.json.
    """
    return prepare_songs(
        "music4all", find_songs, data_folder, manifest_folder, **options
    )


@exits_cleanly
def main():
    """Run from the command line."""
    parser = song_parser("Prepare Music4All for pre-training.")
    prepare_music4all(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
