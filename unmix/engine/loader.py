"""Data loaders from configs, and streams (``IterableDataset``) as training data."""

import gc
import os
from collections.abc import Iterator, Sized
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.runner import Runner
from torch.utils.data import DataLoader, IterableDataset

from unmix.datasets.wrappers import FirstImages

if hasattr(os, 'register_at_fork'):
    # A data worker does not collect the garbage of its parent: an event or a stream of CUDA that is destroyed in
    # another process than its own ends that process.
    os.register_at_fork(after_in_child=gc.freeze)


def build_dataloader(
    dataloader: DataLoader[Any] | dict[str, Any], seed: int | None = None, diff_rank_seed: bool = False
) -> DataLoader[Any]:
    """Build a loader as MMEngine's ``Runner`` does; ``num_batch_per_epoch`` leaves the first images, so many batches.

    Batches are in pinned memory where there is CUDA, unless the config has ``pin_memory=False``: a copy from pinned
    memory does not keep the host waiting. Elsewhere there is nothing to pin them for.

    MMEngine's own form of ``num_batch_per_epoch`` cannot be sent to workers that are spawned, and takes more batches
    than there are images for; its ``FlexibleRunner`` has none.

    Raises:
        ValueError: If the data set is a stream with a sampler or without a length, or has fewer batches.
    """
    if isinstance(dataloader, DataLoader):
        return dataloader
    cfg = dict(dataloader)
    cfg['pin_memory'] = cfg.get('pin_memory', True) and torch.cuda.is_available()
    number = cfg.pop('num_batch_per_epoch', None)
    if number is not None:
        size = cfg['batch_size'] if 'batch_size' in cfg else cfg['batch_sampler']['batch_size']
        cfg['dataset'] = dict(type=FirstImages, dataset=cfg['dataset'], num_images=number * size * get_world_size())
    try:
        loader = Runner.build_dataloader(cfg, seed, diff_rank_seed)
    except ValueError as error:
        if 'DataLoader with IterableDataset' not in str(error):
            raise
        raise ValueError(
            'The data set of a dataloader is an IterableDataset, which has an order of its own, and the dataloader has '
            'a sampler too. Set train_dataloader.sampler=None (likewise of val_dataloader and test_dataloader).'
        ) from error
    if isinstance(loader.dataset, IterableDataset) and not isinstance(loader.dataset, Sized):
        raise ValueError(
            f'The data set {type(loader.dataset).__name__} is an IterableDataset without a length, which epochs and '
            'schedules need. Define __len__: the number of samples that a process takes in an epoch.'
        )
    return loader


def epoch_of_stream(batches: Iterator[Any], loader: DataLoader[Any], steps: int) -> Iterator[Any]:
    """Yield the ``steps`` batches of an epoch of a stream; what the stream has beyond them is left out.

    Each worker and each process reads the stream from its beginning. So a stream that does not divide itself among them
    gives each sample several times; here this is an error.

    Raises:
        ValueError: If there are fewer batches, or two workers or processes give the same batch.
    """
    seen: set[bytes] = set()
    workers, processes = loader.num_workers, get_world_size()
    name = type(loader.dataset).__name__
    for number in range(steps):
        try:
            batch = next(batches)
        except StopIteration:
            raise ValueError(
                f'The data set {name} has a length of {steps} batches, but has ended after {number}. Let its __len__ '
                'be the number of samples that a process gets in an epoch. Each worker makes its own batches: '
                f'with train_dataloader.num_workers=0 (now {workers}) no batch is incomplete.'
            ) from None
        if workers > 1 or processes > 1:
            index = batch.get('index') if isinstance(batch, dict) else None
            if index is None:
                raise ValueError(
                    f"The data set {name} gives no 'index' of its samples, so with {workers} workers and {processes} "
                    'processes nothing tells whether they get the same samples. Let each item have its number as '
                    "'index', or use one process and train_dataloader.num_workers=0."
                )
            own = torch.as_tensor(index).cpu().numpy().tobytes()
            same = own in seen or (number == 0 and processes > 1 and len({*all_gather_object(own)}) < processes)
            if same:
                raise ValueError(
                    f'The data set {name} gives the same samples to several of its {workers} workers and {processes} '
                    'processes. Divide them in its __iter__, by torch.utils.data.get_worker_info() and '
                    'mmengine.dist.get_rank(); or use one process and train_dataloader.num_workers=0.'
                )
            seen.add(own)
        yield batch
