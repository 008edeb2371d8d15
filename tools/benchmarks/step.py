"""Training steps of the recipes against the literal forms of the same steps.

A step is forward, backward and the optimiser, on views that are loaded and normalised already; weights, random numbers
and views are the same on both sides, and the tests hold both to the same losses and gradients (``test_literal.py``).

* ``sym``: symmetric MoCo on CIFAR; the script encodes the mixture twice.
* ``asym``: asymmetric MoCo; the script encodes no more than we do, the README's recipe calls the model three times.
* ``simclr``, ``byol``: the README's three calls of the model.
* ``swav``: as released, which encodes no more than we do, but has six Sinkhorns. The release trains in half precision,
  our recipe in bfloat16, so that is what ``step_swav`` compares.

Ours is as the recipe, with ``backbone.channels_last``. Lines with bf16 are under autocast, which for ours is
``optim_wrapper.type='AutocastOptimWrapper'``; the literal form gets it too, because anyone can add it to a script.

The last lines are ``GOAL <name> <ratio> <target> PASS|FAIL``: ratios of CPU time on one thread.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from measure import Goal, argument_parser, interleave, print_goals
from twins import Literal, Ours, recipe


class Case(NamedTuple):
    """What is compared: a recipe, its literal forms, the least ratios, by variant and literal form, and the layers of
    ours that are channels-last: the fastest choice for its network, a ResNet-18 or one with bottlenecks."""

    method: str
    forms: tuple[str, ...]
    goals: dict[str, tuple[str, str, float]]
    channels_last: bool | int = 4


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
}  # fmt: skip


def variants(case: Case, width: int, batch_size: int, channels_last: bool | int) -> dict[str, Callable[[], None]]:
    """Steps of ours and of the literal forms, each in float32 and under autocast."""
    views = [torch.randn(batch_size, 3, 32, 32) for _ in range(2)]
    steps: dict[str, Callable[[], None]] = {}
    for suffix, bf16 in (('', False), (' bf16', True)):
        cfg = recipe(case.method, width, channels_last, bf16)
        ours = Ours(cfg)
        steps[f'ours{suffix}'] = partial(ours.step, views)
        for form in case.forms:
            steps[f'{form}{suffix}'] = partial(Literal(cfg, ours.model, form, bf16).step, views)
    return steps


def main() -> None:
    """Measure, print the tables and the goals."""
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--width', type=int, default=64, help="of the networks; the recipes' is 64")
    parser.add_argument('--channels-last', type=int, help='layers of ours that are (default: as fits the network)')
    args = parser.parse_args()
    goals, seconds = [], {}
    for name in args.cases:
        torch.manual_seed(args.seed)
        case = CASES[name]
        channels_last = case.channels_last if args.channels_last is None else args.channels_last
        steps = variants(case, args.width, args.batch_size, channels_last)
        ratios = interleave(steps, args.rounds, args.threads, seed=args.seed)
        ratios.print('ours', f'{name}, batch {args.batch_size}')
        seconds[name] = ratios.to_dict()
        threads = args.threads[0]
        for goal, (slow, fast, target) in case.goals.items():
            spread = ratios.ratio(slow, fast, threads)
            print(f'{goal}: {slow} over {fast}: {spread}')
            goals.append(Goal(goal, spread.median, target))
    print_goals(goals, args.json, seconds=seconds, arguments=vars(args))


if __name__ == '__main__':
    main()
