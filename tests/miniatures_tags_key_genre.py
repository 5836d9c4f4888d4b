"""Miniatures of the official datasets: file names, annotations, quirks

Each function writes one dataset to a folder and returns that folder. The
audio are tones of about a second and a half, so that a recipe can be run from
its prepare script to its metric. What is broken in the official download, or
written in an unusual way, is so here.
"""

from pathlib import Path

import numpy as np
import soundfile as sf
from torchaudio.datasets import gtzan

SECONDS = 1.5
CORRUPT = b"RIFF\x00\x00 this is no audio" * 8


def write_tone(path, frequency_hz, sample_rate=22050, seconds=SECONDS):
    """A tone with three harmonics and a little noise, in the suffix's format"""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(abs(hash(frequency_hz)) % 2**32)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    wav = sum(
        np.sin(2 * np.pi * n * frequency_hz * time) / n for n in (1, 2, 3)
    )
    wav = 0.2 * wav + 0.01 * generator.standard_normal(len(time))
    sf.write(path, wav, sample_rate)


def write_text(path, text):
    """Writes text byte for byte: no newline is added or translated"""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


# -- GTZAN ------------------------------------------------------------------


def write_gtzan(root, folder="genres_original", suffix=".wav"):
    """Four clips of each genre, one outside the lists, jazz.00054 corrupt"""
    root = Path(root)
    lists = (
        (gtzan.filtered_train, 2),
        (gtzan.filtered_valid, 1),
        (gtzan.filtered_test, 1),
    )
    for number, genre in enumerate(gtzan.gtzan_genres):
        clips = []
        for names, count in lists:
            clips += [n for n in names if n.startswith(genre)][:count]
        for clip in clips:
            path = root / folder / genre / f"{clip}{suffix}"
            write_tone(path, 110 * 2 ** (number / 3))
    # A clip that the lists leave out.
    write_tone(root / folder / "pop" / f"pop.00015{suffix}", 440)
    broken = root / folder / "jazz" / f"jazz.00054{suffix}"
    broken.write_bytes(CORRUPT)
    return root


# -- GiantSteps ---------------------------------------------------------------

# id, key as annotated, confidence, remark, artists
MTG_TRACKS = (
    ("5061", "D# minor", "2", "", "Artist 1"),
    ("5881", "A major", "2", "", "Artist 3"),
    ("7217", "F minor", "2", "", "Artist 1, Artist 4"),
    ("10981", "-", "0", "there are not harmonic tones in track", "Artist 5"),
    ("13057", "", "0", "", "Artist 0"),
    ("61578", "C minor / F# minor", "2", "modulates", "Artist 6"),
    ("297150", "A-A# minor", "0", "", "Artist 7"),
    ("299300", "G minor/major", "1", "", "Artist 8"),
    ("299301", "B major ", "2", "", "Artist 9"),
    ("299302", "C major", "1", "", "Artist 9"),
    ("299303", "G# minor", "2", "mixolydian mode", "Artist 10"),
    ("299304", "E major", "2", "", "Artist 11"),
    ("299305", "C# major", "2", "", "Artist 12"),
    ("299306", "G minor", "2", "", "Artist 13"),
    # The lower-case names of artists 0, 2, 28 and 30 hash to valid.
    ("299307", "D minor", "2", "", "Artist 0"),
    ("299308", "A# major", "2", "", "Artist 2"),
    ("299309", "C minor", "2", "", "Artist 28"),
    ("299310", "F# major", "2", "second degree is lowered", "Artist 30"),
    # Artist 14 is pulled to valid by artist 15, who plays with artist 2.
    ("299311", "E minor", "2", "", "Artist 14"),
    ("299312", "G major", "2", "", "Artist 14, Artist 15"),
    ("299313", "F major", "2", "", "Artist 15, Artist 2"),
)
TEST_TRACKS = (
    ("10089", "D major"),
    ("100066", "F minor"),
    ("1004923", "Db minor"),
    ("1224698", "Gb major"),
    ("1442809", "Bb minor"),
    ("3424038", "C minor"),
)


def write_giantsteps(root):
    """Both repositories; the file of train track 299304 is corrupt"""
    root = Path(root)
    train = root / "giantsteps-mtg-key-dataset"
    test = root / "giantsteps-key-dataset"
    table = ["ID\tMANUAL KEY\tC"]
    metadata = ["ID\tARTIST\tSONG TITLE\tMIX\tLABEL\tBP GENRE\tBP BPM\tBP KEY"]
    for number, (track, key, confidence, remark, artist) in enumerate(
        MTG_TRACKS
    ):
        table.append(f"{track}\t{key}\t{confidence}")
        metadata.append(f"{track}\t{artist}\tSong\tMix\tLabel\tHouse\t125\t")
        write_text(
            train / "annotations" / "key" / f"{track}.LOFI.key",
            f"{key.lower()}\t{confidence}\t{remark}",
        )
        write_tone(train / "audio" / f"{track}.LOFI.mp3", 200 + number, 44100)
    (train / "audio" / "299304.LOFI.mp3").write_bytes(CORRUPT)
    annotations = train / "annotations"
    write_text(annotations / "annotations.txt", "\n".join(table) + "\n")
    write_text(
        annotations / "beatport_metadata.txt", "\n".join(metadata) + "\n"
    )
    for number, (track, key) in enumerate(TEST_TRACKS):
        write_text(test / "annotations" / "key" / f"{track}.LOFI.key", key)
        write_tone(test / "audio" / f"{track}.LOFI.mp3", 300 + number, 44100)
    return root


# -- MagnaTagATune ------------------------------------------------------------

MTAT_TAGS = (
    "no voice|harpsichord|sitar|male vocal|vocals|beats|classical|female|"
    "guitar|quiet|solo|female voice|ambient|new age|synth|voice|strings|"
    "male voice|loud|classic|drums|electronic|no vocal|choral|weird|opera|"
    "fast|country|violin|no vocals|man|harp|pop|female vocal|piano|slow|male|"
    "vocal|indian|woman|rock|dance|singing|cello|techno|flute|beat|soft|"
    "choir|metal"
).split("|")
MTAT_RARE = ("bongos", "lol", "jungle")  # below the 50 most frequent
MTAT_CLIPS = (  # path, tags: 0 the even ones, 1 the odd ones, None a rare one
    ("0/artist_a-album_one-01-song-0-29.mp3", 0),
    ("0/artist_a-album_one-01-song-29-58.mp3", 1),
    ("3/artist_b-album_two-02-tune-30-59.mp3", 0),
    ("6/norine_braun-now_and_zen-08-gently-88-117.mp3", 1),
    ("6/norine_braun-now_and_zen-08-gently-117-146.mp3", 0),  # 0 bytes
    ("a/artist_c-album_three-03-air-0-29.mp3", 1),
    ("b/artist_c-album_four-01-aria-0-29.mp3", None),
    ("c/atomic_opera-alpha_and_oranges-01-rain_parade-117-146.mp3", 0),
    ("c/atomic_opera-alpha_and_oranges-01-rain_parade-146-175.mp3", 1),
    ("c/atomic_opera-alpha_and_oranges-02-winter-0-29.mp3", None),
    ("d/ambient_teknology-the_all_seeing_eye_project-01-cyclops-0-29.mp3", 0),
    ("d/ambient_teknology-the_all_seeing_eye_project-02-eye-0-29.mp3", 1),
    ("e/artist_a-album_five-01-song-0-29.mp3", 1),
    ("f/american_bach_soloists-j_s__bach-01-aria-30-59.mp3", 0),
    ("f/american_bach_soloists-j_s__bach-01-aria-59-88.mp3", None),
)


def write_magnatagatune(root):
    """15 clips: one of 0 bytes, three without a frequent tag"""
    root = Path(root)
    columns = ["clip_id", *MTAT_TAGS, *MTAT_RARE, "mp3_path"]
    table = [columns]
    for number, (path, parity) in enumerate(MTAT_CLIPS):
        if parity is None:
            rare = MTAT_RARE[number % len(MTAT_RARE)]
            tags = {rare} if number % 2 else set()
        else:
            tags = set(MTAT_TAGS[parity::2])
        cells = ["1" if tag in tags else "0" for tag in columns[1:-1]]
        table.append([str(number + 2), *cells, path])
        write_tone(root / path, 220 * (1 + (parity or 0)) + number, 16000)
    (root / "6/norine_braun-now_and_zen-08-gently-117-146.mp3").write_bytes(b"")
    text = "".join(
        "\t".join(f'"{cell}"' for cell in row) + "\n" for row in table
    )
    write_text(root / "annotations_final.csv", text)
    return root


# -- MTG-Jamendo --------------------------------------------------------------

JAMENDO_TAGS = {  # subset: category, number of tags in the splits
    "top50tags": ("genre", 50),
    "genre": ("genre", 87),
    "instrument": ("instrument", 40),
    "moodtheme": ("mood/theme", 56),
}
JAMENDO_TRACKS = {  # table: (artist, track)
    "train": ((5, 241), (5, 1242), (14, 214), (14, 215), (14, 216), (7, 3524)),
    "validation": ((20, 4887), (20, 4888), (21, 1009600)),
    "test": ((30, 1159663), (30, 4890), (31, 4882), (31, 4883)),
}


def write_mtg_jamendo(root, tables="data/splits/split-0", low=False):
    """Tables with CRLF and ragged tags; 16/216 is corrupt, 00/1009600 absent

    `low` gives the audio the names of the `audio-low` download.
    """
    root = Path(root)
    header = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
    for subset, (category, n_tags) in JAMENDO_TAGS.items():
        names = [f"{category}---tag{n:02}" for n in reversed(range(n_tags))]
        for table, tracks in JAMENDO_TRACKS.items():
            lines = [header]
            for number, (artist, track) in enumerate(tracks):
                # Halves, so that every tag is present and absent in a split.
                tags = names[number % 2 :: 2][: None if number < 2 else number]
                cells = [
                    f"track_{track:07}",
                    f"artist_{artist:06}",
                    f"album_{artist:06}",
                    f"{track % 100:02}/{track}.mp3",
                    f"{SECONDS}",
                    *tags,
                ]
                lines.append("\t".join(cells))
            path = root / tables / f"autotagging_{subset}-{table}.tsv"
            write_text(path, "\r\n".join(lines) + "\r\n")
    for tracks in JAMENDO_TRACKS.values():
        for number, (_, track) in enumerate(tracks):
            suffix = ".low.mp3" if low else ".mp3"
            path = root / f"{track % 100:02}" / f"{track}{suffix}"
            if track == 216:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(CORRUPT)
            elif track != 1009600:
                write_tone(path, 220 * (1 + number % 2) + track % 50, 44100)
    return root
