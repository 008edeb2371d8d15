"""Views of one image at a time, and where their randomness comes from."""

import random
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader
from torchvision.transforms import functional as TF

from unmix.datasets import ArrayDataset, EpochSampler, SampleKey, collate
from unmix.datasets.transforms import MultiView, SingleView, to_pil, to_tensor
from unmix.utils.rng import reseed, seeded

RECIPE = [
    dict(type='RandomResizedCrop', size=24, scale=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomApply', p=0.8, transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, hue=0.1)]),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]),
    dict(type='RandomHorizontalFlip'),
]
TURN = dict(type='RandomRotation', degrees=10)  # which only torchvision draws and applies


def image(size: tuple[int, int] = (40, 32), seed: int = 0) -> Image.Image:
    """A smooth random RGB image."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def test_views_of_other_transforms_are_those_of_torchvision_under_the_same_seed() -> None:
    blur = tv.Lambda(lambda x: x.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))))
    compose = tv.Compose(
        [
            tv.RandomResizedCrop(24, scale=(0.2, 1.0), interpolation=tv.InterpolationMode.BICUBIC),
            tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0, 0.1)], p=0.8),
            tv.RandomGrayscale(0.2),
            tv.RandomApply([blur], p=0.5),
            tv.RandomHorizontalFlip(),
            tv.RandomRotation(10),
            tv.PILToTensor(),
        ]
    )
    for index in range(10):
        views = MultiView([*RECIPE, TURN], num_views=3)(image(), SampleKey(index, 4, 1))
        for view, found in enumerate(views):
            with seeded('augmentation', 1, 4, index, view):
                expected = compose(image())
            assert found.dtype == torch.uint8
            assert torch.equal(found, expected)


def test_seeds_epochs_images_and_views_all_differ_and_the_generators_stay() -> None:
    pipeline = MultiView([dict(type='RandomResizedCrop', size=16)])
    reseed('before')
    keys = [SampleKey(index, epoch, seed) for index in range(3) for epoch in range(3) for seed in range(2)]
    views = [view.numpy().tobytes() for key in keys for view in pipeline(image(), key)]
    assert len(set(views)) == len(views) == 36
    after = random.random(), np.random.rand(), torch.rand(()).item()
    reseed('before')
    assert after == (random.random(), np.random.rand(), torch.rand(()).item())


def test_single_view_for_evaluation_is_resize_and_crop() -> None:
    pipeline = SingleView([dict(type='Resize', size=28), dict(type='CenterCrop', size=24), dict(type='PILToTensor')])
    expected = TF.pil_to_tensor(TF.center_crop(TF.resize(image(), 28), 24))
    assert (pipeline(image(), SampleKey(0)).int() - expected.int()).abs().max() <= 1
    pipeline.backend = 'pil'
    assert torch.equal(pipeline(image(), SampleKey(0)), expected)


def test_images_and_tensors() -> None:
    tensor = torch.randint(0, 256, (3, 6, 5), dtype=torch.uint8)
    assert torch.equal(to_tensor(to_pil(tensor)), tensor)
    assert torch.equal(to_tensor(to_pil(tensor[:1])), tensor[:1])
    assert torch.equal(to_tensor(to_pil(torch.full((1, 2, 2), 15.94))), torch.full((1, 2, 2), 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r'1 or 3 channels, .* shape \(2, 6, 5\)'):
        to_pil(tensor[:2])
    with pytest.raises(TypeError, match='not ndarray: check `load`'):
        to_tensor(tensor.numpy())


def batches(pipeline: dict[str, Any], workers: int, persistent: bool = False, epochs: int = 2) -> list[dict[str, Any]]:
    """All batches of some epochs."""
    data = torch.arange(12 * 3 * 8 * 8).remainder(251).reshape(12, 3, 8, 8).to(torch.uint8)
    dataset = ArrayDataset(data, range(12), pipeline)
    sampler = EpochSampler(dataset, seed=5)
    loader = DataLoader(
        dataset, 4, sampler=sampler, num_workers=workers, collate_fn=collate, persistent_workers=persistent
    )
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += list(loader)
    return found


PIPELINES = [
    dict(
        type='MultiView', transforms=[dict(type='RandomResizedCrop', size=8), dict(type='ColorJitter', brightness=0.4)]
    ),
    dict(type='BatchMultiView', transforms=[dict(type='BatchAffine'), dict(type='BatchNoise', max_std=20.0)]),
]


@pytest.mark.slow
@pytest.mark.parametrize('pipeline', PIPELINES, ids=['MultiView', 'BatchMultiView'])
def test_batches_do_not_depend_on_the_workers(pipeline: dict[str, Any]) -> None:
    expected = batches(pipeline, 0)
    assert len(expected) == 6
    for workers, persistent in ((1, False), (2, False), (2, True)):
        for batch, other in zip(expected, batches(pipeline, workers, persistent), strict=True):
            assert torch.equal(batch['index'], other['index'])
            assert torch.equal(batch['label'], batch['index'])
            assert all(torch.equal(*views) for views in zip(batch['inputs'], other['inputs'], strict=True))


@pytest.mark.parametrize('pipeline', PIPELINES, ids=['MultiView', 'BatchMultiView'])
@pytest.mark.parametrize('workers', [0, 2])
def test_no_epoch_repeats_an_augmentation(pipeline: dict[str, Any], workers: int) -> None:
    """With workers that are started anew each epoch, MMEngine's seeding repeats them all."""
    views: dict[int, set[bytes]] = {index: set() for index in range(12)}
    for batch in batches(pipeline, workers, epochs=3):
        for view in batch['inputs']:
            for index, pixels in zip(batch['index'].tolist(), view, strict=True):
                views[index].add(pixels.numpy().tobytes())
    assert all(len(seen) == 6 for seen in views.values())
