"""Miniatures of EmoMusic, NSynth and VocalSet

Like `miniatures`: each function writes one dataset to a folder, with the
official file names, annotation formats and quirks, and returns that folder.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import soundfile as sf
from miniatures_tags_key_genre import CORRUPT, write_text, write_tone

# -- EmoMusic -----------------------------------------------------------------

SONGS_HEADER = (
    "song_id,file_name,Artist,Song title,start of the segment (min.sec),"
    "end of the segment (min.sec),Genre,Mediaeval 2013 set"
)
# Song id, artist, set; the folds of the artists are those of the real split.
SONGS = (
    (2, "\tThe New Mystikal Troubadours", "development"),  # valid
    (3, "Kevin MacLeod", "evaluation"),
    (4, "Kevin MacLeod\t", "development"),  # valid, though also in test
    (5, "My Bubba & Mi", "development"),  # train
    (7, "Vieux Farka Touré", "development"),
    (8, "VIEUX  FARKA TOURÉ", "development"),
    (10, '"Mr, Comma"', "development"),
    (12, "Paul  Wine  Jones", "development"),
    (13, "Thiago França", "development"),
    (17, "Sláinte", "evaluation"),
    (19, "Latché Swing", "evaluation"),
    (20, "My Bubba & Mi", "development"),  # the clip is missing
    (21, "Miró Belle", "development"),  # the clip is no audio
    (1000, "Spade Cooley", "evaluation"),
)
NO_CLIP, NO_AUDIO = "clips_45seconds/20.mp3", "clips_45seconds/21.mp3"


def write_emomusic(root, annotations="."):
    """14 songs, of which one clip is missing and one is no audio"""
    root = Path(root)
    info, static = (
        [SONGS_HEADER],
        ["song_id,mean_arousal,std_arousal,mean_valence,std_valence"],
    )
    for number, (song, artist, name) in enumerate(SONGS):
        info.append(
            f"{song},{song}.mp3,{artist},Tonight  A Lonely Century\t,0.48,"
            f"1.33,Blues,{name} "
        )
        arousal, valence = 1.6 + 0.5 * number, 8.4 - 0.45 * number
        static.append(f"{song}, {arousal:g}, 0.99443, {valence:g},0.66667")
        path = root / f"clips_45seconds/{song}.mp3"
        if path.name == "20.mp3":
            continue
        write_tone(path, 110 + 40 * number, sample_rate=44100)
    (root / NO_AUDIO).write_bytes(CORRUPT)
    folder = root / annotations
    write_text(folder / "songs_info.csv", "\r\n".join(info) + "\r\n\r\n")
    write_text(folder / "static_annotations.csv", "\n".join(static) + "\n")
    return root


# -- NSynth -------------------------------------------------------------------

FAMILIES = (
    "bass brass flute guitar keyboard mallet organ reed string synth_lead vocal"
).split()


def write_nsynth(root):
    """Two notes a family in train, one in valid and test (no synth_lead)

    Of the train notes one file is missing and one is no audio; one test pitch
    is outside the piano's range.
    """
    root = Path(root)
    for split in ("train", "valid", "test"):
        folder, notes = root / f"nsynth-{split}", {}
        for family, name in enumerate(FAMILIES):
            if name == "synth_lead" and split != "train":
                continue
            source = "acoustic" if family else "synthetic"
            # Valid and test have instruments, but no notes, in common.
            number = "001" if split == "train" else "046"
            velocity = 75 if split == "test" else 50
            instrument = f"{name}_{source}_{number}"
            for pitch in (22, 60) if split == "train" else (9 + 11 * family,):
                note = f"{instrument}-{pitch:03}-{velocity:03}"
                notes[note] = {
                    "note": 201034 + len(notes),
                    "sample_rate": 16000,
                    "instrument_family": family,
                    "qualities": [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
                    "instrument_source_str": source,
                    "note_str": note,
                    "instrument_family_str": name,
                    "instrument_str": instrument,
                    "pitch": pitch,
                    "instrument": 417,
                    "velocity": velocity,
                    "instrument_source": 2,
                    "qualities_str": ["dark"],
                }
                frequency_hz = 440 * 2 ** ((pitch - 69) / 12)
                path = folder / "audio" / f"{note}.wav"
                write_tone(path, frequency_hz, sample_rate=16000)
        write_text(folder / "examples.json", json.dumps(notes))
    audio = root / "nsynth-train/audio"
    (audio / "vocal_acoustic_001-022-050.wav").unlink()
    (audio / "reed_acoustic_001-022-050.wav").write_bytes(CORRUPT)
    return root


# -- VocalSet -----------------------------------------------------------------

VOCALSET_SINGERS = "female1 female2 female3 female8 female9 male1 male3 male11"
VOCALSET_TECHNIQUES = "lip_trill trill trillo vibrato"
# Relative path, seconds of silence, seconds of sound.
LONG_SILENCE = ("FULL/female1/excerpts/spoken/f1_row_spoken.wav", 1.0, 7.5)
SHORT_TAIL = ("FULL/male1/excerpts/spoken/m1_row_spoken.wav", 0.0, 3.5)


def write_vocalset(root, singers=VOCALSET_SINGERS):
    """Version 1.2: four techniques of eight singers, and what is odd in it"""
    root = Path(root)
    for number, singer in enumerate(singers.split()):
        short = singer[0] + singer.removeprefix("fe").removeprefix("male")
        for index, technique in enumerate(VOCALSET_TECHNIQUES.split()):
            for vowel in "ae":
                write_tone(
                    root / f"FULL/{singer}/scales/{technique}"
                    f"/{short}_scales_{technique}_{vowel}.wav",
                    150 + 30 * number + 100 * index,
                )
        # Outside the ten techniques; without the singer's prefix.
        write_tone(
            root / f"FULL/{singer}/scales/fast_piano/scales_c_fast_piano_a.wav",
            150 + 30 * number,
        )
    for path, silence_s, sound_s in (LONG_SILENCE, SHORT_TAIL):
        path = root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(int(sound_s * 44100)) / 44100
        wav = np.r_[np.zeros(int(silence_s * 44100)), np.sin(2000 * time)]
        sf.write(path, np.stack([wav, 0.5 * wav], axis=1) * 0.3, 44100)
    odd = root / "FULL/female1/long_tones/vibrato"
    write_tone(odd / "f2_scales_vibrato_a(1).wav", 200)
    write_tone(odd / "slow_vibrato_arps.wav", 210)
    write_tone(odd / "f1_long_vibrato_o.wav", 220)
    write_tone(odd / "f1_long_vibrato_i.wav", 230, seconds=0.4)
    (odd / "f1_long_vibrato_u.wav").write_bytes(CORRUPT)
    (odd / "._f1_long_vibrato_o.wav").write_bytes(b"\x00\x05\x16\x07")
    (odd / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    write_tone(root / "FULL/female1/f1_outside.wav", 240)
    hidden = root / "__MACOSX/FULL/female1/scales/trill/._f1_scales_trill_a.wav"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"\x00\x05\x16\x07")
    shutil.copytree(odd, root / "data_by_technique/vibrato")
    return root
