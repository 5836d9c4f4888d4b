"""Pre-train a music encoder with a random-projection quantizer.

    torchrun recipes/pretrain/train.py hparams/brn_summary.yaml \
        --data_folder /data/music

Read it from main() down: prepare the data, measure its statistics, build the
brain, fit. The same command resumes a run that was stopped or killed.
README.md beside this file says what a run needs and gives.
"""

from pathlib import Path

import torch
from fma_prepare import prepare_fma
from folder_prepare import prepare_folder
from music4all_prepare import prepare_music4all
from speechbrain.utils.distributed import if_main_process, run_on_main
from torch import distributed
from torch.utils.data import DataLoader

from muselq_modules.checkpoints import AtomicCheckpointer
from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.experiment import load_experiment, start_experiment
from muselq_modules.files import write_json
from muselq_modules.pretrained import save_encoder
from muselq_modules.pretraining import PretrainBrain
from muselq_modules.rehearsal import rehearse
from muselq_modules.sampling import GlobalBatchSampler, accumulation_steps
from muselq_modules.segments import (
    SegmentDataset,
    SegmentManifest,
    ignore_stop_signals,
)
from muselq_modules.shards import ShardManifest, prepare_shards
from muselq_modules.training_log import plot_curves
from muselq_modules.training_statistics import (
    TargetPipeline,
    load_or_measure,
    spread_over,
)

PREPARE = {
    "folder": prepare_folder,
    "fma": prepare_fma,
    "music4all": prepare_music4all,
    "shards": prepare_shards,
}


def prepare_data(hparams):
    """Prepare the collection (main process), then open its manifests."""
    if hparams["dataset"] not in PREPARE:
        raise UserError(
            f"dataset is {hparams['dataset']}: choose from {', '.join(PREPARE)}"
        )
    record = run_on_main(
        PREPARE[hparams["dataset"]],
        kwargs={
            "data_folder": hparams["data_folder"],
            "manifest_folder": hparams["manifest_folder"],
            "segment_s": hparams["segment_s"],
            "min_tail_s": hparams["min_tail_s"],
            "valid_fraction": hparams["valid_fraction"],
            "transcode_folder": hparams["transcode_folder"],
        },
    )
    sample_rate = hparams["encoder"].sample_rate
    if record.get("sample_rate", sample_rate) != sample_rate:
        raise UserError(
            f"the shards hold audio at {record['sample_rate']} Hz and the "
            f"encoder takes {sample_rate} Hz: train from the songs"
        )
    if if_main_process():
        # What the run was trained on, with the digest of its manifests.
        write_json(Path(hparams["output_folder"]) / "data.json", record)
    folder = Path(hparams["manifest_folder"])
    kind = ShardManifest if hparams["dataset"] == "shards" else SegmentManifest
    return [
        kind(
            folder / f"{split}.csv",
            record["audio_root"],
            hparams["segment_s"],
            hparams["min_tail_s"],
        )
        for split in ("train", "valid")
    ]


def make_loaders(hparams, train, valid, rank, world_size):
    """Loaders of this rank: all steps of the run, and a share of validation."""
    sample_rate = hparams["encoder"].sample_rate
    sampler = GlobalBatchSampler(
        len(train),
        hparams["global_batch"],
        hparams["local_batch"],
        hparams["seed"],
        rank,
        world_size,
    )
    options = {
        "num_workers": hparams["n_workers"],
        "collate_fn": SegmentDataset.collate,
        "persistent_workers": hparams["n_workers"] > 0,
        "worker_init_fn": ignore_stop_signals,
        "pin_memory": torch.cuda.is_available(),
    }
    train_loader = DataLoader(
        SegmentDataset(
            train,
            sample_rate,
            hparams["seed"],
            hparams["shift_segments"],
            hparams["speeds"],
        ),
        batch_sampler=sampler,
        **options,
    )
    held_out = spread_over(len(valid), hparams["valid_segments"])
    valid_loader = DataLoader(
        SegmentDataset(valid, sample_rate),
        sampler=[(0, segment) for segment in held_out[rank::world_size]],
        batch_size=hparams["local_batch"],
        **options,
    )
    return sampler, train_loader, valid_loader


def make_brain(experiment, brain_class=PretrainBrain):
    """The brain and its two loaders; runs before and without the training."""
    hparams = experiment.hparams
    rank, world_size = 0, 1
    if distributed.is_initialized():
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
    folder = Path(hparams["output_folder"])
    train, valid = prepare_data(hparams)

    pipeline = TargetPipeline(
        hparams["features"]["log_mel"],
        hparams["features"]["stacking"],
        hparams["tokenizer"]["whitening"],
        hparams["tokenizer"]["tokenizer"],
        hparams["encoder"].whitening,
    )
    # The main process measures; then every process reads the same files.
    statistics = [folder, pipeline, train, hparams["statistics_segments"]]
    run_on_main(load_or_measure, [*statistics, hparams["n_workers"]])
    targets = load_or_measure(*statistics)

    sampler, train_loader, valid_loader = make_loaders(
        hparams, train, valid, rank, world_size
    )
    brain = brain_class(
        modules={"model": hparams["model"]},
        opt_class=hparams["optimisation"]["opt_class"],
        hparams=hparams,
        run_opts=experiment.run_opts,
        checkpointer=AtomicCheckpointer(
            folder / "save",
            {
                "model": hparams["model"],
                "whitening": pipeline.whitening,
                "tokenizer": pipeline.tokenizer,
            },
            keep=hparams["checkpoints_to_keep"],
        ),
    )
    brain.prepare_run(sampler, train, pipeline, targets)
    return brain, (train_loader, valid_loader)


@exits_cleanly
def main():
    """Run the recipe from the command line."""
    experiment = load_experiment()
    hparams = experiment.hparams
    # What cannot work is refused before anything starts.
    rehearse(experiment)
    accumulation_steps(
        hparams["global_batch"],
        hparams["local_batch"],
        distributed.get_world_size() if distributed.is_initialized() else 1,
    )
    folder = start_experiment(experiment)
    brain, loaders = make_brain(experiment)
    brain.fit(brain.rounds(), *loaders)
    if if_main_process():
        save_encoder(hparams["encoder"], folder)
        plot_curves(folder)
        print(f"Encoder: {folder}\nCurves: {folder / 'curves.png'}")
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
