"""Cases of ``check_device.py``: steps of every recipe that pre-trains, with its own network, sizes and batch."""

import statistics
import tempfile
import time
from functools import partial
from typing import Any

import torch
from device_cases import Case, Options, Outcome, judged
from mmengine.optim import build_optim_wrapper
from recipe_batches import make_batch, recipes, with_fewer_instances
from torch import Tensor

from unmix.config import load_config
from unmix.engine.step import TrainStep
from unmix.models.algorithms import DeepClusterV2
from unmix.registry import MODELS
from unmix.utils.rng import reseed_step

WARM_UP, TIMED = 3, 5  # steps


def recipe_cases(options: Options) -> list[Case]:
    """Return the cases: with ``quick`` one recipe of each folder."""
    names = recipes()
    if options.quick:
        names = list({name.partition('/')[0]: name for name in names}.values())
    return [Case('recipes', name, partial(steps, name, options)) for name in names]


def random_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return random images."""
    return torch.randint(0, 256, shape, dtype=dtype)


def steps(name: str, options: Options) -> Outcome:
    """Losses and gradients of eight steps are finite, and all tensors on the device; time and peak memory are told.

    The images are random, and one batch is used for all steps. Banks of many instances are cut. The time is that of a
    step with its copy to the device, without the loader; the memory is PyTorch's peak, weights and optimiser included.
    """
    cfg = load_config(f'unmix::{name}')
    cuda = options.device.startswith('cuda')
    if options.quick:
        cfg.train_dataloader.batch_size = 4
    with tempfile.TemporaryDirectory() as folder:
        with_fewer_instances(cfg, folder)
        torch.manual_seed(0)
        if cuda:
            torch.cuda.reset_peak_memory_stats(options.device)
        model = MODELS.build(cfg.model).to(options.device).train()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        wrapper.initialize_count_status(model, 0, 10**6)
        model.head.follow(wrapper.optimizer)
        batch = make_batch(cfg, name, random_bytes, cuda)
        if isinstance(model, DeepClusterV2):
            model.head.clustered_epoch.zero_()  # as ClusterHook leaves it
            data = model.data_preprocessor(batch, True)
            model.remember(data['inputs'], data['index'])
        step = TrainStep(model, wrapper)
        step.start_watching()
        seconds, failed, losses = [], [], {}
        for number in range(2 if options.quick else WARM_UP + TIMED):
            reseed_step(0, number, 0)
            begin = time.perf_counter()
            losses = step.run(batch)
            if cuda:
                torch.cuda.synchronize(options.device)
            seconds.append(time.perf_counter() - begin)
            failed.append(step.failed)
        step.close()
    tensors = [*model.parameters(), *model.buffers(), *losses.values()]
    where = {tensor.device.type for tensor in tensors if isinstance(tensor, Tensor)}
    number, ms = len(batch['index']), 1e3 * statistics.median(seconds[-TIMED:])
    found: dict[str, Any] = dict(batch=number, ms=ms, images_per_second=1e3 * number / ms)
    text = f'batch {number}, {ms:.1f} ms a step, {1e3 * number / ms:.0f} images/s'
    if cuda:
        found['peak_gb'] = torch.cuda.max_memory_allocated(options.device) / 1e9
        text += f', {found["peak_gb"]:.1f} GB'
    good = not any(failed) and where == {torch.device(options.device).type}
    text += f', on {" and ".join(sorted(where))}' + (f', not finite: {failed}' if any(failed) else '')
    return judged(good, text, **found)
