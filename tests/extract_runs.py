"""Calls the extract command on small music, for its tests."""

import json

import soundfile
import torch
from test_audio_data import make_noise

from muselq_modules import extract as command
from muselq_modules.audio_data import read_segment

NAMES = {  # seconds, rate, channels
    "a.wav": (9.5, 44100, 2),
    "a.flac": (3.21, 24000, 1),
    "deep/er/ünï 空白 name.ogg": (12.0, 48000, 1),
    "deep/two\nlines.wav": (4.0, 16000, 6),
    "blip.wav": (0.02, 24000, 1),
}


def make_music(folder):
    """Write noise of these lengths, rates and channels, and a picture."""
    for seed, (name, (seconds, rate, channels)) in enumerate(NAMES.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, make_noise(seconds, rate, channels, seed), rate)
    (folder / "cover.jpg").write_bytes(b"no music")
    return folder


def run(inputs, output, *options, workers=0):
    """Exit code of the command on an encoder that `use` has chosen."""
    inputs = inputs if isinstance(inputs, list) else [inputs]
    line = [*inputs, output, "--pretrained", "chosen", "--device", "cpu"]
    line += ["--workers", workers, *options]
    try:
        command.main([str(word) for word in line])
    except SystemExit as stop:
        return stop.code
    return 0


def index(output):
    lines = (output / "index.jsonl").read_text("utf-8").splitlines()
    return {row["file"]: row for row in map(json.loads, lines)}


def whole(encoder, path, layers):
    """[time, layer, dim] of one call on the whole file."""
    with torch.inference_mode():
        out = encoder(read_segment(path), 24000, layers=layers)
    return torch.stack(out.hidden_states, 2)[0].numpy()
