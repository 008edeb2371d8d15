"""Parameters, encodings and operations of a training step, and the images a second that an accelerator would take.

python tools/analysis_tools/get_flops.py CONFIG ...
python tools/analysis_tools/get_flops.py --forms CONFIG ...

Encodings are the forward passes of a step through the backbone + those through the momentum encoder; views that are
encoded together, as in SwAV, are one, and one of half a batch is a half. Parameters are those that learn, and all.
Operations are convolutions and matrix products of the whole step of the recipe's batch, forward and backward, with all
encoders, views and mixtures, on tensors without values. A multiplication and an addition are 2 operations. With
``every=k`` the cost is the mean over k steps. Nothing is timed: images a second are ``--tflops`` over the count.
Networks for small images reach less than that, because their kernels are short.

``--forms`` counts the method without Un-Mix, with all mixtures, and with each form that makes them cheaper. A form that
the method refuses is named with the reason.
"""

import argparse
import copy
import json
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from torch.utils.flop_counter import FlopCounterMode

import unmix.engine  # noqa: F401  # registers
from unmix.apis.command import run_tool
from unmix.config import load_config
from unmix.datasets import SampleKey
from unmix.registry import DATASETS, MODELS, TRANSFORMS

MOST_INSTANCES = 200_000  # of banks, whose rows beyond that have no part in the cost of the networks
TFLOPS = 75.0
FORMS: dict[str, dict[str, Any] | None] = {
    'plain': None, 'Un-Mix': {}, "pairs='once'": dict(pairs='once'), 'every=2': dict(every=2),
    'replace=True': dict(replace=True, replay_bn_stats=False), 'size=0.5': dict(size=0.5),
    'patch_drop=0.5': dict(patch_drop=0.5),
}  # fmt: skip


def view_shapes(cfg: Any) -> list[tuple[int, ...]]:
    """Return the shapes (C, h, w) of the views of an image."""
    loader = cfg.train_dataloader
    pipeline, backbone = loader.dataset.get('pipeline'), cfg.model.backbone
    side = getattr(DATASETS.get(loader.dataset.type), 'image_size', None) or 256
    grey = cfg.model.get('data_preprocessor', {}).get('palette') is not None
    channels = 1 if grey else backbone.get('in_channels', 3)
    image = torch.zeros(channels, side, side, dtype=torch.uint8)
    views = TRANSFORMS.build(pipeline)(image, SampleKey(0))
    return [tuple(view.shape) for view in views]


class Cost(NamedTuple):
    """What a training step of a recipe costs.

    Attributes:
        flops: Operations over the number of images.
        trained: Parameters that learn.
        parameters: All parameters, those of the momentum encoder too.
        encodings: Forward passes of a batch through the backbone.
        momentum_encodings: Those through the momentum encoder.
    """

    flops: float
    trained: int
    parameters: int
    encodings: float
    momentum_encodings: float


def cost_of_a_step(cfg: Any) -> Cost:
    """Return what a training step of a recipe costs, on its batch."""
    head = cfg.model.head
    if 'num_instances' in head:
        head.num_instances = min(head.num_instances, MOST_INSTANCES)
    head.pop('rows_dir', None)
    number = cfg.train_dataloader.batch_size
    shapes = view_shapes(cfg)
    model = MODELS.build(cfg.model).to('meta').train()
    if cfg.model.type == 'DeepClusterV2':
        model.start_step = lambda: None  # its clusters are made between epochs
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    model.head.follow(optimizer)
    views = [torch.empty((number, *shape), dtype=torch.uint8, device='meta') for shape in shapes]
    batch = dict(inputs=views, index=torch.arange(number, device='meta'))
    passes = dict.fromkeys(('backbone', 'momentum_encoder.backbone'), 0.0)
    for name, module in model.named_modules():
        if name in passes:
            module.register_forward_hook(partial(_count, passes, name, number))
    steps = 1 if model.unmix is None else model.unmix.every
    with patch.object(torch, 'autocast', lambda *_, **__: nullcontext()), FlopCounterMode(display=False) as counter:
        for _ in range(steps):
            model.train_step(batch, OptimWrapper(optimizer))
            model.after_step()
    sizes = {parameter: parameter.numel() for parameter in model.parameters()}
    trained = sum(size for parameter, size in sizes.items() if parameter.requires_grad)
    encodings = (count / steps for count in passes.values())
    return Cost(counter.get_total_flops() / number / steps, trained, sum(sizes.values()), *encodings)


def _count(passes: dict[str, float], name: str, number: int, *called: Any) -> None:
    _, (images, *_), _ = called
    passes[name] += min(len(images) / number, 1)


def forms_of(cfg: Any) -> Iterator[tuple[str, Any]]:
    """Yield the recipe without Un-Mix, with all mixtures, and with each cheaper form, by name."""
    unmix = dict(cfg.model.get('unmix') or dict(type='UnMix'))
    for name, form in FORMS.items():
        changed = copy.deepcopy(cfg)
        changed.model.unmix = None if form is None else unmix | form
        yield name, changed


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='of recipes that pre-train')
    parser.add_argument(
        '--tflops', type=float, default=TFLOPS, help=f'10^12 operations a second that a step reaches (default {TFLOPS})'
    )
    parser.add_argument('--forms', action='store_true', help='of each recipe, those that make Un-Mix cheaper')
    parser.add_argument('--json', type=Path, help='write the numbers to this file, too')
    args = parser.parse_args()
    if not args.tflops > 0:
        raise ValueError(f'--tflops is {args.tflops}; expected a positive number.')
    init_default_scope('unmix')
    rows = {}
    print(
        f'{"GFLOP an image":>14s} {"images a second":>16s} '
        f'{"trained":>12s} {"parameters":>12s} {"encodings":>10s}  recipe'
    )
    recipes = ((name, load_config(name)) for name in args.configs)
    if args.forms:
        recipes = ((f'{name}, {form}', cfg) for name, whole in recipes for form, cfg in forms_of(whole))
    for name, cfg in recipes:
        try:
            cost = cost_of_a_step(cfg)
        except ValueError as error:
            if not args.forms:
                raise
            print(f'{"-":>14s} {"-":>16s} {"-":>12s} {"-":>12s} {"-":>10s}  {name}: {error}', flush=True)
            continue
        speed = args.tflops * 1e12 / cost.flops
        rows[name] = cost._asdict() | dict(images_per_second=speed)
        encodings = f'{cost.encodings:g} + {cost.momentum_encodings:g}'
        print(
            f'{cost.flops / 1e9:14.3f} {speed:16.0f} {cost.trained:12,} {cost.parameters:12,} {encodings:>10s}  {name}',
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(dict(tflops=args.tflops, recipes=rows), indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    run_tool(main)
