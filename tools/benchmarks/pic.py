"""A step of PIC's head: the literal dense form, and ours, over all instances and over the recent ones.

Forward and backward pass of B x D queries and one step of SGD with momentum and weight decay on N x D weights:

* literal: all weights normalised, a table of logits (B, N), cross-entropy, a dense gradient, ``torch.optim.SGD``.
* full: :class:`PICHead`: the same numbers without normalised weights and without logits; the gradient is dense.
* recent: :class:`PICHead` with ``num_recent``, a learning rate that changes each step, ids that are drawn from all
  instances, so that nearly all of a batch enter and leave; of the weights outside a step touches those of its batch.

Before the timing, losses, gradients of the queries and weights after three steps are compared in float64, to 1e-12;
that recent classes are the dense training on the same loss is a test of its own (tests/models/test_pic.py). The extra
memory is the peak of the tensors that are alive during the step, beside weights and momentum.
"""

import argparse
from collections.abc import Callable

import torch
from interleave import Goal, argument_parser, interleave, print_goals
from peak import extra_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.models import PICHead

SGD = dict(lr=0.03, momentum=0.9, weight_decay=1e-4)
TEMPERATURE = 0.2
Step = Callable[[], tuple[Tensor, Tensor]]


class Literal:
    """The released form."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = nn.Parameter(weight.clone())
        self.optimizer = torch.optim.SGD([self.weight], **SGD)

    def step(self, query: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Make a step; return the loss and the gradient of the queries."""
        query = query.detach().requires_grad_()
        logits = torch.einsum('nd,kd->nk', query, F.normalize(self.weight, dim=1)) / TEMPERATURE
        loss = F.cross_entropy(logits, index)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        assert query.grad is not None
        return loss.detach(), query.grad


class Ours:
    """Our head with its optimiser."""

    def __init__(
        self,
        num: int,
        dim: int,
        num_recent: int | None = None,
        dtype: torch.dtype = torch.float32,
        rows_dir: str | None = None,
    ) -> None:
        options = dict(num_recent=num_recent, max_phases=131072 if num_recent else 1, rows_dir=rows_dir)
        self.head = PICHead(num, dim, TEMPERATURE, **options).to(dtype)
        self.optimizer = torch.optim.SGD(self.head.parameters(), **SGD)
        self.head.follow(self.optimizer)
        self.steps = 0
        for start in range(0, num_recent or 0, 4096):
            self.head.enter(torch.arange(start, min(start + 4096, num_recent or 0)))

    def step(self, query: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Make a step; return the loss and the gradient of the queries."""
        query = query.detach().requires_grad_()
        self.steps += 1
        if self.head.recent is not None:
            self.optimizer.param_groups[0]['lr'] = SGD['lr'] / self.steps
        self.optimizer.zero_grad()
        self.head.enter(index)
        loss = self.head(query, self.head.address(index))
        loss.backward()
        self.optimizer.step()
        self.head.after_step()
        assert query.grad is not None
        return loss.detach(), query.grad


class Batches:
    """Queries and ids, new ones for each step."""

    def __init__(self, num: int, batch: int, dim: int, dtype: torch.dtype = torch.float32) -> None:
        self.num, self.batch = num, batch
        self.query = F.normalize(torch.randn(batch, dim, dtype=torch.float64), dim=1).to(dtype)

    def of(self, form: Literal | Ours) -> Step:
        """Return the step of a form with the next batch."""
        return lambda: form.step(self.query, torch.randint(self.num, (self.batch,)))


def check(dim: int, seed: int) -> None:
    """Compare the full form with the literal one in float64.

    Raises:
        AssertionError: If they differ.
    """
    torch.manual_seed(seed)
    ours = Ours(5000, dim, dtype=torch.float64)
    literal = Literal(ours.head.weight.detach())
    for _ in range(3):
        query, index = Batches(5000, 64, dim, torch.float64).query, torch.randint(5000, (64,))
        for one, other in zip(ours.step(query, index), literal.step(query, index), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.head.weight, literal.weight, rtol=1e-12, atol=1e-12)
    print('float64: losses, gradients and weights are those of the literal form, to 1e-12')


def measure(args: argparse.Namespace, num: int, batch: int, rounds: int, recent: bool) -> tuple[list[Goal], dict]:
    """Time the forms with ``num`` instances; with ``recent`` also ours over the recent ones, here and with fewer."""
    torch.manual_seed(args.seed)
    batches, full = Batches(num, batch, args.dim), Ours(num, args.dim)
    literal = Literal(full.head.weight.detach())
    steps = {'literal': batches.of(literal), 'full': batches.of(full)}
    if recent:
        few = Batches(args.recent, batch, args.dim)
        steps['recent'] = batches.of(Ours(num, args.dim, args.recent))
        steps[f'recent, N={args.recent}'] = few.of(Ours(args.recent, args.dim, args.recent))
    ratios = interleave(steps, rounds, args.threads, seed=args.seed)
    ratios.print('literal', f'N={num}, batch {batch}')
    memory = {name: extra_bytes(step) for name, step in steps.items()}
    print('extra memory, MB: ' + ', '.join(f'{name} {size / 1e6:.1f}' for name, size in memory.items()))
    threads, label = args.threads[0], f'{num / 1e6:.2f}m' if num >= 10**6 else f'{num // 1000}k'
    goals = [
        Goal(f'pic_full_{label}', ratios.ratio('literal', 'full', threads).median, 2.5),
        Goal(f'pic_full_{label}_memory', memory['full'] / memory['literal'], 0.4, at_most=True),
    ]
    if recent:
        flat = ratios.ratio('recent', f'recent, N={args.recent}', threads)
        goals += [
            Goal('pic_sampled', ratios.ratio('literal', 'recent', threads).median, 50),
            Goal('pic_sampled_flat', flat.median, 1.15, at_most=True),
        ]
    return goals, dict(seconds=ratios.to_dict(), memory=memory)


def main() -> None:
    """Check, measure and print."""
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument('--dim', type=int, default=128, help='feature dimension D (default 128)')
    parser.add_argument('--sizes', type=int, nargs='+', default=[50_000, 200_000, 1_281_167], help='instances N')
    parser.add_argument('--recent', type=int, default=65536, help='recent instances K (default 65536)')
    args = parser.parse_args()
    torch.set_num_threads(args.threads[0])
    check(args.dim, args.seed)
    goals, details = [], {}
    for num in args.sizes:
        large = num >= 10**6  # the literal form needs 6 GB
        found, details[str(num)] = measure(args, num, 64 if large else 256, min(args.rounds, 3 if large else 99), large)
        goals += found
    print_goals(goals, args.json, **details)


if __name__ == '__main__':
    main()
