"""How fast a training is here: some of its real steps, measured before it begins."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from unmix.engine.loader import build_dataloader
from unmix.models.algorithms import DeepClusterV2
from unmix.registry import MODELS
from unmix.utils.rng import seeded

WARM_UP, LEAST, SECONDS = 2, 3, 10.0  # steps before the measured ones, measured steps, and the time that they may take


@DefaultScope.overwrite_default_scope('unmix')
def measure_pace(cfg: Config) -> tuple[float, int]:
    """Take some training steps of a config, with its data, on the device of this process, and forget them.

    Global random generators are as before. Where workers load the batches, the first ones lie ready, so the measured
    steps are those of the network, if that is not much faster than the workers.

    Args:
        cfg: The config of a training on one process.

    Returns:
        Images a second, and the number of steps that were measured.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(cfg.get('num_threads') or threads)
    try:
        with seeded('pace', 0):
            return _measure(cfg)
    finally:
        torch.set_num_threads(threads)


def _measure(cfg: Config) -> tuple[float, int]:
    device = get_device()
    model: Any = MODELS.build(cfg.model).to(device).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batches = _endless(build_dataloader(cfg.train_dataloader, seed=0))
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < WARM_UP + LEAST or time.perf_counter() - begin < SECONDS:
        batch = next(batches)
        if isinstance(model, DeepClusterV2) and not times:  # its steps need clusters
            data = model.data_preprocessor(batch, True)
            model.remember(data['inputs'], data['index'])
            model.cluster(0)
        model.train_step(batch, wrapper)
        model.after_step()
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter())
    taken = len(times) - WARM_UP
    return taken * int(cfg.train_dataloader.batch_size) / (times[-1] - times[WARM_UP - 1]), taken


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
