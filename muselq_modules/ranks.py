"""The processes of torchrun: how they meet, and how they fail together"""

import os

import torch
from speechbrain.utils import distributed

from muselq_modules.errors import UserError
from muselq_modules.rank_watch import watch_ranks


def launched_by_torchrun():
    """Whether torchrun, or a launcher like it, started this process"""
    return "RANK" in os.environ and "LOCAL_RANK" in os.environ


def choose_backend(device, local_world_size):
    """nccl with one GPU a process, gloo on a machine without GPUs"""
    if device is not None and not device.startswith("cuda"):
        return {"distributed_backend": "gloo"}
    gpus = torch.cuda.device_count()
    if gpus == 0 and device is None:
        return {"distributed_backend": "gloo", "device": "cpu"}
    if gpus < local_world_size:
        raise UserError(
            f"torchrun started {local_world_size} processes but there are "
            f"{gpus} GPUs: use --nproc_per_node={max(gpus, 1)}, or add "
            "--distributed_backend gloo --device cpu"
        )
    return {"distributed_backend": "nccl"}


def join_ranks(run_opts):
    """Joins the process group when torchrun started this process

    Parameters
    ----------
    run_opts : RunOptions
        Gives `distributed_backend`.

    Raises
    ------
    UserError
        The back end is not there, or torchrun's environment is incomplete.
    """
    if not launched_by_torchrun() or distributed.is_distributed_initialized():
        return
    try:
        distributed.ddp_init_group(run_opts)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "The processes of torchrun cannot meet over "
            f"{run_opts.distributed_backend} ({sentence(error)}): on CPU "
            "add --distributed_backend gloo --device cpu"
        ) from error
    watch_ranks()


def raise_together(problem):
    """Raises on every rank the problem that any rank has found

    A folder can be absent on one node only; the others must not wait for it.
    """
    problems = [problem]
    if distributed.is_distributed_initialized():
        problems = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(problems, problem)
    for rank, found in enumerate(problems):
        if found is not None:
            raise UserError(f"{found} (rank {rank})" if rank else found)


def sentence(error):
    """An exception's message on one line"""
    # hyperpyyaml puts its own message before that of the constructor
    return ": ".join(" ".join(str(part).split()) for part in error.args)
