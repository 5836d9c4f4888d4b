"""How far are windows from one exact pass over a song, and what does it cost?

    python benchmarks/context.py --pretrained results/demo --songs MUSIC

Hidden states of 30 s windows, cut plainly or cross-faded over 5 s, against
those of one pass over each song of the folder MUSIC that is longer than a
minute; without `--pretrained`, an encoder with random weights. Distances are
root mean squares, in units of the exact states' deviation over time.
"""

import networks
import side_by_side as bench
import torch

from muselq_modules.audio_data import read_segment
from muselq_modules.crossfade import CrossFade, OverlappingWindows
from muselq_modules.full_context import FullContext

NEAR_S = 0.4  # tokens this near to the end of a window are near a seam


def one_pass(encoder, wav):
    """[time, layer, dim] of the whole recording, in blocks."""
    full = FullContext(encoder, range(encoder.n_layers + 1))
    full.add(wav)
    return torch.cat(list(full.frames()))


@torch.inference_mode()
def one_call(encoder, wav):
    """[time, layer, dim] of the whole recording, as the encoder is called."""
    states = encoder(wav, encoder.sample_rate).hidden_states
    return torch.stack(states, 2)[0]


def in_windows(encoder, wav, window_s, overlap_s):
    """[time, layer, dim] of windows, and the tokens where a window ends."""
    token, rate = encoder.token_samples, encoder.token_rate_hz
    window, overlap = round(window_s * rate), round(overlap_s * rate)
    hop = window - overlap
    cut = OverlappingWindows(window * token, hop * token, token)
    windows = cut.add(wav) + cut.finish()
    if overlap == 0:
        # A plain cut moves no window back.
        windows = [
            (i * window * token, w)
            for i, w in enumerate(wav.split(window * token))
            if len(w) >= token
        ]
    fade, parts, ends = CrossFade(), [], set()
    for start, piece in windows:
        frames = one_call(encoder, piece)
        parts.append(fade.add(start // token, frames))
        ends |= {start // token, start // token + len(frames)}
    frames = torch.cat([*parts, fade.finish()])
    return frames, sorted(end for end in ends if 0 < end < len(frames))


def compare(exact, other, ends, token_rate_hz):
    """Measures [layer] of how far hidden states are from the exact ones."""
    # The mean over time, which all states share, would make them look alike.
    deviation = (exact - exact.mean(0)).norm(dim=-1).square().mean(0).sqrt()
    distance = (other - exact).norm(dim=-1) / deviation
    near = torch.zeros(len(exact), dtype=torch.bool)
    for end in ends:
        tokens = torch.arange(len(exact)) + 0.5 - end
        near |= tokens.abs() < NEAR_S * token_rate_hz
    last = [end - 1 for end in ends]

    def steps(states):
        return (states[1:] - states[:-1]).norm(dim=-1)[last].sum(0)

    def rms(values):
        return values.square().mean(0).sqrt().tolist()

    found = {
        "cosine": torch.cosine_similarity(other, exact, dim=-1)
        .mean(0)
        .tolist(),
        "distance": rms(distance),
        "largest": distance.amax(0).tolist(),
    }
    if ends:
        found["near_ends"] = rms(distance[near])
        found["elsewhere"] = rms(distance[~near])
        # From token to token across an end; 1 is as in the exact pass.
        found["step"] = (steps(other) / steps(exact)).tolist()
    return found


def mean(results):
    """Mean over songs of {measure: [layer]}."""
    return {
        measure: torch.tensor([r[measure] for r in results]).mean(0).tolist()
        for measure in results[0]
    }


def compare_songs(encoder, songs, window_s, overlap_s):
    """{method: measures}, with speeds; and minutes of audio."""
    methods = {
        "one call": lambda wav: (one_call(encoder, wav), []),
        "one pass in blocks": lambda wav: (one_pass(encoder, wav), []),
        "windows, plain cuts": lambda wav: in_windows(
            encoder, wav, window_s, 0.0
        ),
        "windows, cross-faded": lambda wav: in_windows(
            encoder, wav, window_s, overlap_s
        ),
    }
    results = {name: [] for name in methods}
    seconds, audio_s = dict.fromkeys(methods, 0.0), 0.0
    for song in songs:
        wav = read_segment(song, sample_rate=encoder.sample_rate)
        length_s = len(wav) / encoder.sample_rate
        if length_s < 2 * window_s:
            continue
        audio_s, found = audio_s + length_s, {}
        for name, method in methods.items():

            def run(name=name, method=method, wav=wav, found=found):
                found[name] = method(wav)

            seconds[name] += bench.cpu_seconds(run)
        exact, _ = found["one pass in blocks"]
        for name, (states, ends) in found.items():
            measures = compare(exact, states, ends, encoder.token_rate_hz)
            results[name].append(measures)
    return {
        name: {
            **mean(results[name]),
            "audio_s_a_cpu_s": audio_s / seconds[name],
        }
        for name in methods
    }, audio_s / 60


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        **networks.OPTIONS,
    )
    window_s, overlap_s = (4.0, 1.0) if arguments.quick else (30.0, 5.0)
    encoder = networks.load_encoder(arguments.pretrained, arguments.quick)
    songs = networks.find_songs(arguments.songs)
    songs = songs[:2] if arguments.quick else songs
    methods, minutes = compare_songs(encoder, songs, window_s, overlap_s)
    shown = ("cosine", "distance", "near_ends", "elsewhere", "step")
    rows = [
        [
            name,
            *(f"{found[m][-1]:.3f}" if m in found else "" for m in shown),
            f"{found['audio_s_a_cpu_s']:.0f}",
        ]
        for name, found in methods.items()
    ]
    header = ["last layer", "cosine", "distance", "near ends of windows"]
    header += ["elsewhere", "step across an end", "audio-s a CPU-s"]

    def draw(axes):
        for name, found in methods.items():
            axes.plot(found["distance"], marker="o", label=name)
        axes.set_xlabel("layer")
        axes.set_ylabel("distance from the exact pass")
        axes.legend()

    record = {"minutes": minutes, "methods": methods}
    record["encoder"] = encoder.digest()
    bench.report(arguments, "context", header, rows, record, draw)


if __name__ == "__main__":
    main()
