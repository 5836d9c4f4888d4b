"""How many seconds of audio does a core read in a second?

    python benchmarks/loader.py

Segments of 30 s in random order through the training's dataset: from songs as
they come (44.1 kHz stereo wav, flac and mp3), from 24 kHz flac copies and from
shards, in this process; then flac and shards again as training reads them,
through a loader's worker, whose CPU time counts too.
"""

import resource
import statistics
import tempfile
import time
from pathlib import Path

import networks
import numpy as np
import side_by_side as bench
import soundfile
import torch
from torch.utils.data import DataLoader

from muselq_modules.audio_data import read_segment
from muselq_modules.segments import SegmentDataset, SegmentManifest
from muselq_modules.shard_sets import write_all
from muselq_modules.shards import ShardManifest
from muselq_modules.song_manifests import Songs, prepare_songs

SAMPLES = networks.HPARAMS.parent / "tests" / "samples"
BATCH = 16
# Seconds of audio a second that one H200 takes: it trains brn_summary, 0.65
# TFLOP a clip of 30 s, at half of the 790 TFLOP/s it reaches in bf16.
NEEDED = 395 / 0.65 * 30


def write_songs(folder, suffix, n_songs, length_s):
    """Songs of stereo music at 44.1 kHz, made of the samples."""
    paths = sorted(SAMPLES.glob("*.ogg"))
    for number in range(n_songs):
        pieces = []
        while sum(map(len, pieces)) < length_s * 44100:
            path = paths[(number + len(pieces)) % len(paths)]
            pieces.append(read_segment(path, 0, None, 44100).numpy())
        wave = np.concatenate(pieces)[: length_s * 44100]
        # The second channel is late, so that no coder takes it for the first.
        stereo = np.stack([wave, np.roll(wave, 441)], axis=1)
        soundfile.write(folder / f"{number}.{suffix}", stereo, 44100)


def open_songs(folder, name, **options):
    """The manifest of a folder of songs."""
    names = sorted(path.name for path in (folder / name).iterdir())
    record = prepare_songs(
        name,
        lambda root: Songs({n: n for n in names}),
        folder / name,
        folder / f"{name}_manifest{'_24' if options else ''}",
        valid_fraction=0.01,
        workers=1,
        **options,
    )
    manifest = folder / f"{name}_manifest{'_24' if options else ''}"
    return SegmentManifest(manifest / "train.csv", record["audio_root"])


def in_process(manifest, n_segments):
    """A function that reads segments in random order, in batches."""
    dataset = SegmentDataset(manifest)
    order = np.random.default_rng(0).integers(len(manifest), size=n_segments)

    def read():
        for start in range(0, n_segments, BATCH):
            items = [dataset[0, int(i)] for i in order[start : start + BATCH]]
            SegmentDataset.collate(items)

    return read


def through_worker(manifest, n_segments):
    """Seconds of audio a core-second, the core of the worker included."""
    order = np.random.default_rng(0).integers(len(manifest), size=n_segments)
    loader = DataLoader(
        SegmentDataset(manifest),
        sampler=[(0, int(i)) for i in order],
        batch_size=BATCH,
        num_workers=1,
        collate_fn=SegmentDataset.collate,
    )
    before = _cpu_with_children()
    for batch in loader:
        assert not batch.errors
    return n_segments * manifest.segment_s / (_cpu_with_children() - before)


def _cpu_with_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + usage.ru_utime + usage.ru_stime


def main(argv=None):
    """Measure and report."""
    arguments = bench.parse(
        __doc__,
        argv,
        songs=(6, "songs of each kind"),
        segments=(64, "segments read in a round"),
    )
    length_s = 60 if arguments.quick else 180
    if arguments.quick:
        arguments.songs, arguments.segments = 2, 16
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifests = {}
        for suffix in ("wav", "flac", "mp3"):
            (folder / suffix).mkdir()
            write_songs(folder / suffix, suffix, arguments.songs, length_s)
            kind = f"{suffix}, 44.1 kHz stereo"
            manifests[kind] = open_songs(folder, suffix)
        copies = folder / "copies"
        manifests["flac, 24 kHz mono"] = open_songs(
            folder, "wav", transcode_folder=copies
        )
        write_all(folder / "wav_manifest_24", folder / "shards", workers=1)
        shards = folder / "shards"
        manifests["shards"] = ShardManifest(shards / "train.csv", shards)
        runs = {
            kind: in_process(manifest, arguments.segments)
            for kind, manifest in manifests.items()
        }
        seconds, _ = bench.interleave(runs, arguments.repetitions)
        audio_s = arguments.segments * 30.0
        speeds = {kind: audio_s / min(v) for kind, v in seconds.items()}
        record = {
            kind: {
                "seconds": seconds[kind],
                "audio_s_a_core_s": speeds[kind],
                "against_shards": bench.ratio(seconds, kind, "shards"),
            }
            for kind in runs
        }
        # Long enough that the start of the worker does not count.
        n = arguments.segments * (1 if arguments.quick else 10)
        for _ in range(min(3, arguments.repetitions)):
            for kind in ("flac, 24 kHz mono", "shards"):
                speed = through_worker(manifests[kind], n)
                record[kind].setdefault("through_a_worker", []).append(speed)
        sizes = _sizes(folder)
    rows = [
        [
            kind,
            f"{found['audio_s_a_core_s']:,.0f}",
            bench.as_times(found["against_shards"]),
            *in_training(found),
        ]
        for kind, found in record.items()
    ]
    print(
        f"24 kHz mono: 16-bit {sizes['int16']:.0f} bytes a second of audio, "
        f"flac {sizes['flac'] / sizes['int16']:.2f} of that"
    )
    header = ["from", "audio s a core-s", "time against shards"]
    header += ["through a worker", "cores for one H200"]
    draw = bench.bars("seconds of audio a core-second", speeds)
    found = {"kinds": record, "bytes_a_second": sizes}
    bench.report(arguments, "loader", header, rows, found, draw)


def in_training(found):
    """Cells of a row: speed through a worker, and cores for a GPU."""
    speeds = found.get("through_a_worker")
    if speeds is None:
        return "", f"{NEEDED / found['audio_s_a_core_s']:.1f}"
    middle = statistics.median(speeds)
    text = f"{middle:,.0f} [{min(speeds):,.0f}, {max(speeds):,.0f}]"
    return text, f"{NEEDED / middle:.1f}"


def _sizes(folder):
    """Bytes a second of audio of the copies and of the shards' samples."""
    files = list((folder / "copies").glob("*.flac"))
    seconds = sum(soundfile.info(str(path)).duration for path in files)
    flac = sum(path.stat().st_size for path in files)
    return {"int16": 2.0 * networks.SAMPLE_RATE, "flac": flac / seconds}


if __name__ == "__main__":
    main()
