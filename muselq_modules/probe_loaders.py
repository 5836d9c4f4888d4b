"""Loaders of a probe's batches: embeddings, or waveforms to fine-tune on.

A sampler gives whole batches of window numbers, ``[seed, batch]`` in
training, so that probes of different seeds each see their own order.
"""

import os

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from muselq_modules.windows import WindowReader

EVALUATION_BATCH = 2048
# Features of a split up to this size are moved to the device once.
RESIDENT_BYTES = 4e9


class EmbeddingDataset(Dataset):
    """Whole batches of windows, looked up by a tensor of indices."""

    def __init__(self, features, targets, device):
        if features.nbytes < RESIDENT_BYTES:
            features, targets = features.to(device), targets.to(device)
        self.features = features
        self.targets = targets

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        index = index.to(self.features.device)
        return self.features[index], self.targets[index]


class SeededOrder(Sampler):
    """Batches of window numbers, in an order of its own for each seed.

    Example
    -------
    >>> order = SeededOrder(n=5, batch_size=4, seeds=[0, 1])
    >>> [tuple(index.shape) for index in order]
    [(2, 4), (2, 1)]
    """

    def __init__(self, n, batch_size, seeds, rank=0, n_ranks=1):
        self.n = n
        self.batch_size = batch_size
        self.seeds = seeds
        self.rank = rank
        self.n_ranks = n_ranks
        self.epoch = 0

    def set_epoch(self, epoch):
        """Called by Brain before each epoch."""
        self.epoch = epoch

    def __len__(self):
        return -(-self.n // self.batch_size)

    def __iter__(self):
        orders = []
        for seed in self.seeds:
            # 1000 exceeds any number of epochs: no two seeds share an order.
            generator = torch.Generator().manual_seed(1000 * seed + self.epoch)
            orders.append(torch.randperm(self.n, generator=generator))
        # Ranks need equal shares; a few windows wait for the next epoch.
        n = self.n // self.n_ranks * self.n_ranks
        orders = torch.stack(orders)[:, :n]
        for batch in orders.split(self.batch_size, dim=1):
            yield batch[:, self.rank :: self.n_ranks]


def embedding_loader(features, targets, device, batch_size=None, seeds=None):
    """Loader of embeddings: shuffled by seed, or in order without seeds.

    Parameters
    ----------
    features : torch.Tensor ``[window, ...]``
    targets : torch.Tensor ``[window, ...]``
    device : str
    batch_size : int, optional
        With ``seeds``.
    seeds : list of int, optional
        Distinct seeds of a stack; batches are ``[seed, window, ...]``.
    """
    dataset = EmbeddingDataset(features, targets, device)
    if seeds is None:
        order = torch.arange(len(features)).split(EVALUATION_BATCH)
    else:
        order = SeededOrder(len(features), batch_size, seeds)
    return DataLoader(dataset, batch_size=None, sampler=order)


class WaveformDataset(Dataset):
    """Waveforms, labels and relative lengths of batches of windows."""

    def __init__(self, windows, targets, data_folder, sample_rate):
        self.reader = WindowReader(windows, data_folder, sample_rate)
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        index = index.flatten()
        batch = self.reader[index.tolist()]
        if isinstance(batch, Exception):
            raise batch
        wavs, n_samples = batch
        return wavs, self.targets[index], n_samples / wavs.shape[1]


def waveform_loader(
    windows, targets, data_folder, sample_rate, batch_size, workers, seed=None
):
    """Loader of waveforms: shuffled with a seed, or in order.

    Under torchrun the ranks share each training batch out, so that the same
    batch size gives the same updates; every rank evaluates everything.

    Parameters
    ----------
    windows : list of Window
    targets : torch.Tensor ``[window, ...]``
    data_folder : str or Path
    sample_rate : int
    batch_size : int
        Of all ranks together.
    workers : int
    seed : int, optional
        Of the order.
    """
    dataset = WaveformDataset(windows, targets, data_folder, sample_rate)
    if seed is None:
        order = torch.arange(len(windows)).split(batch_size)
    else:
        rank = int(os.environ.get("RANK", 0))
        n_ranks = int(os.environ.get("WORLD_SIZE", 1))
        order = SeededOrder(len(windows), batch_size, [seed], rank, n_ranks)
    return DataLoader(
        dataset, batch_size=None, sampler=order, num_workers=workers
    )
