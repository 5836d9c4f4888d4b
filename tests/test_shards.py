"""Tar shards: written whole, read by webdataset, trained on like the songs."""

import io
import json
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pretrain_runs import ROOT, command_line, trace
from torch.utils.data import DataLoader

from muselq_modules import shard_sets
from muselq_modules.errors import UserError
from muselq_modules.experiment import load_experiment, start_experiment
from muselq_modules.features import FrameStacking, LogMel
from muselq_modules.pretraining import PretrainBrain
from muselq_modules.segments import SegmentDataset, SegmentManifest
from muselq_modules.shard_sets import verify_all, write_all
from muselq_modules.shards import ShardManifest, prepare_shards
from muselq_modules.song_manifests import Songs, prepare_songs
from muselq_modules.tokenizer import RandomProjectionTokenizer
from muselq_modules.training_statistics import TargetPipeline, measure
from muselq_modules.whitening import Whitening

SMALL_GB = 3e-4  # two songs a shard
POLICY = {"segment_s": 2.0, "min_tail_s": 1.0}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Seven short songs of unequal rate, their manifests and FLAC copies."""
    folder = tmp_path_factory.mktemp("songs")
    generator = np.random.default_rng(0)
    for number in range(7):
        rate = (24000, 44100, 22050)[number % 3]
        seconds = 3.3 + 0.7 * number
        wave = generator.standard_normal((round(rate * seconds), 2)) * 0.3
        name = f"artist.{number}/a song, no. {number}.wav"
        path = folder / "music" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, wave, rate, "FLOAT")
    names = sorted(
        str(path.relative_to(folder / "music"))
        for path in (folder / "music").rglob("*.wav")
    )
    for copies in (None, folder / "flac"):
        prepare_songs(
            "test",
            lambda root: Songs({name: name for name in names}),
            folder / "music",
            folder / ("manifest" if copies is None else "flac_manifest"),
            valid_fraction=0.2,
            workers=1,
            transcode_folder=copies,
            **POLICY,
        )
    return folder


@pytest.fixture(scope="module")
def shards(songs):
    """Shards of the FLAC copies, written by processes."""
    write_all(songs / "flac_manifest", songs / "shards", SMALL_GB, 1)
    return songs / "shards"


@pytest.fixture
def in_process(monkeypatch):
    """Write without processes; the names of written shards are kept."""
    written = []

    def run(function, items, workers, description):
        for item in items:
            written.append(item.name)
            yield item, function(item)

    monkeypatch.setattr(shard_sets, "run_parallel", run)
    return written


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def open_both(songs, shards, split="train"):
    return (
        SegmentManifest(
            songs / "flac_manifest" / f"{split}.csv", songs / "flac", **POLICY
        ),
        ShardManifest(shards / f"{split}.csv", shards, **POLICY),
    )


# ----------------------------------------------------------------- writing


def test_index_counts_what_is_there(songs, shards):
    index = json.loads((shards / "index.json").read_text())
    summary = json.loads((songs / "flac_manifest/summary.json").read_text())
    names = {path.name for path in shards.glob("*.tar")}
    for split, found in index["splits"].items():
        assert found["songs"] == summary["files"][split]
        assert found["hours"] == summary["hours"][split]
        rows = found["shards"]
        assert sum(row["songs"] for row in rows) == found["songs"]
        assert sum(row["bytes"] for row in rows) == found["bytes"]
        assert {row["name"] for row in rows} <= names
        names -= {row["name"] for row in rows}
    assert not names
    assert len(index["splits"]["train"]["shards"]) >= 2
    assert not (shards / ".parts").exists()
    assert verify_all(shards, workers=1) == []


def test_webdataset_reads_them(songs, shards):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    manifest, _ = open_both(songs, shards)
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == manifest.n_files
    assert len({sample["__key__"] for sample in samples}) == manifest.n_files
    for sample in samples:
        facts = json.loads(sample["json"])
        wav, rate = soundfile.read(io.BytesIO(sample["wav"]), dtype="int16")
        copy, _ = soundfile.read(songs / "flac" / facts["path"], dtype="int16")
        assert rate == facts["sample_rate"] == 24000
        assert len(wav) == facts["frames"] and np.array_equal(wav, copy)


def test_places_are_those_of_the_tar(shards):
    places = np.load(shards / "train.places.npy")
    header = 44
    for path in shards.glob("train-*.tar"):
        number = int(path.stem[-6:])
        with tarfile.open(path) as tar:
            for entry in tar:
                if entry.name.endswith(".wav"):
                    row = int(Path(entry.name).stem)
                    place = number, entry.offset_data + header
                    assert tuple(places[row].tolist()) == place


def test_an_interrupted_job_goes_on(songs, shards, tmp_path, in_process):
    folder = tmp_path / "shards"
    write = shard_sets.write_shard

    def stop(root, target, shard):
        if len(in_process) == 3:
            raise KeyboardInterrupt
        return write(root, target, shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_sets, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            write_all(songs / "flac_manifest", folder, SMALL_GB)
    with pytest.raises(UserError, match="no finished shards"):
        prepare_shards(folder, tmp_path / "manifest")
    # One of the two that were written is cut by a full disk.
    (folder / in_process[0]).write_bytes(b"cut")
    kept = in_process[1]
    in_process.clear()
    write_all(songs / "flac_manifest", folder, SMALL_GB)
    assert kept not in in_process and len(in_process) >= 2
    assert contents(folder) == contents(shards)
    in_process.clear()
    write_all(songs / "flac_manifest", folder, SMALL_GB)
    assert in_process == []


def test_a_song_that_cannot_be_read_is_named(songs, tmp_path, in_process):
    folder, hidden = tmp_path / "shards", songs / "music" / "artist.4"
    hidden.rename(songs / "hidden")
    try:
        with pytest.raises(UserError, match=r"artist\.4/a song, no\. 4\.wav"):
            write_all(songs / "manifest", folder, SMALL_GB)
    finally:
        (songs / "hidden").rename(hidden)
    assert not list(folder.glob(".*.tmp"))
    write_all(songs / "manifest", folder, SMALL_GB)
    rows = (folder / "train.csv").read_text().splitlines()
    assert {row.split(",")[-2] for row in rows[1:]} == {"24000"}


def test_other_shards_are_not_overwritten(songs, shards, tmp_path):
    with pytest.raises(UserError, match="another manifest or size"):
        write_all(songs / "manifest", shards, SMALL_GB)
    with pytest.raises(UserError, match="another manifest or size"):
        write_all(songs / "flac_manifest", shards, 1.0)
    with pytest.raises(UserError, match="something else than shards"):
        write_all(songs / "manifest", songs / "music", SMALL_GB)
    with pytest.raises(UserError, match="holds no finished manifest"):
        write_all(tmp_path, tmp_path / "shards", SMALL_GB)


def test_command_line(songs, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "pretrain"))
    import shard

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["shard.py", *map(str, arguments)])
        try:
            shard.main()
        except SystemExit as end:
            assert end.code not in (None, 0)
        printed = capsys.readouterr()
        return printed.out + printed.err

    place = ["--shard_folder", shards]
    told = call("--manifest_folder", songs / "flac_manifest", *place)
    assert "another manifest or size" in told
    whole = ["--manifest_folder", songs / "flac_manifest", "--shard_gb"]
    index = json.loads((shards / "index.json").read_text())["splits"]["train"]
    told = call(*whole, SMALL_GB, *place)
    assert f"train: {index['songs']} songs" in told
    assert "as they were written" in call("--verify", "--workers", 1, *place)
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    name = index["shards"][0]["name"]
    damaged = bytearray((copy / name).read_bytes())
    damaged[5000] ^= 1
    (copy / name).write_bytes(damaged)
    told = call("--verify", "--workers", 1, "--shard_folder", copy)
    assert "1 shards" in told and name in told
    assert "--manifest_folder is missing" in call(*place)
    assert "give a size above 0" in call(*whole, 0, *place)


# ----------------------------------------------------------------- reading


def test_every_segment_is_that_of_the_song(songs, shards):
    for split in ("train", "valid"):
        manifest, other = open_both(songs, shards, split)
        # The digest is what a run checks when it resumes.
        assert other.digest == manifest.digest
        assert len(other) == len(manifest) >= 2
        for segment in range(len(manifest)):
            assert other.name(segment) == manifest.name(segment)
            wav = manifest.read(segment, 24000)
            assert torch.equal(other.read(segment, 24000) * 2.0**-15, wav)


def test_other_lengths_need_no_new_shards(songs, shards):
    manifest = ShardManifest(shards / "train.csv", shards, 3.3, 0.5)
    whole, _ = soundfile.read(
        songs / "flac" / manifest.locate(1)[0], dtype="int16"
    )
    start = round(manifest.locate(1)[1] * 24000)
    piece = whole[start : start + round(3.3 * 24000)]
    assert np.array_equal(manifest.read(1, 24000).numpy(), piece)


def test_batches_through_workers_are_equal(songs, shards):
    first, second = (
        DataLoader(
            SegmentDataset(manifest),
            sampler=[(0, i) for i in range(len(manifest))],
            batch_size=4,
            num_workers=1,
            collate_fn=SegmentDataset.collate,
        )
        for manifest in open_both(songs, shards)
    )
    shorter = []
    for one, two in zip(first, second, strict=True):
        shorter += one.n_samples.tolist()
        assert two.wav.dtype == torch.int16
        assert torch.equal(two.waveforms("cpu"), one.waveforms("cpu"))
        assert torch.equal(two.n_samples, one.n_samples)
    assert any(n < 48000 for n in shorter)  # tails are padded


def test_a_damaged_shard_is_named(songs, shards, tmp_path):
    copies = contents(shards)
    name = "train-000001.tar"
    for fault, content in (
        ("0 of", None),
        ("of", copies[name][:-100]),
        ("differs", copies[name][:-5000] + b"x" + copies[name][-4999:]),
    ):
        folder = tmp_path / fault
        folder.mkdir()
        for path, data in {**copies, name: content}.items():
            if data is not None:
                (folder / path).write_bytes(data)
        assert verify_all(folder, workers=1) == [name]
        if fault != "differs":
            with pytest.raises(UserError, match=rf"{name} has .*{fault}"):
                prepare_shards(folder, tmp_path / "manifest")
    manifest = ShardManifest(shards / "train.csv", tmp_path / "of", **POLICY)
    errors = SegmentDataset.collate(
        [SegmentDataset(manifest)[0, i] for i in range(len(manifest))]
    ).errors
    assert all(f"{name} is cut" in error for error in errors)
    with pytest.raises(UserError, match="24000 Hz, not at 16000 Hz"):
        manifest.read(0, 16000)


def test_a_manifest_of_other_songs_is_refused(songs, shards):
    with pytest.raises(UserError, match="give another manifest_folder"):
        prepare_shards(shards, songs / "manifest")
    with pytest.raises(UserError, match="does not belong to the shards"):
        manifest = songs / "one" / "train.csv"
        manifest.parent.mkdir()
        manifest.write_text("path,frames,sample_rate\na.wav,240000,24000\n")
        ShardManifest(manifest, shards, **POLICY)


# ---------------------------------------------------------------- training


def test_statistics_are_those_of_the_songs(songs, shards):
    measured = []
    for manifest in open_both(songs, shards):
        pipeline = TargetPipeline(
            LogMel(),
            FrameStacking(),
            Whitening(512, 8),
            RandomProjectionTokenizer(8, 64),
        )
        health = measure(pipeline, manifest)
        measured.append(
            (health, [x.tolist() for x in pipeline.state().values()])
        )
    assert measured[0] == measured[1]


class StoppedBrain(PretrainBrain):
    """Receives SIGTERM in its first step."""

    def optimizers_step(self):
        self.stop_signal = signal.SIGTERM
        super().optimizers_step()


@pytest.fixture
def train(songs, monkeypatch):
    """Trains with the shipped recipe in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "pretrain"))

    def train(output_folder, brain_class=PretrainBrain, **options):
        import train as recipe

        options = {"n_steps": 4, "valid_interval": 4, **options}
        # At another speed, samples of shards are rounded to 16 bits again.
        options["speeds"] = "[1.0]"
        experiment = load_experiment(command_line(output_folder, **options))
        start_experiment(experiment)
        brain, loaders = recipe.make_brain(experiment, brain_class)
        brain.fit(brain.rounds(), *loaders)
        return trace(output_folder)

    yield train
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_losses_and_resume_are_those_of_the_songs(
    songs, shards, train, tmp_path
):
    from_songs = {
        "data_folder": songs / "music",
        "manifest_folder": songs / "flac_manifest",
        "transcode_folder": songs / "flac",
        "valid_fraction": 0.2,
        "dataset": "folder",
    }
    from_shards = {"data_folder": shards, "dataset": "shards"}
    # The fixture made the manifests of a collection named "test".
    summary = songs / "flac_manifest" / "summary.json"
    summary.write_text(
        summary.read_text().replace(
            '"collection": "test"', '"collection": "folder"'
        )
    )
    expected = train(tmp_path / "songs", **from_songs)
    # The first step from the songs, the others from the shards.
    with pytest.raises(SystemExit):
        train(tmp_path / "mixed", StoppedBrain, **from_songs)
    assert len(trace(tmp_path / "mixed")) == 1
    assert train(tmp_path / "mixed", **from_shards) == expected
