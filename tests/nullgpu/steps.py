"""Two training steps of the recipes' models on the null GPU, as the training loop takes them.

python -m tests.nullgpu -m tests.nullgpu.steps [--only unmix-mocov2 ...] [--variant bf16] [--json steps.json]

It prints a line a recipe, of its second step: batch size, kernels, host time, waits, copies from pageable memory.
Models, batch sizes and optimisers are the recipe's; the images are empty. Banks of many instances are cut, because
their memory is the host's.
"""

import argparse
import contextlib
import gc
import json
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor

from tests.nullgpu.device import Counted, filled
from tools.misc.recipe_batches import make_batch, recipes, with_fewer_instances
from unmix.config import load_config
from unmix.engine.step import TrainStep
from unmix.registry import MODELS
from unmix.utils.rng import reseed_step

VARIANTS = ('recipe', 'bf16', 'amp', 'clip_grad', 'channels_last', 'device_views')
STEPS = 2  # the first makes the optimiser's state, the second is counted


def load(name: str, variant: str) -> Any:
    """Return the config of a recipe, or of a variant of it."""
    cfg = load_config(f'unmix::{name}')
    if variant in ('bf16', 'amp'):
        cfg.optim_wrapper.type = 'AmpOptimWrapper' if variant == 'amp' else 'AutocastOptimWrapper'
    elif variant == 'clip_grad':
        cfg.optim_wrapper.clip_grad = dict(max_norm=1.0)
    elif variant == 'channels_last':
        cfg.model.backbone.channels_last = True
    elif variant == 'device_views':
        cfg.train_dataloader.dataset.pipeline.backend = 'torch'
    return cfg


def empty_batch(cfg: Any, name: str) -> dict[str, Any]:
    """Return a batch whose images have no content, pinned if the recipe's loader pins."""
    return make_batch(cfg, name, torch.empty, cfg.train_dataloader.get('pin_memory', True))


@contextlib.contextmanager
def no_random_numbers() -> Iterator[None]:
    """Leave weights as they are allocated: drawing them takes longer than a step, and no kernel reads them."""
    places: list[tuple[Any, str]] = [(Tensor, 'uniform_'), (Tensor, 'normal_')]
    places += [(torch.nn.init, 'trunc_normal_')]  # it may draw until all numbers are in range
    kept = [(place, name, getattr(place, name)) for place, name in places]
    for place, name in places:
        setattr(place, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for place, name, function in kept:
            setattr(place, name, function)


def train(name: str, variant: str, folder: str) -> dict[str, Any]:
    """Build the model and optimiser of a recipe, take the steps and return what was counted in the last."""
    cfg = with_fewer_instances(load(name, variant), folder)
    with no_random_numbers():
        model = MODELS.build(cfg.model)
    if cfg.model.type == 'DeepClusterV2':
        model.head.clustered_epoch.zero_()  # as ClusterHook leaves it
    model = model.to('cuda').train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.initialize_count_status(model, 0, 100)
    model.head.follow(wrapper.optimizer)
    if cfg.model.type == 'DeepClusterV2':
        data = model.data_preprocessor(empty_batch(cfg, name), True)
        model.remember(data['inputs'], data['index'])
    step = TrainStep(model, wrapper)
    if variant != 'amp':  # the scaler's flags have to be 0, and those of the check 1
        step.start_watching()
    failed = []
    for number in range(STEPS):
        batch = empty_batch(cfg, name)
        for group in wrapper.param_groups:
            group['lr'] *= 0.99  # as a schedule
        with Counted() as counted:
            reseed_step(0, number, 0)
            losses = step.run(batch)
        failed.append(step.failed)
    step.close()
    tensors = [*model.named_parameters(), *model.named_buffers(), *losses.items()]
    for state in wrapper.optimizer.state.values():
        tensors += [(key, tensor) for key, tensor in state.items() if key != 'step']  # Adam counts on the host
    return dict(
        batch=len(batch['index']),
        kernels=counted.kernels,
        ms=round(1e3 * counted.seconds, 1),
        waits=dict(counted.waits),
        pageable=dict(counted.pageable),
        failed=failed,
        stepped=len(wrapper.optimizer.state) > 0,
        off_device=sorted({key for key, tensor in tensors if torch.is_tensor(tensor) and not tensor.is_cuda}),
    )


def main() -> int:
    """Train, print and write; return 1 if there was an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='*', help='recipes, by their names or parts of them')
    parser.add_argument('--variant', default='recipe', choices=VARIANTS)
    parser.add_argument('--json', type=Path, help='write the results here')
    args = parser.parse_args()
    torch.set_num_threads(1)
    init_default_scope('unmix')
    results: dict[str, dict[str, Any]] = {}
    for name in recipes():
        if args.only and not any(part in name for part in args.only):
            continue
        try:
            with tempfile.TemporaryDirectory() as folder, filled(0 if args.variant == 'amp' else 0x3F):
                found = train(name, args.variant, folder)
            line = f'batch {found["batch"]}, {found["kernels"]} kernels, {found["ms"]} ms'
            line += ''.join(f'; {key} {found[key]}' for key in ('waits', 'pageable', 'off_device') if found[key])
        except Exception:
            found = dict(error=traceback.format_exc())
            line = f'ERROR\n{found["error"]}'
        results[name] = found
        print(f'{name}: {line}', flush=True)
        gc.collect()
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + '\n')
    return int(any('error' in found for found in results.values()))


if __name__ == '__main__':
    sys.exit(main())
