r"""NSynth: instrument family (11 classes) and pitch (128 classes).

Source: https://magenta.tensorflow.org/datasets/nsynth, the three
``nsynth-{train,valid,test}.jsonwav.tar.gz`` (25 GB; no published checksum).
Licence: CC BY 4.0.

Expected layout::

    data_folder/
        nsynth-train/{examples.json,audio/bass_synthetic_033-022-050.wav,...}
        nsynth-valid/{examples.json,audio/*.wav}
        nsynth-test/{examples.json,audio/*.wav}

Expected counts: 289,205 / 12,678 / 4,096 notes of 4 s, 16 kHz mono.
The official split is kept: the 953 instruments of train occur nowhere else,
valid and test share 53 instruments, and synth_lead occurs in train only.
Known faults, kept because published numbers include them: about 71 notes of
``brass_acoustic_046`` in test are noise, a few ``mallet_acoustic_047`` are
duplicates, and 0.8 % of the test pitches lie outside the piano's 21 to 108.

    @inproceedings{engel2017nsynth,
      title     = {Neural Audio Synthesis of Musical Notes with {WaveNet}
                   Autoencoders},
      author    = {Engel, Jesse and Resnick, Cinjon and Roberts, Adam and
                   Dieleman, Sander and Norouzi, Mohammad and Eck, Douglas
                   and Simonyan, Karen},
      booktitle = {Proceedings of the 34th International Conference on Machine
                   Learning (ICML)},
      year      = {2017}
    }

    python recipes/nsynth/nsynth_prepare.py \
        --data_folder /data/nsynth --manifest_folder manifests/nsynth
"""

import json
from pathlib import Path

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.manifests import is_prepared, write_manifests
from muselq_modules.preparation import (
    require_file,
    require_folder,
    stable_fraction,
    telling_damage,
)

FAMILIES = (
    "bass",
    "brass",
    "flute",
    "guitar",
    "keyboard",
    "mallet",
    "organ",
    "reed",
    "string",
    "synth_lead",
    "vocal",
)
N_PITCHES = 128  # MIDI note numbers 0 to 127
PIANO_RANGE = range(21, 109)
COUNTS = {"train": 289205, "valid": 12678, "test": 4096}
LAYOUT = "nsynth-train/, nsynth-valid/ and nsynth-test/ in it"


def prepare_nsynth(
    data_folder,
    manifest_folder,
    drop_out_of_range=False,
    train_subset=None,
    scan_cache=None,
):
    """Writes train.csv, valid.csv, test.csv (a row a note) and skipped.tsv.

    Parameters
    ----------
    data_folder : str or Path
        Folder that holds ``nsynth-train``, ``nsynth-valid``, ``nsynth-test``.
    manifest_folder : str or Path
        Where the manifests go; nothing is done if they are there already. An
        interrupted check of the 306 thousand files goes on where it stopped.
    drop_out_of_range : bool
        Leave out the pitches outside 21 to 108 (in all three splits).
    train_subset : int, optional
        Train on this many notes, always the same ones, for quick runs; valid
        and test stay whole.
    scan_cache : str or Path, optional
        Where the checks of the audio are kept, for both tasks to share.

    Raises
    ------
    UserError
        If the layout or a label is not as described.
    """
    data_folder = Path(data_folder).resolve()
    options = {
        "data_folder": str(data_folder),
        "drop_out_of_range": drop_out_of_range,
        "train_subset": train_subset,
    }
    if is_prepared(manifest_folder, options):
        return
    require_folder(data_folder, "the NSynth folder", LAYOUT)
    rows = [row for split in COUNTS for row in read_notes(data_folder, split)]
    if drop_out_of_range:
        rows = [row for row in rows if row["pitch"] in PIANO_RANGE]
    if train_subset is not None:
        rows = drop_train_rows(rows, train_subset)
    whole = not drop_out_of_range and train_subset is None
    write_manifests(
        manifest_folder,
        data_folder,
        rows,
        options,
        name="NSynth",
        expected=COUNTS if whole else None,
        scan_cache=scan_cache,
    )


def drop_train_rows(rows, n_train):
    """Keeps n_train rows of train: those of the lowest hash.

    So a subset of 50,000 holds that of 5,000.
    """
    train = [row for row in rows if row["split"] == "train"]
    train.sort(key=lambda row: stable_fraction(row["path"]))
    return train[:n_train] + [row for row in rows if row["split"] != "train"]


def read_notes(data_folder, split):
    """Reads the labels of one split.

    Returns
    -------
    rows : list of dict
        One for each note of ``examples.json``.
    """
    folder = f"nsynth-{split}"
    remedy = f"unpack {folder}.jsonwav.tar.gz in {data_folder}"
    path = data_folder / folder / "examples.json"
    require_file(path, "the labels of NSynth", remedy)
    with telling_damage(path, remedy):
        with path.open(encoding="utf-8") as stream:
            notes = json.load(stream, object_hook=keep_labels)
        notes = [(name, *labels) for name, labels in notes.items()]
    rows = []
    for name, family, pitch, instrument in notes:
        if family not in FAMILIES:
            raise UserError(
                f"{path}: {name} has the family '{family}', which is none of "
                f"{', '.join(FAMILIES)}: {remedy}"
            )
        if pitch not in range(N_PITCHES):
            raise UserError(
                f"{path}: {name} has the pitch {pitch}, which is no MIDI note "
                f"number (0 to 127): {remedy}"
            )
        rows.append(
            {
                "split": split,
                "path": f"{folder}/audio/{name}.wav",
                "family": family,
                "pitch": pitch,
                "instrument": instrument,
                "group": name,  # valid and test share their instruments
            }
        )
    return rows


def keep_labels(entry):
    """Keeps three of a note's twelve fields: all would fill gigabytes."""
    if entry and all(isinstance(value, tuple) for value in entry.values()):
        return entry  # the outermost mapping, from note names to notes
    return (
        entry["instrument_family_str"],
        entry["pitch"],
        entry["instrument_str"],
    )


@exits_cleanly
def main():
    """The command line."""
    parser = CommandParser(description="Prepare NSynth")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--manifest_folder", required=True)
    parser.add_argument("--drop_out_of_range", action="store_true")
    parser.add_argument("--train_subset", type=int)
    parser.add_argument("--scan_cache")
    prepare_nsynth(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
