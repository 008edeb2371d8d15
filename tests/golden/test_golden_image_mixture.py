"""Mixtures in the data set, cutout and random erasing of the released code of 2020, from the recorded draws."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from fixtures import Golden, Recorded
from torch.utils.data import Dataset

from unmix.datasets import MixtureDataset
from unmix.datasets.transforms import Cutout, RandomErasing

GATE, PARTNER, BETA, INTEGER, UNIT, UNIFORM = range(6)


class Draws(Recorded):
    """Recorded draws; ranges do not matter."""

    def integers(self, *bounds: int) -> int:
        return int(self.draws['integers'].pop(0))

    def uniform(self, *bounds: float) -> float:
        return float(self.draws['uniform'].pop(0))


class Images(Dataset):
    """The images of the fixture."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key):
        return dict(inputs=[self.images[key.index], -self.images[key.index]], index=key.index)


def fetches(golden: Golden) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """Number and draws of each fetch."""
    offsets = golden['draw_off']
    for fetch, (start, end) in enumerate(pairwise(offsets)):
        yield fetch, list(zip(golden['draw_kind'][start:end], golden['draw_val'][start:end], strict=True))


def take(log: list[tuple[int, float]], kind: int) -> float:
    actual, value = log.pop(0)
    assert actual == kind
    return value


def parse_global(log: list, num_mix: int, prob: float) -> list[Draws]:
    """The draws of one fetch through the global mixture, for its generator."""
    draws = Draws(random=[], beta=[], integers=[])
    for _ in range(num_mix):
        draws.draws['random'].append(take(log, GATE))
        if draws.draws['random'][-1] <= prob:
            draws.draws['integers'].append(take(log, PARTNER))
            draws.draws['beta'].append(take(log, BETA))
    return [draws]


def parse_region(log: list, num_mix: int, prob: float, inner: dict | None = None) -> list[Draws]:
    """The draws of one fetch through the region mixture: for its generators, in the order in which they are asked."""
    draws = Draws(random=[], beta=[], integers=[])
    generators = ([] if inner is None else parse_global(log, **inner)) + [draws]
    for _ in range(num_mix):
        draws.draws['random'].append(take(log, GATE))
        if draws.draws['random'][-1] <= prob:
            draws.draws['beta'].append(take(log, BETA))
            draws.draws['integers'].append(take(log, PARTNER))
            generators += [] if inner is None else parse_global(log, **inner)
            draws.draws['integers'] += [take(log, INTEGER), take(log, INTEGER)]
    return generators


@pytest.mark.golden('c11_gm*', 'c11_rm*', 'c11_im*')
def test_mixtures(golden: Golden) -> None:
    hp, images = golden.hp, Images(golden.tensor('in_x').cpu())  # data sets mix on the CPU
    mixup = inner = None
    dataset: Dataset = images
    if 'alpha' in hp or 'g_alpha' in hp:
        prefix = '' if 'alpha' in hp else 'g_'
        inner = dict(num_mix=hp[f'{prefix}num_mix'], prob=hp[f'{prefix}prob'])
        mixup = dataset = MixtureDataset(images, dict(type='Mixup', alpha=hp[f'{prefix}alpha']), **inner)
    if 'beta' in hp or 'r_beta' in hp:
        prefix = '' if 'beta' in hp else 'r_'
        outer = dict(num_mix=hp[f'{prefix}num_mix'], prob=hp[f'{prefix}prob'])
        decay = hp[f'{prefix}decay']
        dataset = MixtureDataset(dataset, dict(type='CutMix', alpha=hp[f'{prefix}beta']), decay=decay, **outer)
    for fetch, log in fetches(golden):
        generators = parse_global(log, **inner) if dataset is mixup else parse_region(log, **outer, inner=inner)
        assert not log
        for level in {id(mixup): mixup, id(dataset): dataset}.values():
            if level is not None:
                level.generator = lambda key: generators.pop(0)  # noqa: B023
        index = fetch % len(images)
        item = dataset[index]
        golden.check(item['inputs'][0], 'out', fetch)
        golden.check(-item['inputs'][1], 'out', fetch)  # the other view is mixed alike
        assert item['index'] == index
        assert not generators


@pytest.mark.golden('c11_cutout*', 'c11_erase*')
def test_erasing(golden: Golden) -> None:
    hp, images = golden.hp, golden.tensor('in_x')
    height, width = images.shape[-2:]
    for fetch, log in fetches(golden):
        draws = Draws(
            random=[value for kind, value in log if kind in (GATE, UNIT)],
            integers=[value for kind, value in log if kind == INTEGER],
            uniform=[value for kind, value in log if kind == UNIFORM],
        )
        if 'mask_size' in hp:
            transform = Cutout(hp['mask_size'], hp['p'], hp['cutout_inside'], hp['mask_color'])
        else:
            transform = RandomErasing(hp['p'], hp['area_ratio_range'], hp['min_aspect_ratio'], hp['max_attempt'])
        params = transform.draw(draws, (height, width))
        if params is not None:  # the release takes the columns for rows
            (top, bottom, left, right), color = params
            params = (left, right, top, bottom), color
        golden.check(transform.apply(images[fetch % len(images)], params), 'out', fetch)
