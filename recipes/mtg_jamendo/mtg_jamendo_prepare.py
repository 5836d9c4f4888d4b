r"""Prepare MTG-Jamendo: top50tags, genre, instrument or moodtheme

Source: https://mtg.github.io/mtg-jamendo-dataset/, repository
https://github.com/MTG/mtg-jamendo-dataset, doi 10.5281/zenodo.3826813. Clone
the repository, then run in it
`scripts/download/download.py --dataset raw_30s --type audio-low DIR --unpack
--remove`, which checks the SHA-256 sums that the repository lists. 156 GB
(`audio-low`, mono) or 508 GB (`audio`, 320 kbit/s); "raw_30s" are whole
tracks of more than 30 s, not excerpts.

Licence: audio under individual Creative Commons licences
(audio_licenses.txt); metadata and splits CC BY-NC-SA 4.0.

Layout, where <split> is found as data/splits/split-N (the repository),
splits/split-N, split-N or the data folder itself, and the folders 00 ... 99
in the data folder, audio/ or audio-low/ (or these in raw_30s/)::

    <data_folder>/<split>/autotagging_<subset>-{train,validation,test}.tsv
    <data_folder>/{00 ... 99}/<track>.mp3  or  <track>.low.mp3

The tables end their lines with CRLF and have as many columns as tags.

Counts of split-0 (train / valid / test, tags):
    top50tags   32,136 / 10,888 / 11,356   50
    genre       32,572 / 11,043 / 11,479   87
    instrument  14,395 /  5,466 /  5,115   40
    moodtheme    9,949 /  3,802 /  4,231   56
No artist straddles the splits. No file is known to be broken.

Citation::

    @inproceedings{bogdanov2019mtg,
      author = {Bogdanov, Dmitry and Won, Minz and Tovstogan, Philip and
        Porter, Alastair and Serra, Xavier},
      title = {The MTG-Jamendo Dataset for Automatic Music Tagging},
      booktitle = {Machine Learning for Music Discovery Workshop, ICML},
      year = {2019}, url = {http://hdl.handle.net/10230/42015}}

    python recipes/mtg_jamendo/mtg_jamendo_prepare.py --subset genre \
        --data_folder /data/jamendo --manifest_folder manifests/jamendo_genre
"""

from pathlib import Path

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.manifests import is_prepared, write_manifests
from muselq_modules.preparation import (
    require_folder,
    telling_damage,
)

SUBSETS = ("top50tags", "genre", "instrument", "moodtheme")
N_SPLITS = 5
TABLES = {"train": "train", "valid": "validation", "test": "test"}
HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
AUDIO_FOLDERS = (
    "",
    "audio-low/",
    "audio/",
    "raw_30s/audio-low/",
    "raw_30s/audio/",
)
EXPECTED = {  # rows of split-0
    "top50tags": {"train": 32136, "valid": 10888, "test": 11356},
    "genre": {"train": 32572, "valid": 11043, "test": 11479},
    "instrument": {"train": 14395, "valid": 5466, "test": 5115},
    "moodtheme": {"train": 9949, "valid": 3802, "test": 4231},
}


def read_table(path):
    """Reads a table of tracks, whose lines have one column a tag

    Parameters
    ----------
    path : Path
        Tab-separated, with the columns of `HEADER`.

    Returns
    -------
    list of dict
        Keys path, tags (list of str) and artist.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].split("\t") != HEADER:
        raise UserError(
            f"{path} does not begin with the columns {', '.join(HEADER)}: "
            "restore it from the mtg-jamendo-dataset repository"
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        _, artist, _, track, _, *tags = line.split("\t") + [""] * 6
        tags = [tag for tag in tags if tag]
        if not tags or not track.endswith(".mp3"):
            raise UserError(
                f"{path}, line {number}: no path and tags: restore it from "
                "the mtg-jamendo-dataset repository"
            )
        rows.append({"path": track, "tags": tags, "artist": artist})
    return rows


def find_tables(data_folder, subset, split):
    """The folder of the tables of a split"""
    name = f"split-{split}"
    places = [f"data/splits/{name}", f"splits/{name}", name, "."]
    places.insert(0, f"mtg-jamendo-dataset/data/splits/{name}")
    for place in places:
        folder = data_folder / place
        if (folder / f"autotagging_{subset}-train.tsv").is_file():
            return folder
    raise UserError(
        f"{data_folder} holds no data/splits/{name}/autotagging_{subset}-"
        "train.tsv: copy the folder data/splits of the mtg-jamendo-dataset "
        "repository there"
    )


def find_audio(data_folder, tracks):
    """Maps each track of the tables to its file, both relative

    A track without a file maps to the name in the table, so that the check
    of the audio reports it.
    """
    places = (
        "",
        "audio-low/",
        "audio/",
        "raw_30s/audio-low/",
        "raw_30s/audio/",
    )
    present = [p for p in places if any((data_folder / p).glob("[0-9][0-9]"))]
    if not present:
        raise UserError(
            f"{data_folder} holds none of the folders 00 ... 99: unpack the "
            "audio of MTG-Jamendo there (download.py --unpack)"
        )
    prefix = present[0]
    files = {}
    for track in tracks:
        low = track.removesuffix(".mp3") + ".low.mp3"
        names = (prefix + track, prefix + low)
        found = [name for name in names if (data_folder / name).is_file()]
        files[track] = (found or names)[0]
    return files


def prepare_mtg_jamendo(
    data_folder, manifest_folder, subset, split=0, scan_cache=None
):
    """Writes train.csv, valid.csv, test.csv and labels.txt, once

    Parameters
    ----------
    data_folder : str or Path
        Holds the tables and the audio.
    manifest_folder : str or Path
        Receives the manifests (columns ID, path, duration, tags, group).
    subset : str
        One of `SUBSETS`.
    split : int
        0 to 4; published results use 0.
    scan_cache : str or Path, optional
        A file (.jsonl) that the subsets share, so that the audio they have
        in common is decoded only once.

    Raises
    ------
    UserError
        If the tables or the audio are missing or malformed.
    """
    if subset not in SUBSETS:
        raise UserError(f"subset '{subset}': choose from {', '.join(SUBSETS)}")
    if split not in range(N_SPLITS):
        raise UserError(f"split {split}: choose from 0 to {N_SPLITS - 1}")
    data_folder = Path(data_folder).resolve()
    options = {
        "data_folder": str(data_folder),
        "subset": subset,
        "split": split,
    }
    if is_prepared(manifest_folder, options):
        return
    require_folder(
        data_folder,
        "the MTG-Jamendo data folder",
        "it should hold data/splits/ and the audio folders 00 ... 99",
    )
    tables = find_tables(data_folder, subset, split)
    tracks = []
    for name, table in TABLES.items():
        path = tables / f"autotagging_{subset}-{table}.tsv"
        if not path.is_file():
            raise UserError(
                f"{path} is missing: copy the folder data/splits of the "
                "mtg-jamendo-dataset repository again"
            )
        with telling_damage(path, "copy the folder data/splits again"):
            tracks += [track | {"split": name} for track in read_table(path)]
    files = find_audio(data_folder, [track["path"] for track in tracks])
    rows = [
        {
            "split": track["split"],
            "path": files[track["path"]],
            "tags": "|".join(sorted(track["tags"])),
            "group": track["artist"],
        }
        for track in tracks
    ]
    write_manifests(
        manifest_folder,
        data_folder,
        rows,
        options,
        name=f"MTG-Jamendo {subset}",
        labels=sorted({tag for track in tracks for tag in track["tags"]}),
        expected=EXPECTED[subset] if split == 0 else None,
        scan_cache=scan_cache,
    )


@exits_cleanly
def main():
    """The command line"""
    parser = CommandParser(description="Prepare MTG-Jamendo")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--manifest_folder", required=True)
    parser.add_argument("--subset", required=True, choices=SUBSETS)
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--scan_cache")
    prepare_mtg_jamendo(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
