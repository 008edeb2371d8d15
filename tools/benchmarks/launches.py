"""Kernels that a training step puts into the queue of an accelerator: ours, and the literal form of the same step.

python tools/benchmarks/launches.py                       # on an accelerator: PyTorch's profiler counts
python -m tests.nullgpu tools/benchmarks/launches.py      # on the null GPU, which computes nothing: any Linux machine

Products, copies and fills count too. While a kernel is short, the time of a step is the host's time to launch them.

* ours: forward, backward, optimiser, and the state of the method, on the recipe's network.
* loop: the same by ``TrainStep``, as in a training: with the copy of BatchNorm's statistics and the check of the loss
  and the gradients.
* literal: the step of the published script; see ``step.py`` for the forms. It has no such check.
* ``pic``: the step of the head and its optimiser only, over all N instances; see ``pic.py``. ``unmix_pic``: with the
  two losses of mixtures.

The last lines are ``GOAL launches_<case> <ours over literal> 1 PASS|FAIL``, with ``loop`` where there is one.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

import pic
import torch
from measure import Goal, print_goals
from torch._C._autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from twins import RECIPES, Literal, Ours, recipe

from unmix.engine.step import TrainStep

Step = Callable[[], object]
SIZES = (50_000, 200_000, 1_281_167)


def count(step: Step) -> int:
    """Return the number of kernels, products, copies and fills of the third call of a step."""
    for _ in range(2):
        step()
    if 'NULLGPU_BUILD' in os.environ:
        from tests.nullgpu.device import Counted

        with Counted() as counted:
            step()
        return counted.kernels
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    return sum(event.device_type() == DeviceType.CUDA for event in events)


def step_forms(method: str, width: int, batch: int | None, device: str) -> dict[str, Step]:
    """Return the steps of a recipe by form."""
    cfg = recipe(method, width)
    ours = Ours(cfg)
    literal = Literal(cfg, ours.model)
    ours.model.to(device)
    literal.module.to(device)
    loop = TrainStep(ours.model, ours.wrapper)
    loop.start_watching()
    number = batch or cfg.train_dataloader.batch_size
    views = [torch.randn(number, 3, 32, 32, device=device) for _ in range(2)]

    def published() -> None:
        with torch.device(device):  # its constants are made on the default device
            literal.step(views)

    return dict(
        ours=lambda: ours.train(dict(inputs=views)), loop=lambda: loop.run(dict(inputs=views)), literal=published
    )


def pic_forms(num: int, mixed: bool, batch: int, device: str) -> dict[str, Step]:
    """Return the steps of PIC's head over ``num`` instances by form; ``mixed``: with Un-Mix."""
    ours = pic.Ours(num, 128)
    literal = pic.Literal(ours.head.weight.detach().to(device))
    ours.head.to(device)
    query, mixture = F.normalize(torch.randn(2, batch, 128), dim=2).to(device)
    batch_of = query, torch.arange(batch, device=device), mixture if mixed else None
    return dict(ours=lambda: ours.step(*batch_of), literal=lambda: literal.step(*batch_of))


def main() -> None:
    """Count, print the table and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases: dict[str, Any] = {method: method for method in RECIPES}
    for mixed, prefix in ((False, 'pic'), (True, 'unmix_pic')):
        cases |= {f'{prefix}_{num // 1000}k': (num, mixed) for num in SIZES}
    parser.add_argument('--cases', nargs='+', choices=cases, default=list(cases))
    parser.add_argument('--batch-size', type=int, help="(default: the recipe's; pic: 64)")
    parser.add_argument('--width', type=int, default=64, help='width of the networks (default: 64, as in the recipes)')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--json', help='write the numbers and the goals to this file, too')
    args = parser.parse_args()
    goals, counts = [], {}
    print(f'{"case":16s} {"ours":>6s} {"loop":>6s} {"literal":>8s}   over literal')
    for name in args.cases:
        torch.manual_seed(0)
        case = cases[name]
        if isinstance(case, tuple):
            num, mixed = case
            forms = pic_forms(num, mixed, args.batch_size or 64, args.device)
        else:
            forms = step_forms(case, args.width, args.batch_size, args.device)
        found = counts[name] = {form: count(step) for form, step in forms.items()}
        ratio = found.get('loop', found['ours']) / found['literal']
        print(
            f'{name:16s} {found["ours"]:6d} {found.get("loop", ""):>6} {found["literal"]:8d}   {ratio:.2f}', flush=True
        )
        goals.append(Goal(f'launches_{name}', ratio, 1.0, at_most=True))
    print_goals(goals, args.json, launches=counts, device=torch.cuda.get_device_name())


if __name__ == '__main__':
    main()
