"""What a step needs beside the state: does it grow with the queue, the bank, the table of instances?

For each head with a large state a step is taken with a small one and with one sixteen times as large: losses of a query
and a mixture, backward pass, optimiser step, update of the state. Measured is the most bytes of tensors that are alive
during the step and were not before it, in the third step, when all that stays has been made. Compare with the literal
forms: ``loss.py`` and ``pic.py``.

``GOAL memory_<head>`` is the large state's figure over the small one's.
"""

from collections.abc import Callable, Mapping

import torch
from interleave import Goal, argument_parser, print_goals
from peak import extra_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.mixing import UnMix
from unmix.models import AlignUniformHead, BaseHead, InfoNCEHead, NCEHead, PICHead, QueueNCEHead
from unmix.models.heads.instances import InstanceHead

BATCH, DIM, FACTOR = 64, 128, 16
CASES: Mapping[str, tuple[int, Callable[[int], BaseHead]]] = {
    'info_nce': (4096, lambda size: InfoNCEHead(DIM, size)),
    'align_uniform': (4096, lambda size: AlignUniformHead(DIM, size, contrast_weight=1.0)),
    'queue_nce': (65_536, lambda size: QueueNCEHead(50_000, dim=DIM, queue_size=size)),
    'instdisc': (40_000, lambda size: NCEHead(size, DIM, 256)),
    'pic_recent': (20_000, lambda size: PICHead(size, DIM, num_recent=16_384)),
}


class Step:
    """A training step of a head, with features in the place of an encoder."""

    def __init__(self, head: BaseHead, size: int) -> None:
        self.size = size
        self.model = nn.Module()
        self.model.head = head
        self.features = nn.Parameter(torch.randn(2, BATCH, DIM))
        self.optimizer = torch.optim.SGD([self.features, *head.parameters()], lr=0.1, momentum=0.9)
        head.follow(self.optimizer)

    def target(self) -> Tensor:
        """Instances for heads that know them, else keys."""
        head = self.model.head
        if isinstance(head, InstanceHead):
            index = torch.randint(self.size, (BATCH,))
            head.enter(index)
            return head.address(index)
        return F.normalize(torch.randn(BATCH, DIM), dim=1)

    def __call__(self) -> None:
        """Make it."""
        head = self.model.head
        target, (query, mixture) = self.target(), F.normalize(self.features, dim=2)
        shared, prepared = head.shared(mixture), head.prepare(target)
        reverse = None if shared is None else shared.flip(0)
        straight = head.terms(mixture, prepared, shared)
        loss = head.terms(query, prepared, head.shared(query))
        loss = loss + UnMix()(0.3, [(straight, head.terms(mixture.flip(0), prepared, reverse))])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        head.update({0: query.detach()}, {0: target})
        head.after_step()


def measure(build: Callable[[int], BaseHead], size: int, seed: int) -> tuple[int, int]:
    """Return the bytes of the head's state, and those that a step needs beside."""
    torch.manual_seed(seed)
    step = Step(build(size), size)
    for _ in range(2):
        step()
    state = sum(x.numel() * x.element_size() for x in step.model.state_dict().values())
    return state, extra_bytes(step)


def main() -> None:
    """Measure and print."""
    args = argument_parser(__doc__, rounds=1).parse_args()
    torch.set_num_threads(args.threads[0])
    goals, details = [], {}
    print(f'{"head":14s} {"rows":>9s} {"state MB":>9s} {"a step MB":>10s}')
    for name, (small, build) in CASES.items():
        extras = []
        for size in (small, FACTOR * small):
            state, extra = measure(build, size, args.seed)
            extras.append(extra)
            details[f'{name}_{size}'] = dict(state=state, step=extra)
            print(f'{name:14s} {size:9d} {state / 1e6:9.1f} {extra / 1e6:10.2f}', flush=True)
        goals.append(Goal(f'memory_{name}', extras[1] / extras[0], 1.1, at_most=True))
    print_goals(goals, args.json, bytes=details)


if __name__ == '__main__':
    main()
