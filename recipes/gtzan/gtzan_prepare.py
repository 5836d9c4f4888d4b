r"""Prepare GTZAN: genre, with the fault-filtered split

Source: the original archive genres.tar.gz (http://opihi.cs.uvic.ca/sound/) is
offline since 2022; copies are in the Internet Archive (20211207012050) and on
Kaggle (andradaolteanu/gtzan-dataset-music-genre-classification, folder
`Data/genres_original`).
MD5 of genres.tar.gz: 5b3d6dddb579ab49814ab86dba69e7c7
SHA-256: 24347e0223d2ba798e0a558c4c172d9d4a19c00bb7963fe055d183dadb4ef2c6

Licence: none is stated; excerpts of commercial recordings, for research.

Layout: ten folders of 100 clips of 30 s, 22,050 Hz mono; older archives hold
.au instead of .wav. Any of these is found::

    <data_folder>/genres/blues/blues.00000.wav ...
    <data_folder>/genres_original/blues/blues.00000.wav ...
    <data_folder>/Data/genres_original/blues/blues.00000.wav ...
    <data_folder>/blues/blues.00000.wav ...

Counts: the fault-filtered lists (Kereliuk et al. 2015; repetitions,
distortions and artists in common removed) keep 443 train, 197 valid and 290
test clips of the 1,000. They come with torchaudio, not with this recipe.

Broken: jazz.00054.wav in the Kaggle copy (442 train clips then).

Citation::

    @article{tzanetakis2002musical,
      author = {Tzanetakis, George and Cook, Perry},
      title = {Musical Genre Classification of Audio Signals},
      journal = {IEEE Transactions on Speech and Audio Processing},
      volume = {10}, number = {5}, pages = {293--302}, year = {2002},
      doi = {10.1109/TSA.2002.800560}}
    @article{kereliuk2015deep,
      author = {Kereliuk, Corey and Sturm, Bob L. and Larsen, Jan},
      title = {Deep Learning and Music Adversaries},
      journal = {IEEE Transactions on Multimedia},
      volume = {17}, number = {11}, pages = {2059--2071}, year = {2015}}

    python recipes/gtzan/gtzan_prepare.py \
        --data_folder /data/gtzan --manifest_folder manifests/gtzan
"""

from pathlib import Path

from torchaudio.datasets import gtzan

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.manifests import is_prepared, write_manifests
from muselq_modules.preparation import require_folder

GENRES = [
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
]
LISTS = {
    "train": gtzan.filtered_train,
    "valid": gtzan.filtered_valid,
    "test": gtzan.filtered_test,
}
EXPECTED = {split: len(clips) for split, clips in LISTS.items()}
AUDIO_FOLDERS = ("genres_original", "genres", "Data/genres_original", ".")
LAYOUT = "it should hold genres_original/ or genres/ with blues/ ... rock/"


def find_audio(data_folder):
    """The folder of the ten genre folders, and the suffix of the clips"""
    require_folder(data_folder, "the GTZAN data folder", LAYOUT)
    for name in AUDIO_FOLDERS:
        folder = data_folder / name
        for suffix in (".wav", ".au"):
            if any(any(folder.glob(f"{g}/{g}.*{suffix}")) for g in GENRES):
                return folder, suffix
    raise UserError(
        f"{data_folder} has no clip such as genres/blues/blues.00000.wav: "
        f"{LAYOUT}"
    )


def prepare_gtzan(data_folder, manifest_folder):
    """Writes train.csv, valid.csv and test.csv, unless they are there

    Parameters
    ----------
    data_folder : str or Path
        Holds genres_original/ or genres/.
    manifest_folder : str or Path
        Receives the manifests (columns ID, path, duration, genre, group).

    Raises
    ------
    UserError
        If the folder is not GTZAN's, or a split has no readable clip.
    """
    data_folder = Path(data_folder).resolve()
    options = {"data_folder": str(data_folder)}
    if is_prepared(manifest_folder, options):
        return
    folder, suffix = find_audio(data_folder)
    rows = []
    for split, clips in LISTS.items():
        for clip in clips:
            genre = clip.split(".")[0]
            path = folder / genre / f"{clip}{suffix}"
            rows.append(
                {
                    "split": split,
                    "path": path.relative_to(data_folder).as_posix(),
                    "genre": genre,
                    # The download names neither song nor artist.
                    "group": clip,
                }
            )
    write_manifests(
        manifest_folder,
        data_folder,
        rows,
        options,
        name="GTZAN",
        labels=GENRES,
        expected=EXPECTED,
    )


@exits_cleanly
def main():
    """The command line"""
    parser = CommandParser(description="Prepare GTZAN")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--manifest_folder", required=True)
    prepare_gtzan(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
