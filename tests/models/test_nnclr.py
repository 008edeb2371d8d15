"""NNCLR against Alg. 1 of the paper in loops; the queue holds what was before the step."""

import math
from typing import Any

import pytest
import torch
from algorithms_under_test import METHODS
from torch import Tensor

from unmix.models import NNCLRHead


def built(**changes: Any) -> NNCLRHead:
    torch.manual_seed(0)
    return NNCLRHead(**dict(dim=4, hidden_dim=3, queue_size=9, temperature=0.2) | changes).double()


def features(seed: int = 1) -> Tensor:
    return torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(row: list[float]) -> list[float]:
    return [x / math.hypot(*row) for x in row]


def naive(queue: Tensor, view: Tensor, prediction: Tensor, temperature: float) -> float:
    """``L(NN(z, Q), p)`` of Alg. 1, number by number."""
    loss, candidates = 0.0, [unit(row) for row in prediction.tolist()]
    for n, row in enumerate(view.tolist()):
        neighbour = max(queue.tolist(), key=lambda entry: dot(entry, unit(row)))
        logits = [dot(neighbour, candidate) / temperature for candidate in candidates]
        loss += math.log(sum(map(math.exp, logits))) - logits[n]
    return loss / len(view)


def test_loss_is_that_of_loops() -> None:
    head, (a, b) = built(), 3 * features()
    queue = head.queue.features
    expected = (naive(queue, a, head.predictor(b), 0.2) + naive(queue, b, head.predictor(a), 0.2)) / 2
    assert head(a, b).item() == pytest.approx(expected, abs=1e-10)


def test_queue_gets_view_0_after_the_loss() -> None:
    """With the present projections in the queue each would be its own neighbour, and the loss SimCLR's."""
    method = METHODS['nnclr']
    model = method.build()
    before = model.head.queue.features.clone()
    queries = [model.encode(view).detach() for view in method.views()]
    predictions = [model.head.predictor(query) for query in queries]
    expected = sum(naive(before, queries[i], predictions[1 - i], 0.2) for i in range(2)) / 2
    assert model.loss(method.views())['loss_base'].item() == pytest.approx(expected, abs=1e-10)
    assert torch.equal(model.head.queue.features, before)
    model.after_step(stepped=False)
    entered = torch.tensor([unit(row) for row in queries[0].tolist()], dtype=torch.float64)
    torch.testing.assert_close(model.head.queue.features[:6], entered, rtol=0, atol=1e-12)
    assert torch.equal(model.head.queue.features[6:], before[6:])
    torch.testing.assert_close(model.head.neighbours(queries[0]), entered, rtol=0, atol=1e-12)  # now they would be


def test_neighbours_have_no_gradient() -> None:
    head, (a, b) = built(), features()
    a.requires_grad_()
    head.match(a, b)
    assert not head.neighbours(a).requires_grad
