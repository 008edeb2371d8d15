"""Two processes with half the batch each are one process with the whole, for every method, with and
without Un-Mix, and where each pair is mixed once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from algorithms_under_test import METHODS

from unmix.testing import MethodUnderTest, run_ranks
from unmix.testing.two_ranks import Outcome, compare_ranks, train_half

pytestmark = pytest.mark.ranks

# What a batch of 12 needs: slots for all images of it, an image for each number; and sub-batches of far more images
# than the two dimensions, since the condition of a covariance of few is a matter of luck.
HEADS: dict[str, dict] = {
    'pic-recent': dict(num_recent=14),
    'deepclusterv2': dict(num_instances=33),
    'wmse': dict(sub_batch=6),
    'wmse-4': dict(sub_batch=6),
}
MULTI_CROP = dict.fromkeys(('swav', 'deepclusterv2', 'pic', 'pic-recent'), (8, 8, 6, 6))
# The default bound of the condition was found by putting relative errors of 1e-11 on the results of all operations: at
# most 48, but 11,000 where features are whitened whose mean is 30 standard deviations, since there is no BatchNorm.
CONDITION = {'wmse': 2e4, 'wmse-4': 2e4}


def of_two_ranks(name: str, **head: object) -> MethodUnderTest:
    """Return the method with a batch of 12, and multi-crop where it can be."""
    method = METHODS[name]
    config = dict(method.config, head=dict(method.config['head'], **head))
    sizes = MULTI_CROP.get(name, method.image_size)
    return replace(method, config=config, batch_size=12, image_size=sizes, condition=CONDITION.get(name, 100.0))


UNDER_TEST = {name: of_two_ranks(name, **HEADS.get(name, {})) for name in METHODS}
UNDER_TEST['pic-sharded'] = of_two_ranks('pic', num_instances=33, sharded=True)
CASES = {
    f'{name}-{form}': (method, method.unmix if form == 'unmix' else None)
    for form in ('plain', 'unmix')
    for name, method in UNDER_TEST.items()
}
# Heads that see the samples of all ranks, and the mixture as a target; the others are means over samples.
ONCE = (
    'moco-batch',
    'moco-align-uniform',
    'simclr',
    'byol',
    'barlow-twins',
    'moco-v3',
    'nnclr',
    'wmse',
    'swav',
    'pic-sharded',
)
CASES |= {f'{name}-once': (UNDER_TEST[name], dict(type='UnMix', pairs='once')) for name in ONCE}
CASES['simclr-random'] = (UNDER_TEST['simclr'], dict(type='UnMix', partner='random'))


def run_rank(rank: int, path: Path) -> None:
    torch.save({case: train_half(rank, *of) for case, of in CASES.items()}, path / f'{rank}.pth')


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """What two ranks, started once for all methods, came to."""
    path = tmp_path_factory.mktemp('ranks')
    run_ranks(run_rank, 2, path, path)
    return [torch.load(path / f'{rank}.pth', weights_only=False) for rank in range(2)]


@pytest.mark.parametrize('case', CASES)
def test_two_ranks_are_one_process_with_the_whole_batch(case: str, ranks: list[dict[str, Outcome]]) -> None:
    compare_ranks([rank[case] for rank in ranks], *CASES[case])
