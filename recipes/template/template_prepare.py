r"""Template: four timbres in tones that this script makes itself.

This is the prepare script to copy: it turns a folder of audio into
``train.csv``, ``valid.csv`` and ``test.csv``. Say at this place where your
data comes from, its licence, how to cite it, the layout, the number of files
and what is wrong with it. For the template:

Source: synthesised below on first use, 160 tones of 2 s, 24 kHz mono (15 MB).
Licence: none needed. Broken files: none.

Expected layout (so a folder of audio with a sub-folder for each class can
take the place of the tones)::

    data_folder/
        <timbre>/<theme>.wav
        sine/theme_00.wav

    python recipes/template/template_prepare.py \
        --data_folder results/template_tones \
        --manifest_folder manifests/template
"""

from pathlib import Path

import numpy as np
import soundfile as sf

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.manifests import is_prepared, write_manifests
from muselq_modules.preparation import stable_fraction

TIMBRES = ("sine", "square", "sawtooth", "bell")  # the index is the label


def prepare_template(data_folder, manifest_folder):
    """Writes train.csv, valid.csv, test.csv (a row a file) and skipped.tsv.

    Parameters
    ----------
    data_folder : str or Path
        Folder of audio; if there is none, or nothing in it, tones are made.
    manifest_folder : str or Path
        Where the manifests go; nothing is done if they are there already.

    Raises
    ------
    UserError
        If the layout or a label is not as described.
    """
    data_folder = Path(data_folder).resolve()
    options = {"data_folder": str(data_folder)}  # and all that rows depend on
    if is_prepared(manifest_folder, options):
        return
    if not data_folder.is_dir() or not any(data_folder.iterdir()):
        synthesise(data_folder)  # your own recipe has require_folder instead

    rows = []
    for path in sorted(data_folder.glob("*/*.wav")):
        timbre, theme = path.parent.name, path.stem
        if timbre not in TIMBRES:
            raise UserError(
                f"{path.parent} is none of the timbres {', '.join(TIMBRES)}: "
                "rename it or move it away"
            )
        rows.append(
            {
                "split": split_of(theme),
                "path": path.relative_to(data_folder).as_posix(),
                "timbre": timbre,
                "group": theme,  # a group never stands in two splits
            }
        )
    if not rows:
        raise UserError(
            f"{data_folder} holds no <timbre>/<theme>.wav: put audio there, or "
            "empty it to have tones made"
        )
    # Decodes every file, reports broken ones, writes all that is needed.
    write_manifests(
        manifest_folder, data_folder, rows, options, name="Template"
    )


def split_of(group):
    """60/20/20 % by a hash of the group, stable when files are added."""
    fraction = stable_fraction(group)
    if fraction < 0.6:
        return "train"
    return "valid" if fraction < 0.8 else "test"


def synthesise(folder, n_themes=40, sample_rate=24000):
    """Plays themes of four notes in every timbre, in noise."""
    generator = np.random.default_rng(seed=0)
    note_time = np.arange(sample_rate // 2) / sample_rate  # half a second
    for theme in range(n_themes):
        pitches = generator.integers(48, 84, size=4)  # MIDI note numbers
        for timbre in TIMBRES:
            notes = [
                tone(timbre, 440 * 2 ** ((pitch - 69) / 12), note_time)
                for pitch in pitches
            ]
            wav = np.concatenate(notes)
            wav = wav / np.abs(wav).max() * generator.uniform(0.1, 0.8)
            wav = wav + generator.normal(scale=0.02, size=wav.shape)
            path = folder / timbre / f"theme_{theme:02}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, wav, sample_rate)


def tone(timbre, frequency_hz, time):
    """One note.

    Parameters
    ----------
    timbre : str
        One of TIMBRES.
    frequency_hz : float
    time : np.ndarray
        Seconds, [samples].

    Returns
    -------
    wav : np.ndarray
        [samples].
    """
    phase = 2 * np.pi * frequency_hz * time
    harmonics = np.arange(1, 9)[:, None]
    if timbre == "sine":
        return np.sin(phase)
    if timbre == "square":
        odd = harmonics[::2]
        return (np.sin(odd * phase) / odd).sum(axis=0)
    if timbre == "sawtooth":
        return (np.sin(harmonics * phase) / harmonics).sum(axis=0)
    # A bell: stretched partials, of which the higher ones fade sooner.
    fading = np.exp(-3 * harmonics * time)
    return (fading * np.sin(harmonics**1.1 * phase)).sum(axis=0)


@exits_cleanly
def main():
    """The command line."""
    parser = CommandParser(description="Prepare the template")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--manifest_folder", required=True)
    prepare_template(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
