r"""VocalSet: singing technique (10 classes) and singer (20 classes).

Source: https://doi.org/10.5281/zenodo.1442513 (version 1.2,
``VocalSet1-2.zip``) or https://zenodo.org/records/1203819 (version 1.1,
``VocalSet11.zip``). The record pages publish the MD5 of each archive.
Licence: CC BY 4.0 (audio; there are no annotation files).

Expected layout (only ``FULL/`` is read; version 1.2 holds every recording
again under ``data_by_singer/``, ``data_by_technique/``, ``data_by_vowel/``)::

    data_folder/
        FULL/<singer>/<context>/<technique>/<file>.wav
        FULL/female1/arpeggios/belt/f1_arpeggios_belt_a.wav

Expected counts: 20 singers (9 female, 11 male), 17 techniques, 10.1 hours.
Known faults, all handled: 28 files lack the singer's prefix, so singer and
technique come from the folders; 5 stray copies in ``vibrato`` are dropped;
stems repeat between folders; ``__MACOSX`` and ``.DS_Store`` are passed over.

    @inproceedings{wilkins2018vocalset,
      title     = {VocalSet: A Singing Voice Dataset},
      author    = {Wilkins, Julia and Seetharaman, Prem and Wahl, Alison and
                   Pardo, Bryan},
      booktitle = {Proceedings of the 19th International Society for Music
                   Information Retrieval Conference (ISMIR)},
      year      = {2018}
    }

    python recipes/vocalset/vocalset_prepare.py \
        --data_folder /data/vocalset --manifest_folder manifests/vocalset
"""

import random
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from muselq_modules.chunks import cut_into_chunks, find_sound
from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.manifests import is_prepared, write_manifests
from muselq_modules.preparation import (
    check_counts,
    find_audio,
    require_folder,
    scan_audio,
)

TECHNIQUES = tuple(
    "belt breathy inhaled lip_trill spoken straight trill trillo vibrato "
    "vocal_fry".split()
)
SINGERS = (*(f"f{n}" for n in range(1, 10)), *(f"m{n}" for n in range(1, 12)))
# VocalSet's own test_singers_technique.txt, also used by Yamamoto (2022).
TEST_SINGERS = ("f2", "f8", "m3", "m5", "m10")
# Whole singers for validation, for the option `valid: singers`.
VALID_SINGERS = ("f9", "m9", "m11")
STRAY_COPIES = {
    "vibrato/f2_scales_vibrato_a(1).wav",
    "vibrato/caro_vibrato.wav",
    "vibrato/dona_vibrato.wav",
    "vibrato/row_vibrato.wav",
    "vibrato/slow_vibrato_arps.wav",
}
CHOICES = {
    "subset": ("technique", "singer"),
    "valid": ("recordings", "singers"),
    "split": ("random", "marble"),
}
CHUNK_S = 3.0
SHORTEST_TAIL_S = 1.0
SEED = 42
LAYOUT = "FULL/<singer>/<context>/<technique>/*.wav of VocalSet1-2.zip in it"


def prepare_vocalset(
    data_folder,
    manifest_folder,
    subset="technique",
    valid="recordings",
    split="random",
    scan_cache=None,
):
    """Writes train.csv, valid.csv, test.csv (a row a chunk) and skipped.tsv.

    Each recording is cut into chunks of 3 s from the end of its leading
    silence on; a tail of at least 1 s is kept. No recording has chunks in two
    splits.

    Parameters
    ----------
    data_folder : str or Path
        Folder that holds ``FULL/``.
    manifest_folder : str or Path
        Where the manifests go; nothing is done if they are there already.
    subset : str
        ``technique``: ten techniques, test on five unseen singers.
        ``singer``: all techniques, split by recording.
    valid : str
        For ``technique``: ``recordings`` holds out 10 % of the training
        recordings of each technique, ``singers`` holds out f9, m9 and m11.
    split : str
        For ``singer``: ``random`` is 80/10/10 % of each singer's recordings,
        ``marble`` is 48/32/20 %.
    scan_cache : str or Path, optional
        Where the checks of the audio are kept, for both tasks to share.

    Raises
    ------
    UserError
        If an option or the layout is not as described.
    """
    options = {"subset": subset, "valid": valid, "split": split}
    for name, value in options.items():
        if value not in CHOICES[name]:
            raise UserError(
                f"{name} '{value}': choose from {', '.join(CHOICES[name])}"
            )
    data_folder = Path(data_folder).resolve()
    options["data_folder"] = str(data_folder)
    if is_prepared(manifest_folder, options):
        return
    require_folder(data_folder, "the VocalSet folder", LAYOUT)
    recordings, skipped = find_recordings(data_folder)
    check_counts(
        "VocalSet",
        {"singers": len({r["singer"] for r in recordings.values()})},
        {"singers": len(SINGERS)},
    )
    if subset == "technique":
        recordings = {
            path: recording
            for path, recording in recordings.items()
            if recording["technique"] in TECHNIQUES
        }
    scan_cache = scan_cache or Path(manifest_folder) / "scan.jsonl"
    files, unreadable = scan_audio(
        data_folder, list(recordings), allow_silence=True, cache=scan_cache
    )
    recordings = {file.path: recordings[file.path] for file in files}
    if subset == "technique":
        held_out = hold_out_by_technique(recordings, valid)
    else:
        held_out = hold_out_by_singer(recordings, split)
    write_manifests(
        manifest_folder,
        data_folder,
        chunk_rows(data_folder, recordings, *held_out),
        options,
        name="VocalSet",
        labels=TECHNIQUES if subset == "technique" else SINGERS,
        scan_cache=scan_cache,
        skipped=skipped + unreadable,
    )


def find_recordings(data_folder):
    """Reads singer and technique from the folders, never from file names.

    Returns
    -------
    recordings : dict
        Relative path -> {"technique": str, "singer": str}, sorted by path.
    skipped : list of (str, str)
        Relative path and reason of each file left out.
    """
    full = require_folder(data_folder / "FULL", "the VocalSet folder", LAYOUT)
    recordings, skipped = {}, []
    for path in find_audio(full):
        relative = f"FULL/{path}"
        parts = path.split("/")
        if len(parts) != 4:
            reason = "misplaced: not in <singer>/<context>/<technique>/"
            skipped.append((relative, reason))
            continue
        singer, _, technique, name = parts
        if f"{technique}/{name}" in STRAY_COPIES:
            skipped.append((relative, "duplicate: a known stray copy"))
            continue
        recordings[relative] = {
            "technique": technique,
            "singer": singer_name(singer, full),
        }
    if not recordings:
        raise UserError(f"{full} holds no recording: expected {LAYOUT}")
    return recordings, skipped


def singer_name(folder, full):
    """female3 -> f3, male11 -> m11."""
    match = re.fullmatch(r"(f)emale(\d+)|(m)ale(\d+)", folder)
    name = "".join(part for part in match.groups() if part) if match else ""
    if name not in SINGERS:
        raise UserError(
            f"{full / folder} is not one of VocalSet's singers (female1 to "
            "female9, male1 to male11): move it out of FULL/"
        )
    return name


def hold_out_by_technique(recordings, valid):
    """Test on the five official singers, valid from the other fifteen.

    Returns
    -------
    valid, test : set of str
        Paths; the others are for training.
    """
    test = {p for p, r in recordings.items() if r["singer"] in TEST_SINGERS}
    rest = {p: r for p, r in recordings.items() if p not in test}
    if valid == "recordings":
        return stratified_sample(rest, "technique", 0.1), test
    return {p for p, r in rest.items() if r["singer"] in VALID_SINGERS}, test


def hold_out_by_singer(recordings, split):
    """Recordings of every singer, see `hold_out_by_technique`."""
    test_share, valid_share = (0.1, 0.1) if split == "random" else (0.2, 0.32)
    test = stratified_sample(recordings, "singer", test_share)
    rest = {p: r for p, r in recordings.items() if p not in test}
    # A share of the whole is a larger share of the rest.
    share = valid_share / (1 - test_share)
    return stratified_sample(rest, "singer", share), test


def stratified_sample(recordings, column, share):
    """A random share of the recordings of each class, at least one of two.

    Returns
    -------
    sample : set of str
        Paths, the same in every run.
    """
    by_class = defaultdict(list)
    for path in sorted(recordings):
        by_class[recordings[path][column]].append(path)
    generator = random.Random(SEED)
    sample = set()
    for label in sorted(by_class):
        paths = by_class[label]
        count = max(round(share * len(paths)), int(len(paths) > 1))
        sample.update(generator.sample(paths, count))
    return sample


def chunk_rows(data_folder, recordings, valid, test):
    """Cuts every recording into manifest rows of 3 s."""
    with ThreadPoolExecutor() as pool:
        spans = pool.map(lambda p: find_sound(data_folder / p), recordings)
        spans = list(tqdm(spans, "Finding silence", total=len(recordings)))
    split_of = dict.fromkeys(recordings, "train")
    split_of |= dict.fromkeys(valid, "valid") | dict.fromkeys(test, "test")
    return [
        {
            "split": split_of[path],
            "ID": f"{path}#{index}",
            "path": path,
            "start": f"{start:.3f}",
            "stop": f"{stop:.3f}",
            **labels,
            "group": path,
        }
        for (path, labels), span in zip(recordings.items(), spans, strict=True)
        for index, (start, stop) in enumerate(
            cut_into_chunks(*span, CHUNK_S, SHORTEST_TAIL_S)
        )
    ]


@exits_cleanly
def main():
    """The command line."""
    parser = CommandParser(description="Prepare VocalSet")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--manifest_folder", required=True)
    for name, choices in CHOICES.items():
        parser.add_argument(f"--{name}", choices=choices, default=choices[0])
    parser.add_argument("--scan_cache")
    prepare_vocalset(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
