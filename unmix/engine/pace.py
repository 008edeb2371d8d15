"""How fast a training is here: about, from the operations of its network, and by some of its real steps."""

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

# Multiply-adds of one image of 224 px, in units of 1e9, and its maps in float32, in MB, by depth.
COSTS = {8: (0.8, 15), 18: (1.8, 25), 26: (2.4, 60), 34: (3.6, 38), 50: (4.1, 90), 101: (7.8, 140), 152: (11.5, 190)}
PASSES = 9  # a training step with Un-Mix, in forward passes of its images
GRAPHS = 3  # encodings of an image that are kept for the backward pass, with Un-Mix
CORE, GPU = 2.5e10, 5e12  # multiply-adds a second that a ResNet reaches there, roughly
WARM_UP, LEAST, SECONDS = 2, 3, 10.0  # steps before the measured ones, measured steps, and the time that they may take


def estimate_pace(depth: int, size: int, cores: int | None) -> float:
    """Return the images a second that a training of a ResNet takes, about.

    Args:
        depth: Of the network.
        size: Side of the views in pixels.
        cores: CPU cores; None: an accelerator.
    """
    operations = PASSES * COSTS.get(depth, COSTS[50])[0] * 1e9 * (size / 224) ** 2
    return (GPU if cores is None else CORE * cores) / operations


def map_bytes(depth: int, size: int) -> float:
    """Return the bytes of memory that a training of a ResNet needs for each image of a batch, about."""
    return COSTS.get(depth, COSTS[50])[1] * 1e6 * GRAPHS * (size / 224) ** 2


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
