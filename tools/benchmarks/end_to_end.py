"""Loader and step together: Un-Mix MoCo on CIFAR's recipe, symmetric, against the literal script and its PIL views.

A turn loads a batch and makes a training step on it, in one process; images are random, weights those of a narrow
ResNet-18. Ours are the data set's ``__getitems__``, ``default_collate``'s counterpart, the data preprocessor and the
step, as the recipe has them, with ``backbone.channels_last``.

* ``e2e_narrow_sym``: the script of Un-Mix over ours, both in float32.
* ``e2e_vs_plain``: the script of *plain* MoCo in float32 over our MoCo with Un-Mix in bfloat16, one more encoding.

The last lines are ``GOAL <name> <ratio> <target> PASS|FAIL``: ratios of CPU time on one thread.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from literal.views import loader
from measure import Goal, argument_parser, interleave, print_goals
from mmengine.runner import Runner
from twins import RECIPES, Literal, Ours, recipe

from unmix.config import load_config

GOALS = dict(e2e_narrow_sym=('script', 'ours', 1.8), e2e_vs_plain=('plain script', 'ours bf16', 1.0))


def again(batches: Any) -> Iterator[Any]:
    """Go through a loader again and again."""
    while True:
        yield from batches


def our_loader(images: np.ndarray, batch_size: int) -> Any:
    """The recipe's loader on other images, without workers."""
    cfg = load_config(RECIPES['moco']).train_dataloader
    pipeline = cfg.dataset.pipeline
    cfg.update(batch_size=batch_size, num_workers=0, persistent_workers=False, pin_memory=False)
    cfg.dataset = dict(type='ArrayDataset', images=images.transpose(0, 3, 1, 2).copy(), pipeline=pipeline)
    return Runner.build_dataloader(cfg, seed=0)


def variants(images: np.ndarray, width: int, batch_size: int, channels_last: int) -> dict[str, Callable[[], None]]:
    """A batch and a step of each."""
    steps: dict[str, Callable[[], None]] = {}
    cfg = recipe('moco', width, channels_last)
    for suffix, bf16 in (('', False), (' bf16', True)):
        own = recipe('moco', width, channels_last, bf16)
        own.model.data_preprocessor = load_config(RECIPES['moco']).model.data_preprocessor
        ours, batches = Ours(own), again(our_loader(images, batch_size))
        steps[f'ours{suffix}'] = lambda ours=ours, batches=batches: ours.train(next(batches))
    for name, form in (('script', 'script'), ('plain script', 'plain')):
        twin, pairs = Literal(cfg, ours.model, form), again(loader(images, batch_size))
        steps[name] = lambda twin=twin, pairs=pairs: twin.step(list(next(pairs)))
    return steps


def main() -> None:
    """Measure, print the table and the goals."""
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--width', type=int, default=16)
    parser.add_argument('--channels-last', type=int, default=5, help='layers of ours that are (default 5, all)')
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    images = np.random.default_rng(args.seed).integers(0, 256, (16 * args.batch_size, 32, 32, 3), dtype=np.uint8)
    ratios = interleave(
        variants(images, args.width, args.batch_size, args.channels_last), args.rounds, args.threads, seed=args.seed
    )
    ratios.print('ours', f'width {args.width}, batch {args.batch_size}')
    spreads = {name: ratios.ratio(slow, fast, args.threads[0]) for name, (slow, fast, _) in GOALS.items()}
    for name, spread in spreads.items():
        print(f'{name}: {GOALS[name][0]} over {GOALS[name][1]}: {spread}')
    goals = [Goal(name, spread.median, GOALS[name][2]) for name, spread in spreads.items()]
    print_goals(goals, args.json, seconds=ratios.to_dict(), arguments=vars(args))


if __name__ == '__main__':
    main()
