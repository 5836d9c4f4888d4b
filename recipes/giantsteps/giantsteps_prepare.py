r"""Prepare GiantSteps: train on GiantSteps-MTG-keys, test on GiantSteps key

Source: https://github.com/GiantSteps/giantsteps-mtg-key-dataset (1,486
tracks) and https://github.com/GiantSteps/giantsteps-key-dataset (604). Clone
both and run `./audio_dl.sh` in each: it fetches `audio/<id>.LOFI.mp3`, whose
MD5 sums are in `md5/<id>.LOFI.md5`.

Licence: the repositories name none; their re-releases on Zenodo
(10.5281/zenodo.1101082 and 10.5281/zenodo.1095691) are CC BY-SA 4.0. The audio
are Beatport previews under copyright, for research.

Layout::

    <data_folder>/giantsteps-mtg-key-dataset/
        annotations/annotations.txt         ID <TAB> MANUAL KEY <TAB> C
        annotations/beatport_metadata.txt   artists, for the split
        annotations/key/<id>.LOFI.key       key, confidence, comment
        audio/<id>.LOFI.mp3
    <data_folder>/giantsteps-key-dataset/
        annotations/key/<id>.LOFI.key       "D major", without a newline
        audio/<id>.LOFI.mp3

Counts: of the 1,486 tracks 1,159 have one key of full confidence (C = 2). The
artist-grouped split of the literature (Castellon et al. 2021), derived here
from `beatport_metadata.txt`, gives 923 train, 236 valid, 604 test. `kw1077`
keeps the 1,077 of them without a remark (Korzeniowski and Widmer 2017), 856
and 221. `none_class` adds the 73 tracks without a key as class "X".

No file is broken; tests 1224698, 1442809, 3424038 and 4452003 and trains
299801, 297010 and 5338500 are shorter than the usual 120 s. Of the nine pairs
of byte-identical train files one, 2997186 and 1926377, is credited to two
artists and so has one half in train and one in valid; none reaches the test.

Citation::

    @inproceedings{knees2015giantsteps,
      author = {Knees, Peter and Faraldo, {\'A}ngel and Herrera, Perfecto and
        Vogl, Richard and B{\"o}ck, Sebastian and H{\"o}rschl{\"a}ger, Florian
        and Le Goff, Mickael},
      title = {Two Data Sets for Tempo Estimation and Key Detection in
        Electronic Dance Music Annotated from User Corrections},
      booktitle = {Proc. ISMIR}, year = {2015}, pages = {364--370}}
    @phdthesis{faraldo2017tonality,
      author = {Faraldo, {\'A}ngel},
      title = {Tonality Estimation in Electronic Dance Music},
      school = {Universitat Pompeu Fabra}, year = {2017}}

    python recipes/giantsteps/giantsteps_prepare.py \
        --data_folder /data/giantsteps --manifest_folder manifests/giantsteps
"""

import hashlib
import logging
import re
from pathlib import Path

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.manifests import is_prepared, write_manifests
from muselq_modules.preparation import (
    require_file,
    require_folder,
    stable_fraction,
    telling_damage,
)

logger = logging.getLogger(__name__)

TRAIN_REPOSITORY = "giantsteps-mtg-key-dataset"
TEST_REPOSITORY = "giantsteps-key-dataset"
TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
NO_KEY = "X"  # mir_eval's name of "no key"
# The index is the class: 0-11 major, 12-23 minor, 24 none.
KEYS = [f"{t} {mode}" for mode in ("major", "minor") for t in TONICS] + [NO_KEY]
EXPECTED = {  # rows by (none_class, kw1077)
    (False, False): {"train": 923, "valid": 236, "test": 604},
    (False, True): {"train": 856, "valid": 221, "test": 604},
    (True, False): {"train": 975, "valid": 257, "test": 604},
    (True, True): {"train": 908, "valid": 242, "test": 604},
}
CLONE = "clone the whole repository from GitHub"
LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"#": 1, "b": -1, "": 0}
KEY_PART = re.compile(r"(?:([A-Ga-g])([#b]?))?\s*(major|minor)?", re.I)


def parse_key(text, source):
    """Reads a key annotation into the names of `KEYS`

    Returns a list of one name, several ("C minor / F# minor", "G minor/major",
    "A-A# minor") or none ("-" or nothing). `source` is where the annotation
    stands, for the message.

    Example
    -------
    >>> parse_key("D# minor", "annotations.txt")
    ['Eb minor']
    >>> parse_key("A-A# minor", "annotations.txt")
    ['A minor', 'Bb minor']
    >>> parse_key("-", "annotations.txt")
    []
    """
    if text.strip() in {"", "-"}:
        return []
    parts = [KEY_PART.fullmatch(p.strip()) for p in re.split("[/-]", text)]
    if not all(part and part.group() for part in parts):
        raise unknown_key(text, source)
    keys, tonic = [], None
    for i, part in enumerate(parts):
        if part[1]:
            number = LETTERS[part[1].upper()] + ACCIDENTALS[part[2].lower()]
            tonic = TONICS[number % 12]
        # "F / F# minor": a tonic alone shares the mode that comes next.
        mode = next((later[3] for later in parts[i:] if later[3]), None)
        if tonic is None or mode is None:
            raise unknown_key(text, source)
        keys.append(f"{tonic} {mode.lower()}")
    return keys


def unknown_key(text, source):
    """The error for an annotation that is no key"""
    return UserError(
        f"{source}: '{text.strip()}' is not a key such as 'D# minor': "
        "restore the file from the dataset's repository"
    )


def read_annotations(path):
    """Reads annotations.txt into {track id: (list of keys, confidence)}"""
    tracks = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != 3:
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns instead of ID, "
                "MANUAL KEY and C: restore the file from the repository"
            )
        track, key, confidence = cells
        source = f"{path}, line {number}"
        tracks[track] = (parse_key(key, source), confidence.strip())
    return tracks


def split_by_artist(path):
    """The split of the literature, from beatport_metadata.txt

    Tracks whose credits share an artist, directly or through others, form a
    group. A group goes to valid if the SHA-1 of any of its artists' names in
    lower case, as an integer, is 100 or more modulo 116.

    Returns {track id: (split, group)}.
    """
    parent = {}

    def root(artist):
        while parent.setdefault(artist, artist) != artist:
            artist = parent[artist]
        return artist

    artists_of = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        track, names = line.split("\t")[:2]
        artists_of[track] = [name.strip().lower() for name in names.split(",")]
        first, *others = (root(name) for name in artists_of[track])
        for other in others:
            parent[other] = first

    def is_valid(artist):
        digest = hashlib.sha1(artist.encode("utf-8")).hexdigest()
        return int(digest, 16) % 116 >= 100

    valid_roots = {root(artist) for artist in parent if is_valid(artist)}
    return {
        track: ("valid" if root(artists[0]) in valid_roots else "train", group)
        for track, artists in artists_of.items()
        for group in [root(artists[0])]
    }


def has_remark(path):
    """Whether a key file (key, confidence, remark) carries a remark"""
    require_file(path, "the annotator's remark", CLONE)
    with telling_damage(path, CLONE):
        cells = path.read_text(encoding="utf-8").split("\t")
    return len(cells) > 2 and bool(cells[2].strip())


def song_row(root, track, split, key, group):
    """The row of one song of the repository `root`"""
    path = f"{root.name}/audio/{track}.LOFI.mp3"
    return {"split": split, "path": path, "key": key, "group": group}


def rows_of_train(root, none_class, kw1077):
    """Rows of GiantSteps-MTG-keys, split into train and valid"""
    annotations = root / "annotations"
    path = require_file(annotations / "annotations.txt", "the keys", CLONE)
    with telling_damage(path, CLONE):
        tracks = read_annotations(path)
    metadata = annotations / "beatport_metadata.txt"
    if metadata.is_file():
        with telling_damage(metadata, CLONE):
            splits = split_by_artist(metadata)
    else:
        logger.warning(
            "%s is missing: the split is by track, not by artist", metadata
        )
        splits = {}
    rows = []
    for track, (keys, confidence) in tracks.items():
        if keys:
            chosen = confidence == "2" and len(keys) == 1
            if chosen and kw1077:
                key_file = annotations / "key" / f"{track}.LOFI.key"
                chosen = not has_remark(key_file)
        else:
            chosen = none_class
        if chosen:
            by_track = "valid" if stable_fraction(track) < 0.2 else "train"
            split, group = splits.get(track, (by_track, f"track {track}"))
            key = keys[0] if keys else NO_KEY
            rows.append(song_row(root, track, split, key, group))
    return rows


def rows_of_test(root):
    """Rows of GiantSteps key; its artists are not part of the download"""
    files = sorted((root / "annotations" / "key").glob("*.LOFI.key"))
    if not files:
        folder = root / "annotations" / "key"
        raise UserError(f"{folder} holds no *.LOFI.key: {CLONE}")
    rows = []
    for path in files:
        with telling_damage(path, CLONE):
            text = path.read_text(encoding="utf-8")
        keys = parse_key(text, path)
        if len(keys) != 1:
            raise unknown_key(text, path)
        track = path.name.split(".")[0]
        group = f"test track {track}"
        rows.append(song_row(root, track, "test", keys[0], group))
    return rows


def prepare_giantsteps(
    data_folder, manifest_folder, none_class=False, kw1077=False
):
    """Writes train.csv, valid.csv and test.csv, unless they are there

    Parameters
    ----------
    data_folder : str or Path
        Holds the two repositories.
    manifest_folder : str or Path
        Receives the manifests (columns ID, path, duration, key, group).
    none_class : bool
        Add the tracks without a key, as class "X" (25 outputs).
    kw1077 : bool
        Keep only the train and valid tracks without a remark.

    Raises
    ------
    UserError
        If a repository, an annotation or a whole split is missing.
    """
    data_folder = Path(data_folder).resolve()
    options = {
        "data_folder": str(data_folder),
        "none_class": none_class,
        "kw1077": kw1077,
    }
    if is_prepared(manifest_folder, options):
        return
    hint = f"it should hold {TRAIN_REPOSITORY}/ and {TEST_REPOSITORY}/"
    require_folder(data_folder, "the GiantSteps data folder", hint)
    train, test = data_folder / TRAIN_REPOSITORY, data_folder / TEST_REPOSITORY
    for repository in (train, test):
        require_folder(repository, "a GiantSteps repository", hint)
    write_manifests(
        manifest_folder,
        data_folder,
        rows_of_train(train, none_class, kw1077) + rows_of_test(test),
        options,
        name="GiantSteps",
        labels=KEYS if none_class else KEYS[:-1],
        expected=EXPECTED[none_class, kw1077],
    )


@exits_cleanly
def main():
    """The command line"""
    parser = CommandParser(description="Prepare GiantSteps key")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--manifest_folder", required=True)
    parser.add_argument("--none_class", action="store_true")
    parser.add_argument("--kw1077", action="store_true")
    prepare_giantsteps(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
