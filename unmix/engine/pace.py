"""How fast a training is here: about, from the operations of its network, and by some of its real steps."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from unmix.engine.loader import build_dataloader
from unmix.engine.runner import quiet
from unmix.models.algorithms import DeepClusterV2
from unmix.registry import MODELS
from unmix.utils.rng import seeded

# Multiply-adds of one image of 224 px, in units of 1e9, and its maps in float32, in MB, by depth.
COSTS = {8: (0.8, 15), 18: (1.8, 25), 26: (2.4, 60), 34: (3.6, 38), 50: (4.1, 90), 101: (7.8, 140), 152: (11.5, 190)}
PASSES = 9  # a training step with Un-Mix, in forward passes of its images
GRAPHS = 3  # encodings of an image that are kept for the backward pass, with Un-Mix
CORE, GPU = 2.5e10, 5e12  # multiply-adds a second that a ResNet reaches there, roughly
WARM_UP, LEAST, SECONDS = 2, 3, 10.0  # steps before the measured ones, measured steps, and the time that they may take


class Cost(NamedTuple):
    """Multiply-adds of one image of 224 px, in units of 1e9, and its maps in float32, in MB."""

    operations: float
    maps: float


def resnet_cost(depth: int) -> Cost:
    """Return the cost of a ResNet."""
    return Cost(*COSTS.get(depth, COSTS[50]))


def network_cost(network: Any, channels: int, size: int) -> Cost:
    """Return the cost of any network by its operations on an image of ``size`` px; maps are as in ResNet-50."""
    tensors = {name: x.to('meta') for name, x in [*network.named_parameters(), *network.named_buffers()]}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        functional_call(network.eval(), tensors, torch.empty(1, channels, size, size, device='meta'))
    operations = counter.get_total_flops() / 2e9 * (224 / size) ** 2
    known = resnet_cost(50)
    return Cost(operations, operations * known.maps / known.operations)


def estimate_pace(cost: Cost, size: int, cores: int | None) -> float:
    """Return the images a second that a training takes, about.

    Args:
        cost: Of the network.
        size: Side of the views in pixels.
        cores: CPU cores; None: an accelerator.
    """
    operations = PASSES * cost.operations * 1e9 * (size / 224) ** 2
    return (GPU if cores is None else CORE * cores) / operations


def map_bytes(cost: Cost, size: int) -> float:
    """Return the bytes of memory that a training needs for each image of a batch, about."""
    return cost.maps * 1e6 * GRAPHS * (size / 224) ** 2


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
    quiet(MMLogger.get_current_instance())  # there is no Runner yet that has done so
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
