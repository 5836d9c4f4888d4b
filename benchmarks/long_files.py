"""What does a recording of ten hours cost to extract?

    python benchmarks/long_files.py --pretrained results/demo --minutes 10,600

Recordings of these lengths are made of the songs of a folder and extracted in
this process, in cross-faded windows and in one exact pass. The memory is what
comes on top of the loaded encoder.
"""

import tempfile
from pathlib import Path

import networks
import side_by_side as bench
import soundfile

from muselq_modules.audio_data import read_segment
from muselq_modules.extract import extract
from muselq_modules.extraction import CONTEXTS, Plan
from muselq_modules.extraction_run import Storage


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


def measure(encoder, path, output, context):
    """CPU seconds and peak MiB of one recording."""
    plan = Plan([encoder.n_layers], context)
    found = {}

    def run():
        skipped = extract([path], output, encoder, plan, Storage())
        assert not skipped

    def timed():
        found["cpu_s"] = bench.cpu_seconds(run)

    found["peak_mib"] = bench.peak_mib(timed)
    return found


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        **networks.OPTIONS,
        minutes=("10,60", "lengths, separated by commas"),
    )
    encoder = networks.load_encoder(arguments.pretrained, arguments.quick)
    songs = networks.find_songs(arguments.songs)
    lengths = [float(number) for number in arguments.minutes.split(",")]
    if arguments.quick:
        lengths = [0.2, 1.0]
    rows, record = [], {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "recording.rf64")
        for minutes in lengths:
            write_recording(path, songs, minutes, encoder.sample_rate)
            for context in CONTEXTS:
                name = f"{minutes:g} minutes, {context}"
                output = Path(folder, name)
                found = measure(encoder, path, output, context)
                record[name] = found
                speed = 60 * minutes / found["cpu_s"]
                peak = found["peak_mib"]
                rows.append(
                    [
                        f"{minutes:g}",
                        context,
                        f"{found['cpu_s']:.1f}",
                        f"{speed:.0f}",
                        "" if peak is None else f"{peak:.0f}",
                    ]
                )
    header = ["minutes", "context", "CPU-s", "audio-s a CPU-s", "peak MiB"]
    peaks = {name: found["peak_mib"] or 0 for name, found in record.items()}
    draw = bench.bars("peak MiB", peaks)
    bench.report(arguments, "long_files", header, rows, record, draw)


if __name__ == "__main__":
    main()
