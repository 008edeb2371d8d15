"""A step of PIC's head: the literal dense form, and ours, over all instances and over the recent ones.

Forward and backward pass of B x D queries and one step of SGD with momentum and weight decay on N x D weights:

* literal: all weights are normalised, a table of logits (B, N), cross-entropy, a dense gradient, ``torch.optim.SGD``.
* full: :class:`PICHead`, the same numbers; on the CPU without normalised weights and without logits. The gradient is
  dense.
* recent: :class:`PICHead` with ``num_recent``, for sizes from a million on. The learning rate changes each step. Ids
  are drawn from all instances, so nearly all images of a batch enter and leave. A step touches K weights and its
  batch's.
* disk, with ``--rows-dir DIR``: recent instances, all other rows in a file in DIR. It is compared with a step in memory
  of a head with K instances in all. ImageNet-22k is ``--sizes 14197122``, which takes 14.5 GB in DIR.

First, losses, gradients of the queries and weights after three steps are compared in float64, to 1e-12. (That recent
classes are the dense training on the same loss is tested in tests/models/test_pic.py.) Extra memory is the peak of the
tensors that are alive during the step, without weights and momentum.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import Goal, argument_parser, extra_megabytes, interleave, print_goals
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.mixing import UnMix
from unmix.models import PICHead

SGD: dict[str, Any] = dict(lr=0.03, momentum=0.9, weight_decay=1e-4)
TEMPERATURE = 0.2
LAM = 0.3  # share of the mixtures
Step = Callable[[], tuple[Tensor, Tensor]]


class Literal:
    """The released form."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = nn.Parameter(weight.clone())
        self.optimizer = torch.optim.SGD([self.weight], **SGD)

    def loss(self, query: Tensor, index: Tensor) -> Tensor:
        """Return the loss of queries (B, D) and the classes ``index`` (B,)."""
        logits = torch.einsum('nd,kd->nk', query, F.normalize(self.weight, dim=1)) / TEMPERATURE
        return F.cross_entropy(logits, index)

    def step(self, query: Tensor, index: Tensor, mixture: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make a step, with Un-Mix if features of mixtures are given; return loss and gradient of the queries."""
        query = query.detach().requires_grad_()
        loss = self.loss(query, index)
        if mixture is not None:
            mixture = mixture.detach().requires_grad_()
            loss = loss + LAM * self.loss(mixture, index) + (1 - LAM) * self.loss(mixture.flip(0), index)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        assert query.grad is not None
        return loss.detach(), query.grad


class Ours:
    """Our head with its optimiser."""

    def __init__(
        self, num: int, dim: int, num_recent: int | None = None, rows_dir: str | None = None, device: str = 'cpu'
    ) -> None:
        phases = 131072 if num_recent else 1
        self.head = PICHead(num, dim, TEMPERATURE, num_recent=num_recent, max_phases=phases, rows_dir=rows_dir)
        self.head.to(device)
        self.optimizer = torch.optim.SGD(self.head.parameters(), **SGD)
        self.head.follow(self.optimizer)
        self.unmix, self.steps = UnMix(), 0
        for start in range(0, num_recent or 0, 4096):
            self.head.enter(torch.arange(start, min(start + 4096, num_recent or 0), device=device))

    def step(self, query: Tensor, index: Tensor, mixture: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make a step, with Un-Mix if features of mixtures are given; return loss and gradient of the queries."""
        query = query.detach().requires_grad_()
        self.steps += 1
        if self.head.recent is not None:
            self.optimizer.param_groups[0]['lr'] = SGD['lr'] / self.steps
        self.optimizer.zero_grad()
        self.head.enter(index)
        target = self.head.address(index)
        loss = self.head(query, target)
        if mixture is not None:
            mixture = mixture.detach().requires_grad_()
            shared = self.head.shared(mixture)
            reverse = None if shared is None else shared.flip(0)
            terms = self.head.terms(mixture, target, shared), self.head.terms(mixture.flip(0), target, reverse)
            loss = loss + self.unmix(LAM, [terms])
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.head.after_step()
        assert query.grad is not None
        return loss.detach(), query.grad


def on_new_ids(form: Literal | Ours, num: int, query: Tensor) -> Step:
    """Return the step of a form on a new batch of ids."""
    return lambda: form.step(query, torch.randint(num, (len(query),), device=query.device))


def check(dim: int, seed: int) -> None:
    """Compare the full form with the literal one in float64.

    Raises:
        AssertionError: If they differ.
    """
    torch.manual_seed(seed)
    ours = Ours(5000, dim)
    ours.head.double()
    literal = Literal(ours.head.weight.detach())
    for _ in range(3):
        query, index = F.normalize(torch.randn(64, dim, dtype=torch.float64), dim=1), torch.randint(5000, (64,))
        for one, other in zip(ours.step(query, index), literal.step(query, index), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.head.weight, literal.weight, rtol=1e-12, atol=1e-12)
    print('float64: losses, gradients and weights are those of the literal form, to 1e-12')


def measure(args: argparse.Namespace, num: int) -> tuple[list[Goal], dict[str, Any]]:
    """Time the forms with ``num`` instances; return goals, seconds and extra memory."""
    torch.manual_seed(args.seed)
    large = num >= 10**6 or args.rows_dir is not None  # the literal form needs 6 GB
    query = F.normalize(torch.randn(64 if large else 256, args.dim), dim=1).to(args.device)
    steps: dict[str, Step] = {}
    if args.rows_dir is None:
        full = Ours(num, args.dim, device=args.device)
        steps['literal'] = on_new_ids(Literal(full.head.weight.detach()), num, query)
        steps['full'] = on_new_ids(full, num, query)
    recent, few = 'recent' if args.rows_dir is None else 'disk', f'recent, N={args.recent}'
    if large:
        steps[recent] = on_new_ids(Ours(num, args.dim, args.recent, args.rows_dir, args.device), num, query)
        steps[few] = on_new_ids(Ours(args.recent, args.dim, args.recent, device=args.device), args.recent, query)
    ratios = interleave(
        steps, min(args.rounds, 3) if large else args.rounds, args.threads, seed=args.seed, device=args.device
    )
    ratios.print(next(iter(steps)), f'N={num}, batch {len(query)}')
    memory, label = extra_megabytes(steps, args.device), f'{num / 1e6:.2f}m' if num >= 10**6 else f'{num // 1000}k'
    goals = []
    if args.rows_dir is None:
        goals.append(Goal(f'pic_full_{label}', ratios.ratio('literal', 'full').median, 2.5))
        most = 0.4 if args.device == 'cpu' else 1.0  # an accelerator stores a table of logits that is not large
        goals.append(Goal(f'pic_full_{label}_memory', memory['full'] / memory['literal'], most, at_most=True))
    if large:
        goals.append(Goal(f'pic_{recent}_flat', ratios.ratio(recent, few).median, 1.15, at_most=True))
    if 'recent' in steps:
        goals.append(Goal('pic_sampled', ratios.ratio('literal', 'recent').median, 50))
    return goals, dict(seconds=ratios.seconds, memory=memory)


def main() -> None:
    """Check, measure and print."""
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument('--dim', type=int, default=128, help='feature dimension D (default 128)')
    parser.add_argument('--sizes', type=int, nargs='+', default=[50_000, 200_000, 1_281_167], help='instances N')
    parser.add_argument('--recent', type=int, default=65536, help='recent instances K (default 65536)')
    parser.add_argument('--rows-dir', help='measure rows on disk, in this directory')
    args = parser.parse_args()
    torch.set_num_threads(args.threads[0])
    check(args.dim, args.seed)
    goals: list[Goal] = []
    details = {}
    for num in args.sizes:
        found, details[str(num)] = measure(args, num)
        goals += found
    print_goals(goals, args.json, **details)


if __name__ == '__main__':
    main()
