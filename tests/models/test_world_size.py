"""Two processes with half the batch each are one process with the whole, for every method, with and without Un-Mix.

Without BatchNorm, whose statistics are those of a process unless it is synchronised.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithms_under_test import ALGORITHMS, NUM_VIEWS
from torch import Tensor, distributed
from torch.overrides import TorchFunctionMode

from unmix.models import BaseAlgorithm
from unmix.registry import MODELS
from unmix.testing.ranks import run_ranks, without_batch_norm
from unmix.testing.tolerances import assert_same, rounding

pytestmark = pytest.mark.ranks

BATCH, STEPS = 12, 3
INDEX = torch.tensor([3, 8, 5, 20, 11, 2, 27, 6, 0, 24, 14, 9])
# What a batch of 12 needs: slots for all images of it, an image for each number; and sub-batches of far more images
# than the two dimensions, since the condition of a covariance of few is a matter of luck.
HEADS: dict[str, dict] = {
    'pic-recent': dict(num_recent=14),
    'deepclusterv2': dict(num_instances=33),
    'wmse': dict(sub_batch=6),
    'wmse-4': dict(sub_batch=6),
}
MULTI_CROP = dict.fromkeys(('swav', 'deepclusterv2', 'pic', 'pic-recent'), (8, 8, 6, 6))
SHARDED = dict(num_instances=33, sharded=True)
CASES = {
    f'{name}-{form}': (name, HEADS.get(name, {}), unmix)
    for form, unmix in (('plain', None), ('unmix', dict(type='UnMix')))
    for name in ALGORITHMS
}
# The longest sum is a convolution's gradient, over the batch's 8 x 8 pixels. The conditions were found by putting
# relative errors of 1e-11 on the results of all operations: at most 48, but 11,000 where features are whitened whose
# mean is 30 standard deviations, since there is no BatchNorm.
OPERATIONS, CONDITION, WHITENED = BATCH * 64, 100, 2e4
CASES |= {'pic-sharded-plain': ('pic', SHARDED, None), 'pic-sharded-unmix': ('pic', SHARDED, dict(type='UnMix'))}


class ReversedHalves(TorchFunctionMode):
    """The batch of one process in reverse order as two ranks have it: each half by itself."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.flip and args[1:] == (0,):
            return torch.cat([half.flip(0) for half in args[0].chunk(2)])
        return func(*args, **(kwargs or {}))


def build(case: str) -> torch.nn.Module:
    """The method without BatchNorm; its mixtures are drawn as on rank 0."""
    name, head, unmix = CASES[case]
    torch.manual_seed(0)
    config = ALGORITHMS[name]
    model = without_batch_norm(MODELS.build(dict(config, head=dict(config['head'], **head), unmix=unmix)).double())
    model.generator = lambda purpose, *key: BaseAlgorithm.generator(model, purpose, *(0 for _ in key))
    return model


def train(case: str, own: slice = slice(None)) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Losses of some steps on rows of the batch, gradients of the last one, state after it."""
    model = build(case)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, 0.9, weight_decay=1e-2)
    model.head.follow(optimizer)
    generator = torch.Generator().manual_seed(1)
    name = CASES[case][0]
    sizes = MULTI_CROP.get(name, (8,) * NUM_VIEWS.get(name, 2))
    losses: dict[str, list[Tensor]] = {}
    for step in range(STEPS):
        views = [torch.randn(BATCH, 3, s, s, dtype=torch.float64, generator=generator) for s in sizes]
        inputs, index = [view[own] for view in views], INDEX.roll(step).add(step)[own]
        if hasattr(model, 'cluster'):
            model.remember(inputs, index)
            model.cluster(step)
        optimizer.zero_grad()
        terms = model.loss(inputs, index)
        sum(terms.values()).backward()
        for parameter in model.parameters():
            if distributed.is_initialized() and parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()
        optimizer.step()
        model.after_step()
        for key, term in terms.items():
            losses.setdefault(key, []).append(term.detach())
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    return {key: torch.stack(terms) for key, terms in losses.items()}, gradients, model.state_dict()


def run_rank(rank: int, path: Path) -> None:
    half = BATCH // 2
    torch.save({case: train(case, slice(rank * half, rank * half + half)) for case in CASES}, path / f'{rank}.pth')


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two ranks, started once for all methods, came to."""
    path = tmp_path_factory.mktemp('ranks')
    run_ranks(run_rank, 2, path, path)
    return [torch.load(path / f'{rank}.pth') for rank in range(2)]


@pytest.mark.parametrize('case', CASES)
def test_two_ranks_are_one_process_with_the_whole_batch(case: str, ranks: list[dict]) -> None:
    with ReversedHalves():
        losses, gradients, state = train(case)
    parts = [rank[case] for rank in ranks]
    bound = rounding(OPERATIONS, WHITENED if CASES[case][0].startswith('wmse') else CONDITION)
    for key, expected in losses.items():
        assert_same((parts[0][0][key] + parts[1][0][key]) / 2, expected, bound, key)
    for _, own_gradients, own_state in parts:
        for own, reference in ((own_gradients, gradients), (own_state, state)):
            assert own.keys() == reference.keys()
            for key, expected in reference.items():
                assert_same(own[key], expected, bound, key)
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())
