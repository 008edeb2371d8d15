"""Training steps of the recipes against the literal forms of the same steps.

A step is forward, backward and the optimiser. Weights, random numbers and views are the same on both sides, and
``tests/models/test_literal.py`` compares losses and gradients.

* ``sym``: symmetric MoCo on CIFAR. The script encodes the mixture twice.
* ``asym``: asymmetric MoCo. The script encodes as often as we do, the README's recipe calls the model three times.
* ``simclr``, ``byol``: the README's three calls of the model.
* ``swav``: as released, which encodes as often as we do, but has six Sinkhorns. The release trains in half precision,
  our recipe in bfloat16, so ``step_swav`` compares these.
* ``loader``: symmetric MoCo on a narrow network, with loading: each step begins with a batch of random images, by the
  recipe's pipeline in this process and by the script's PIL views. ``e2e_vs_plain`` compares our MoCo with Un-Mix in
  bfloat16 with the script of MoCo *without* Un-Mix in float32. In the other cases views are loaded beforehand.
* ``forms``: symmetric MoCo of ours without Un-Mix and with its forms, all in one interleaved run: what the mixtures add
  to the plain step, all of them over each cheaper form. ``step_once_extra`` is the goal 1 / 0.72.

Ours is the recipe with ``backbone.channels_last``. Variants with bf16 are under autocast, which for ours is
``optim_wrapper.type='AutocastOptimWrapper'``; the literal form gets it too, because anyone can add it to a script.

The last lines are ``GOAL <name> <ratio> <target> PASS|FAIL``: ratios of CPU time on one thread, or of an
accelerator's time with ``--device``.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from literal.views import loader
from measure import Goal, Ratios, argument_parser, interleave, print_goals
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor
from twins import RECIPES, Literal, Ours, recipe

from unmix.config import load_config


class Case(NamedTuple):
    """A comparison.

    Attributes:
        method: Key of ``RECIPES``.
        forms: Literal forms.
        goals: Slow and fast variant, and the least ratio of their times, by name.
        channels_last: Number of layers of ours that are channels-last: the fastest choice for the network.
        loads: Whether a step loads its batch.
        width: Width of the network. The recipes' is 64.
        unmix: Forms of Un-Mix of ours, by name, instead of the literal forms; None is the plain method.
        batch_size: Images in a batch.
    """

    method: str
    forms: tuple[str, ...]
    goals: dict[str, tuple[str, str, float]]
    channels_last: bool | int = 4
    loads: bool = False
    width: int = 64
    batch_size: int = 32
    unmix: dict[str, dict[str, Any] | None] | None = None


CASES = {
    'sym': Case('moco', ('script',), dict(
        step_sym_fp32=('script', 'ours', 1.4),
        step_bf16=('script', 'ours bf16', 2.0),
        step_bf16_both=('script bf16', 'ours bf16', 1.1),
    )),
    'asym': Case('moco_asym', ('script', 'readme'), dict(
        step_asym_fp32_readme=('readme', 'ours', 1.75),
        step_asym_fp32_script=('script', 'ours', 1.05),
    )),
    'swav': Case('swav', ('script',), dict(
        step_swav=('script bf16', 'ours bf16', 1.5),
        step_swav_fp32=('script', 'ours', 1.5),
    ), channels_last=True),
    'simclr': Case('simclr', ('script',), dict(step_simclr=('script', 'ours', 1.5))),
    'byol': Case('byol', ('script',), dict(step_byol=('script', 'ours', 1.5))),
    'loader': Case('moco', ('script', 'plain'), dict(
        e2e_narrow_sym=('script', 'ours', 1.8),
        e2e_vs_plain=('plain', 'ours bf16', 1.0),
    ), channels_last=True, loads=True, width=16, batch_size=128),
    'forms': Case('moco', (), {}, unmix=dict(
        plain=None, all={}, once=dict(pairs='once'), every2=dict(every=2), replace=dict(replace=True),
        half_size=dict(size=0.5),
    )),
}  # fmt: skip


def endless(batches: Any) -> Iterator[Any]:
    """Go through a loader again and again."""
    while True:
        yield from batches


def our_batches(method: str, images: np.ndarray, batch_size: int) -> Iterator[Any]:
    """Batches of the recipe's loader, without workers, of images (N, H, W, 3)."""
    cfg = load_config(RECIPES[method]).train_dataloader
    cfg.update(batch_size=batch_size, num_workers=0, persistent_workers=False)
    images = images.transpose(0, 3, 1, 2).copy()
    cfg.dataset = dict(type='ArrayDataset', images=images, pipeline=cfg.dataset.pipeline)
    return endless(Runner.build_dataloader(cfg, seed=0))


def variants(case: Case, seed: int, device: str = 'cpu') -> dict[str, Callable[[], None]]:
    """Return the steps of ours and of the literal forms, each in float32 and under autocast, by name."""
    views = [torch.randn(case.batch_size, 3, 32, 32).to(device) for _ in range(2)]
    size = (16 * case.batch_size if case.loads else 0, 32, 32, 3)
    images = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)

    def ours(cfg: Config) -> tuple[Ours, Callable[[], None]]:
        if not case.loads:
            form = Ours(cfg, device)
            return form, partial(form.train, dict(inputs=views))
        cfg.model.data_preprocessor = load_config(RECIPES[case.method]).model.data_preprocessor
        form, batches = Ours(cfg, device), our_batches(case.method, images, case.batch_size)
        return form, lambda: form.train(next(batches))

    def literal(form: Literal) -> Callable[[], None]:
        batches: Iterator[list[Tensor]] = endless(loader(images, case.batch_size) if case.loads else [views])
        return lambda: form.step([view.to(device) for view in next(batches)])

    steps: dict[str, Callable[[], None]] = {}
    for name, changes in (case.unmix or {}).items():
        cfg = recipe(case.method, case.width, case.channels_last)
        cfg.model.unmix = None if changes is None else dict(cfg.model.unmix, replay_bn_stats=False, **changes)
        _, step = ours(cfg)
        steps[name] = partial(_repeat, step)
    if case.unmix:
        return steps
    for suffix, bf16 in (('', False), (' bf16', True)):
        cfg = recipe(case.method, case.width, case.channels_last, bf16)
        model, steps[f'ours{suffix}'] = ours(cfg)
        for form in case.forms:
            steps[f'{form}{suffix}'] = literal(Literal(cfg, model.model, form, bf16))
    return steps


def _repeat(step: Callable[[], None]) -> None:
    """Take two steps: with ``every=2`` one of them has a mixture."""
    step()
    step()


def extra_goals(ratios: Ratios) -> Iterator[Goal]:
    """Yield what all mixtures add to the time of a plain step over what each cheaper form adds; ``once`` has a goal."""
    seconds = next(iter(ratios.seconds.values()))[ratios.clocks[0]]
    for name in seconds:
        if name in ('plain', 'all'):
            continue
        rounds = zip(seconds['plain'], seconds['all'], seconds[name], strict=True)
        extra = statistics.median((cheap - plain) / (whole - plain) for plain, whole, cheap in rounds)
        print(f'{name}: {extra:.2f} of the extra time of all mixtures')
        if name == 'once':
            yield Goal('step_once_extra', 1 / max(extra, 1e-9), 1 / 0.72)


def main() -> None:
    """Measure, print the tables and the goals."""
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--batch-size', type=int, help='(default: 32; loader: 128)')
    parser.add_argument('--width', type=int, help='width of the networks (default: 64, as in the recipes; loader: 16)')
    parser.add_argument('--channels-last', type=int, help='layers of ours that are (default: as fits the network)')
    args = parser.parse_args()
    changes = {key: vars(args)[key] for key in ('batch_size', 'width', 'channels_last') if vars(args)[key] is not None}
    goals: list[Goal] = []
    seconds = {}
    for name in args.cases:
        torch.manual_seed(args.seed)
        case = CASES[name]._replace(**changes)
        ratios = interleave(
            variants(case, args.seed, args.device), args.rounds, args.threads, seed=args.seed, device=args.device
        )
        seconds[name] = ratios.seconds
        if case.unmix:
            ratios.print('all', f'{name}, batch {case.batch_size}, 2 steps')
            goals += extra_goals(ratios)
            continue
        ratios.print('ours', f'{name}, batch {case.batch_size}')
        for goal, (slow, fast, target) in case.goals.items():
            spread = ratios.ratio(slow, fast)
            print(f'{goal}: {slow} over {fast}: {spread}')
            goals.append(Goal(goal, spread.median, target))
    print_goals(goals, args.json, seconds=seconds, arguments=vars(args))


if __name__ == '__main__':
    main()
