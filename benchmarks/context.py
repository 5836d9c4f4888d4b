"""Windows against one exact pass: how far apart, how fast, how much memory.

    python benchmarks/context.py ENCODER SONG... --minutes 10 60

For each song and layer, hidden states of 30 s windows, cut plainly or
cross-faded over 5 s, are compared with those of one pass over the whole song.
`--minutes` extracts recordings of these lengths, made of the songs, with the
extract command, and reports speed and peak memory. CPU seconds, one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile
import torch

from muselq_modules.audio_data import read_segment
from muselq_modules.baselines import load_any_encoder
from muselq_modules.crossfade import CrossFade, OverlappingWindows
from muselq_modules.full_context import FullContext

WINDOW_S, OVERLAP_S = 30.0, 5.0
NEAR_S = 0.4  # tokens this near to the end of a window are near a seam


def one_pass(encoder, wav, layers):
    """[time, layer, dim] of the whole recording."""
    full = FullContext(encoder, layers)
    full.add(wav)
    return torch.cat(list(full.frames()))


@torch.inference_mode()
def in_windows(encoder, wav, layers, overlap_s):
    """[time, layer, dim] of windows, and the tokens where windows end."""
    token = encoder.token_samples
    window = round(WINDOW_S * encoder.token_rate_hz)
    hop = window - round(overlap_s * encoder.token_rate_hz)
    cut = OverlappingWindows(window * token, hop * token, token)
    fade, parts, seams = CrossFade(), [], []
    windows = cut.add(wav) + cut.finish()
    if overlap_s == 0 and len(windows) > 1:
        # The last window begins where the one before it ends.
        first = len(windows) - 1
        windows[-1] = (first * hop * token, wav[first * hop * token :])
    for start, piece in windows:
        states = encoder(piece, encoder.sample_rate, layers=layers)
        frames = torch.stack(states.hidden_states, 2)[0]
        parts.append(fade.add(start // token, frames))
        seams += [start // token, start // token + len(frames)]
    frames = torch.cat([*parts, fade.finish()])
    return frames, [seam for seam in seams if 0 < seam < len(frames)]


def compare(exact, other, seams, token_rate_hz):
    """Distances [layer] of hidden states from the exact ones."""
    error = (other - exact).norm(dim=-1)
    # Of the part that varies: the mean over time alone makes states alike.
    varying = (exact - exact.mean(0)).norm(dim=-1).square().mean(0).sqrt()
    relative = error / varying
    tokens = torch.arange(len(exact))
    near = torch.zeros(len(exact), dtype=torch.bool)
    steps = (other[1:] - other[:-1]).norm(dim=-1)
    expected = (exact[1:] - exact[:-1]).norm(dim=-1)
    for seam in seams:
        near |= (tokens - seam + 0.5).abs() < NEAR_S * token_rate_hz
    at = [seam - 1 for seam in seams]

    def root_mean_square(values):
        return values.square().mean(0).sqrt().tolist()

    cosine = torch.cosine_similarity(other, exact, dim=-1)
    return {
        "cosine": cosine.mean(0).tolist(),
        "distance": root_mean_square(relative),
        "distance_near_seams": root_mean_square(relative[near]),
        "distance_elsewhere": root_mean_square(relative[~near]),
        "largest_distance": relative.amax(0).tolist(),
        # 1: the step from token to token is that of the exact pass.
        "step_at_seams": (steps[at].sum(0) / expected[at].sum(0)).tolist(),
    }


def mean_of(results):
    """Mean over songs of {name: {measure: [layer]}}, rounded."""
    return {
        name: {
            measure: [
                round(sum(values) / len(values), 4)
                for values in zip(*(r[name][measure] for r in results))
            ]
            for measure in results[0][name]
        }
        for name in results[0]
    }


def compare_songs(encoder, songs):
    """Differences, and speeds in seconds of audio a CPU second."""
    layers = list(range(encoder.n_layers + 1))
    kinds = {"plain cuts": 0.0, "cross-faded": OVERLAP_S}
    results, seconds, audio_s = [], {}, 0.0

    def timed(name, function, *arguments):
        since = time.process_time()
        result = function(*arguments)
        spent = time.process_time() - since
        seconds[name] = seconds.get(name, 0.0) + spent
        return result

    for song in songs:
        wav = read_segment(song, sample_rate=encoder.sample_rate)
        if len(wav) < 2 * WINDOW_S * encoder.sample_rate:
            print(f"{song} is shorter than two windows: left out")
            continue
        audio_s += len(wav) / encoder.sample_rate
        exact = timed("one pass", one_pass, encoder, wav, layers)
        once = timed("one call", encoder, wav, encoder.sample_rate)
        once = torch.stack(once.hidden_states, 2)[0]
        result = {"one call": compare(exact, once, [1], encoder.token_rate_hz)}
        for name, overlap_s in kinds.items():
            frames, seams = timed(
                name, in_windows, encoder, wav, layers, overlap_s
            )
            result[name] = compare(exact, frames, seams, encoder.token_rate_hz)
        results.append(result)
    return {
        "songs": len(results),
        "minutes": round(audio_s / 60, 1),
        "audio_s_a_cpu_s": {n: round(audio_s / s) for n, s in seconds.items()},
        "layers": mean_of(results),
    }


def write_recording(path, songs, minutes, sample_rate):
    """The songs one after the other, again and again."""
    left = round(minutes * 60 * sample_rate)
    with soundfile.SoundFile(
        str(path), "w", sample_rate, 1, "PCM_16", format="RF64"
    ) as file:
        while left:
            for song in songs:
                wav = read_segment(song, sample_rate=sample_rate)[:left]
                file.write(wav.clamp(-1, 1).numpy())
                left -= len(wav)


def measure_command(spec, path, minutes, context, folder):
    """Speed and peak memory of the extract command."""
    output = Path(folder) / f"{context}_{minutes:g}"
    line = [sys.executable, "-m", "muselq_modules.extract", path, output]
    line += ["--pretrained", spec, "--context", context, "--workers", "0"]
    process = subprocess.Popen(
        [*map(str, line), "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"extract failed on {path}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return {
        "minutes": minutes,
        "context": context,
        "peak_mib": round(usage.ru_maxrss / 1024),
        "cpu_s": round(cpu_s, 1),
        "audio_s_a_cpu_s": round(60 * minutes / cpu_s),
    }


def main():
    """Print the results and save them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("encoder")
    parser.add_argument("songs", nargs="+", help="files longer than a minute")
    parser.add_argument("--minutes", nargs="*", type=float, default=[])
    parser.add_argument("--output", default="results/context.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_any_encoder(given.encoder)
    report = {
        "encoder": encoder.digest(),
        **compare_songs(encoder, given.songs),
    }
    report["command"] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for minutes in given.minutes:
            path = Path(folder) / "recording.rf64"
            write_recording(path, given.songs, minutes, encoder.sample_rate)
            report["command"] += [
                measure_command(given.encoder, path, minutes, context, folder)
                for context in ("windows", "full")
            ]
    print(json.dumps(report, indent=1))
    output = Path(given.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
