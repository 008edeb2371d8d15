"""The memory that a training step needs besides the state does not grow with the queue, the bank or the classifier.

A step is: losses of a query and a mixture, backward pass, optimiser step, update of the state.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from measure import extra_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.mixing import UnMix
from unmix.models import AlignUniformHead, BaseHead, InfoNCEHead, NCEHead, PICHead
from unmix.models.functional import bank_chunks
from unmix.models.heads.instances import InstanceHead

pytestmark = pytest.mark.slow


class Step:
    """A training step of a head. Features stand in for an encoder."""

    def __init__(self, head: BaseHead, size: int, batch: int, dim: int) -> None:
        self.head: Any = head
        self.size = size
        self.features = nn.Parameter(torch.randn(2, batch, dim))
        self.optimizer = torch.optim.SGD([self.features, *head.parameters()], lr=0.1, momentum=0.9)
        head.follow(self.optimizer)

    def target(self) -> Tensor:
        _, batch, dim = self.features.shape
        if isinstance(self.head, InstanceHead):
            index = torch.randint(self.size, (batch,))
            self.head.enter(index)
            return self.head.address(index)
        return F.normalize(torch.randn(batch, dim), dim=1)

    def __call__(self) -> None:
        head, target, (query, mixture) = self.head, self.target(), F.normalize(self.features, dim=2)
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


def measure(build: Callable[[int], BaseHead], size: int, batch: int, dim: int) -> tuple[int, int]:
    """Bytes of the head's state, and of what its third step needs besides, when everything that stays has been made."""
    torch.manual_seed(0)
    step = Step(build(size), size, batch, dim)
    for _ in range(2):
        step()
    state = sum(x.numel() * x.element_size() for x in step.head.state_dict().values())
    return state, extra_bytes(step)


@pytest.mark.parametrize('build', [
    lambda size: InfoNCEHead(128, size),
    lambda size: AlignUniformHead(128, size, contrast_weight=1.0),
    lambda size: NCEHead(size, 128, 4),
    lambda size: PICHead(size, 128, num_recent=512),
], ids=['info_nce', 'align_uniform', 'instdisc', 'pic_recent'])  # fmt: skip
def test_a_step_needs_no_more_with_a_larger_state(monkeypatch: pytest.MonkeyPatch, build: Callable[[int], BaseHead]):
    monkeypatch.setattr(bank_chunks, 'CHUNK', 64)  # chunks smaller than either
    (small, few), (large, many) = (measure(build, size, batch=64, dim=128) for size in (1000, 4000))
    assert large > 1.3 * small
    # Whether a chunk is still alive when the next one begins is, to the profiler's clock, a matter of chance.
    table = (4000 - 1000) * 64 * 4  # bytes that one number for each row and sample would add
    assert abs(many - few) < table / 2


def test_a_step_of_pic_has_gradients_of_the_weights_but_no_logits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bank_chunks, 'CHUNK', 64)
    (_, few), (_, many) = (measure(lambda size: PICHead(size, 8), size, batch=512, dim=8) for size in (1000, 65000))
    weights, logits = 64000 * 8 * 4, 64000 * 512 * 4  # bytes that 64,000 more instances add to one tensor of each kind
    chance = 4 * 64 * 512 * 4  # bytes of a few chunks of logits, which are alive at the peak or not, as above
    assert weights - chance < many - few < logits / 8
