r"""Prepare MagnaTagATune: tagging with the 50 most frequent tags

Source: https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset, files
https://mirg.city.ac.uk/datasets/magnatagatune/{mp3.zip.001, mp3.zip.002,
mp3.zip.003, annotations_final.csv}. `cat mp3.zip.00? > mp3.zip; unzip mp3.zip`.
SHA-256:
  .001 f857fe185968773058cc71662c2ef5d8f2d4b7338e3c122cfd52f82dcb9760b9
  .002 fc2e1ec441755556ed1398b1808f1b08b6034372f8bc27394510c0c58cdb52ce
  .003 83a689824c17e82f6eb81cdbc4e4ca239a4cfc1fb41f1a5c80b861caec90450f
  annotations_final.csv
       99b94e95825d4fa576386a5367b9c96e0ec636e9f9c240aceb492f4728f68c3c

Licence: CC BY-NC-SA 3.0.

Layout (the 16 folders may also stand in <data_folder>/mp3)::

    <data_folder>/annotations_final.csv
    <data_folder>/{0 ... 9, a ... f}/<artist>-<album>-<n>-<title>-<s>-<s>.mp3

The clips are 29.1 s at 16 kHz and 32 kbit/s: nothing sounds above 8 kHz.

Counts: 25,863 annotated clips, 188 tags. The first character of the path
gives the split: 0-b train, c valid, d-f test; clips of one song never
straddle, though 45 of the 75 test artists occur in train. Clips with at least
one of the 50 tags (default, the "clean" split): 15,247 / 1,529 / 4,332.
`keep_untagged` keeps the others as well: 18,706 / 1,825 / 5,329.

Broken: three clips (35644, 55753, 57881), all of train, are files of 0 bytes;
they are not in the counts.

Citation::

    @inproceedings{law2009evaluation,
      author = {Law, Edith and West, Kris and Mandel, Michael and Bay, Mert
        and Downie, J. Stephen},
      title = {Evaluation of Algorithms Using Games: The Case of Music
        Tagging},
      booktitle = {Proc. ISMIR}, year = {2009}, pages = {387--392}}

    python recipes/magnatagatune/magnatagatune_prepare.py \
        --data_folder /data/mtat --manifest_folder manifests/magnatagatune
"""

import csv
import re
from collections import Counter
from pathlib import Path

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.manifests import is_prepared, write_manifests
from muselq_modules.preparation import (
    require_file,
    require_folder,
    telling_damage,
)

N_TAGS = 50
SPLIT_OF_FOLDER = dict.fromkeys("0123456789ab", "train") | {
    "c": "valid",
    "d": "test",
    "e": "test",
    "f": "test",
}
EXPECTED = {  # rows by keep_untagged
    False: {"train": 15247, "valid": 1529, "test": 4332},
    True: {"train": 18706, "valid": 1825, "test": 5329},
}
ZERO_BYTE_CLIPS = (
    "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
    "8/jacob_heringman-josquin_des_prez_lute_settings-19-"
    "gintzler__pater_noster-204-233.mp3",
    "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
    "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
)
CLIP_END = re.compile(r"-\d+-\d+\.mp3$")  # start and stop within the song


def read_annotations(path):
    """Reads annotations_final.csv

    Parameters
    ----------
    path : Path
        Tab-separated, quoted: clip_id, a column of 0 and 1 a tag, mp3_path.

    Returns
    -------
    dict
        The path of each clip to the list of its tags.
    list of str
        The 50 most frequent tags, most frequent first; equal counts in
        alphabetical order.
    """
    clips = {}
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream, delimiter="\t")
        header = next(reader, [])
        tags = header[1:-1]
        if header[:1] != ["clip_id"] or header[-1:] != ["mp3_path"]:
            raise UserError(
                f"{path} does not begin with the columns clip_id ... "
                "mp3_path: download annotations_final.csv again"
            )
        for row in reader:
            if len(row) != len(tags) + 2 or not set(row[1:-1]) <= {"0", "1"}:
                raise UserError(
                    f"{path}, line {reader.line_num}: not {len(tags)} cells "
                    "of 0 or 1: download annotations_final.csv again"
                )
            cells = zip(tags, row[1:-1], strict=True)
            clips[row[-1]] = [tag for tag, cell in cells if cell == "1"]
    counts = Counter()
    for clip_tags in clips.values():
        counts.update(clip_tags)
    top = sorted(counts, key=lambda tag: (-counts[tag], tag))[:N_TAGS]
    return clips, top


def clip_rows(clips, top_tags, prefix, keep_untagged, path_of_list):
    """Rows of all clips that carry a top tag, or of all clips"""
    rows = []
    for clip, clip_tags in clips.items():
        tags = [tag for tag in top_tags if tag in clip_tags]
        if not tags and not keep_untagged:
            continue
        split = SPLIT_OF_FOLDER.get(clip.split("/")[0])
        if split is None:
            raise UserError(
                f"{path_of_list}: '{clip}' is not in a folder 0 ... f: "
                "download annotations_final.csv again"
            )
        rows.append(
            {
                "split": split,
                "path": prefix + clip,
                "tags": "|".join(tags),
                "group": CLIP_END.sub("", clip),
            }
        )
    return rows


def prepare_magnatagatune(data_folder, manifest_folder, keep_untagged=False):
    """Writes train.csv, valid.csv, test.csv and labels.txt, once

    Parameters
    ----------
    data_folder : str or Path
        Holds annotations_final.csv and the folders 0 ... f.
    manifest_folder : str or Path
        Receives the manifests (columns ID, path, duration, tags, group).
    keep_untagged : bool
        Keep clips without any of the 50 tags, as all-zero targets.

    Raises
    ------
    UserError
        If the annotations or the audio folders are missing or malformed.
    """
    data_folder = Path(data_folder).resolve()
    options = {
        "data_folder": str(data_folder),
        "keep_untagged": keep_untagged,
    }
    if is_prepared(manifest_folder, options):
        return
    require_folder(
        data_folder,
        "the MagnaTagATune data folder",
        "it should hold annotations_final.csv and the folders 0 ... f",
    )
    path = require_file(
        data_folder / "annotations_final.csv",
        "the list of tags",
        "download it from "
        "https://mirg.city.ac.uk/datasets/magnatagatune/annotations_final.csv",
    )
    with telling_damage(path, "download it again"):
        clips, top_tags = read_annotations(path)
    prefix = "mp3/" if (data_folder / "mp3").is_dir() else ""
    if not any((data_folder / prefix / f).is_dir() for f in SPLIT_OF_FOLDER):
        raise UserError(
            f"{data_folder} holds none of the folders 0 ... f: unpack the "
            "audio there (cat mp3.zip.00? > mp3.zip; unzip mp3.zip)"
        )
    write_manifests(
        manifest_folder,
        data_folder,
        clip_rows(clips, top_tags, prefix, keep_untagged, path),
        options,
        name="MagnaTagATune",
        labels=top_tags,
        expected=EXPECTED[keep_untagged],
    )


@exits_cleanly
def main():
    """The command line"""
    parser = CommandParser(description="Prepare MagnaTagATune")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--manifest_folder", required=True)
    parser.add_argument("--keep_untagged", action="store_true")
    prepare_magnatagatune(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
