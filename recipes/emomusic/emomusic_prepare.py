r"""EmoMusic: arousal and valence of 744 clips (MediaEval 2013, 1000 songs).

Source: https://cvml.unige.ch/databases/emoMusic/ (on request):
``clips_45sec.tar.gz``, sha256
3994a5d5fefc27f9540d1a69cd7f1294c68e6cb311ce49765021e2e9c7a1057b, and
``annotations.tar.gz``, sha256
e0cb0b06e1b0ce7f04b1572fc410937699b7fad9dae67ddaa745f06cda4b0b33.
Licence: songs are Creative Commons (from the Free Music Archive); annotations
are for research.

Expected layout::

    data_folder/
        clips_45seconds/2.mp3, 3.mp3, ..., 1000.mp3
        static_annotations.csv  songs_info.csv   (or both in annotations/)

Expected counts: 744 clips of 45 s (1000 less the duplicates), 619 of them
"development" and 125 "evaluation". No broken file is known.

The split: test is the evaluation set; of the development set the artists
whose hash falls in two tenths are valid: 504 / 115 / 125, the split that
jukemir published and MARBLE uses. Evaluation shares 43 artists with
development.

    @inproceedings{soleymani2013songs,
      title     = {1000 Songs for Emotional Analysis of Music},
      author    = {Soleymani, Mohammad and Caro, Micheal N. and
                   Schmidt, Erik M. and Sha, Cheng-Ya and Yang, Yi-Hsuan},
      booktitle = {Proceedings of the 2nd ACM International Workshop on
                   Crowdsourcing for Multimedia},
      year      = {2013},
      doi       = {10.1145/2506364.2506365}
    }

    python recipes/emomusic/emomusic_prepare.py \
        --data_folder /data/emomusic --manifest_folder manifests/emomusic
"""

import csv
import hashlib
import random
from itertools import zip_longest
from pathlib import Path
from statistics import fmean, pstdev

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.manifests import is_prepared, write_manifests
from muselq_modules.preparation import (
    require_file,
    require_folder,
    telling_damage,
)

TARGETS = ("arousal", "valence")  # the order of the outputs
EXPECTED = {  # rows by random_split
    False: {"train": 504, "valid": 115, "test": 125},
    True: {"train": 595, "valid": 74, "test": 75},
}
LAYOUT = "clips_45seconds/ and static_annotations.csv in it"
UNPACK_AGAIN = "unpack annotations.tar.gz again"


def prepare_emomusic(
    data_folder, manifest_folder, random_split=False, seed=1234
):
    """Writes train.csv, valid.csv, test.csv (a row a clip) and skipped.tsv.

    The columns ``arousal`` and ``valence`` are z-scores by the mean and
    standard deviation of the training clips, ``mean_arousal`` and
    ``mean_valence`` the annotations from 1 to 9. r2 is the same for both.

    Parameters
    ----------
    data_folder : str or Path
        Folder that holds ``clips_45seconds/`` and the annotations.
    manifest_folder : str or Path
        Where the manifests go; nothing is done if they are there already.
    random_split : bool
        80/10/10 % at random (595 / 74 / 75 clips) instead of the split by set
        and artist.
    seed : int
        Of the random split; without meaning for the other one.

    Raises
    ------
    UserError
        If the layout or an annotation is not as described.
    """
    data_folder = Path(data_folder).resolve()
    options = {
        "data_folder": str(data_folder),
        "random_split": random_split,
        "seed": seed,
    }
    if is_prepared(manifest_folder, options):
        return
    require_folder(data_folder, "the EmoMusic folder", LAYOUT)
    require_folder(
        data_folder / "clips_45seconds",
        "the clips of EmoMusic",
        "1000.mp3 and 743 others of clips_45sec.tar.gz",
    )
    rows = read_songs(data_folder)
    if random_split:
        split_at_random(rows, seed)
    for target in TARGETS:
        standardise(rows, target)
    write_manifests(
        manifest_folder,
        data_folder,
        rows,
        options,
        name="EmoMusic",
        expected=EXPECTED[random_split],
    )


def read_songs(data_folder):
    """Joins static_annotations.csv and songs_info.csv.

    Returns
    -------
    rows : list of dict
        One for each song, with the annotations from 1 to 9.
    """
    info = read_annotations(
        data_folder, "songs_info.csv", ("Artist", "Mediaeval 2013 set")
    )
    annotations = read_annotations(
        data_folder, "static_annotations.csv", ("mean_arousal", "mean_valence")
    )
    rows = []
    for song_id, annotation in annotations.items():
        if song_id not in info:
            raise UserError(
                f"songs_info.csv in {data_folder} lacks song {song_id} of "
                f"static_annotations.csv: {UNPACK_AGAIN}"
            )
        artist = normal_artist(info[song_id]["Artist"])
        rows.append(
            {
                "split": official_split(info[song_id], artist),
                "path": f"clips_45seconds/{song_id}.mp3",
                "mean_arousal": rating(annotation, "mean_arousal"),
                "mean_valence": rating(annotation, "mean_valence"),
                "artist": artist,
                "group": f"song {song_id}",  # test shares artists with train
            }
        )
    return rows


def read_annotations(data_folder, name, columns):
    """Reads a csv file whose cells carry stray spaces and tabs.

    Returns
    -------
    rows : dict
        Song id -> {column: value}, all stripped.
    """
    folder = data_folder
    if (data_folder / "annotations" / name).is_file():
        folder = data_folder / "annotations"
    path = folder / name
    require_file(path, "the annotations of EmoMusic", UNPACK_AGAIN)
    # Only the letters a to z of a name matter, whatever its encoding.
    with (
        telling_damage(path, UNPACK_AGAIN),
        path.open(encoding="utf-8-sig", errors="replace", newline="") as file,
    ):
        table = [[cell.strip() for cell in line] for line in csv.reader(file)]
    header, *lines = [line for line in table if any(line)] or [[]]
    for column in ("song_id", *columns):
        if column not in header:
            raise UserError(f"{path} has no column '{column}': {UNPACK_AGAIN}")
    rows = [dict(zip_longest(header, line, fillvalue="")) for line in lines]
    return {row["song_id"]: row for row in rows}


def rating(annotation, column):
    """The annotation as a number from 1 to 9."""
    try:
        value = float(annotation[column])
    except ValueError:
        value = 0.0
    if not 1 <= value <= 9:
        raise UserError(
            f"static_annotations.csv: {column} of song "
            f"{annotation['song_id']} is '{annotation[column]}', not a number "
            f"from 1 to 9: {UNPACK_AGAIN}"
        )
    return value


def normal_artist(artist):
    """Lower-case letters a to z and single spaces.

    >>> normal_artist("Vieux  Farka Touré & Friends")
    'vieux farka tour friends'
    """
    kept = [c for c in artist.lower() if c.isascii()]
    kept = [c for c in kept if c.isalpha() or c.isspace()]
    return " ".join("".join(kept).split())


def official_split(info, artist):
    """Test is the evaluation set; the artist's SHA-1 parts development."""
    name = info["Mediaeval 2013 set"]
    if name == "evaluation":
        return "test"
    if name != "development":
        raise UserError(
            f"songs_info.csv: the Mediaeval 2013 set of song "
            f"{info['song_id']} is '{name}', not development or evaluation: "
            f"{UNPACK_AGAIN}"
        )
    digest = hashlib.sha1(artist.encode()).hexdigest()
    return "train" if int(digest, 16) % 10 < 8 else "valid"


def split_at_random(rows, seed):
    """80 % train, 10 % valid, the rest test."""
    n_train, n_valid = int(0.8 * len(rows)), int(0.1 * len(rows))
    shuffled = random.Random(seed).sample(rows, len(rows))
    for index, row in enumerate(shuffled):
        if index < n_train:
            row["split"] = "train"
        else:
            row["split"] = "valid" if index < n_train + n_valid else "test"


def standardise(rows, target):
    """Adds the column `target`: z-scores by the training clips."""
    column = f"mean_{target}"
    train = [row[column] for row in rows if row["split"] == "train"]
    if len(set(train)) < 2:
        raise UserError(
            f"static_annotations.csv: {column} has no two different values in "
            f"the training clips: {UNPACK_AGAIN}"
        )
    mean, deviation = fmean(train), pstdev(train)
    for row in rows:
        row[target] = f"{(row[column] - mean) / deviation:.6f}"


@exits_cleanly
def main():
    """The command line."""
    parser = CommandParser(description="Prepare EmoMusic")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--manifest_folder", required=True)
    parser.add_argument("--random_split", action="store_true")
    parser.add_argument("--seed", type=int, default=1234)
    prepare_emomusic(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
