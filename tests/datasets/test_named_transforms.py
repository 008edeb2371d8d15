"""Transforms by the names of torchvision and mmcv, on images of any number of channels and any type."""

import random
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import functional as TF
from torchvision.transforms import v2

from unmix.config.check import find_type
from unmix.datasets import ArrayDataset, EpochSampler, SampleKey, collate
from unmix.datasets.transforms import MultiCrop, MultiView, SingleView
from unmix.datasets.transforms.named import TO_DTYPE, build_transform
from unmix.registry import TRANSFORMS
from unmix.utils.rng import seeded

FLIP = dict(type='RandomVerticalFlip')
ARGUMENTS: dict[str, dict[str, Any]] = {
    **{
        name: dict(size=9)
        for name in ('CenterCrop', 'FiveCrop', 'TenCrop', 'RandomCrop', 'RandomResizedCrop', 'Resize')
    },
    **{name: dict(dtype='float32') for name in ('ConvertImageDtype', 'ToDtype')},
    **{name: dict(degrees=30) for name in ('RandomAffine', 'RandomRotation')},
    **{name: dict(transforms=[FLIP]) for name in ('RandomApply', 'RandomChoice', 'RandomOrder', 'Compose')},
    'RandomResizedCrop': dict(size=9),
    'AutoAugment': dict(policy='cifar10', interpolation='bilinear'),
    'ConvertBoundingBoxFormat': dict(format='XYXY'),
    'ElasticTransform': dict(sigma=1.0),
    'GaussianBlur': dict(kernel_size=3),
    'JPEG': dict(quality=50),
    'Lambda': dict(lambd=lambda x: x),
    'LinearTransformation': dict(transformation_matrix=np.eye(3 * 16 * 16).tolist(), mean_vector=[0.0] * 3 * 16 * 16),
    'Normalize': dict(mean=[0.5], std=[0.25]),
    'Pad': dict(padding=2),
    'RandomAdjustSharpness': dict(sharpness_factor=2.0),
    'RandomPosterize': dict(bits=3),
    'RandomResize': dict(min_size=9, max_size=10),
    'RandomShortestSize': dict(min_size=9),
    'RandomSolarize': dict(threshold=100),
    'ScaleJitter': dict(target_size=(9, 9)),
    'SetClampingMode': dict(clamping_mode='hard'),
    'UniformTemporalSubsample': dict(num_samples=1),
}
# They give several images, mix batches, or are about boxes and points.
REFUSED = {'FiveCrop', 'TenCrop', 'CutMix', 'MixUp', 'RandomIoUCrop', 'SanitizeBoundingBoxes', 'SanitizeKeyPoints'}
NAMES = [name for name in sorted(TRANSFORMS.module_dict) if name.startswith('torchvision/')]
NAMES += [f'v2.{name}' for name in sorted(vars(v2)) if find_type(f'v2.{name}')[0] is not None]


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def config(name: str) -> dict[str, Any]:
    return dict(type=name, **ARGUMENTS.get(name.replace('/', '.').split('.')[-1], {}))


@pytest.mark.parametrize('name', NAMES)
def test_each_transform_of_torchvision_by_name(name: str) -> None:
    """It is torchvision's own under the same seed, or one message says why it cannot be."""
    short = name.replace('/', '.').split('.')[-1]
    image, key = noise(3, 16, 16), SampleKey(3, 2, 1)
    pipeline = MultiView([config(name), FLIP], num_views=2)  # no recipe has a vertical flip
    if short in REFUSED:
        with pytest.raises(ValueError, match=rf'dataset\.pipeline\.transforms\.0: {short} does not work on .*\.$'):
            pipeline(image, key)
        return
    views = pipeline(image, key)
    with seeded('before'):
        assert all(torch.equal(*pair) for pair in zip(views, pipeline(image, key), strict=True))
    plain = build_transform(config(name))
    if isinstance(plain, (*TO_DTYPE, tv.ToTensor, v2.ToTensor)):
        plain = lambda x: 255.0 * TF.to_tensor(x)  # noqa: E731  # the units stay
    elif short in ('LinearTransformation', 'Normalize', 'RandomErasing', 'GaussianNoise'):
        function, scaled = plain, short in ('LinearTransformation', 'Normalize')
        plain = lambda x: function(TF.to_tensor(x) if scaled else TF.pil_to_tensor(x))  # noqa: E731
    elif short == 'ToPILImage':
        plain = lambda x: x  # noqa: E731
    for number, view in enumerate(views):
        with seeded('augmentation', 1, 2, 3, number):
            expected: Any = tv.RandomVerticalFlip()(plain(TF.to_pil_image(image)))
        expected = expected if isinstance(expected, Tensor) else TF.pil_to_tensor(expected)
        assert view.dtype == expected.dtype
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-4 if view.is_floating_point() else 0)


def test_names_of_full_paths_and_of_both_versions() -> None:
    for name, expected in {
        'RandomVerticalFlip': tv.RandomVerticalFlip,
        'torchvision/RandomErasing': tv.RandomErasing,
        'torchvision.transforms.RandomAffine': tv.RandomAffine,
        'torchvision.transforms.v2.RandomAffine': v2.RandomAffine,
        'v2.RandomAffine': v2.RandomAffine,
        'RandomPhotometricDistort': v2.RandomPhotometricDistort,
    }.items():
        assert find_type(name)[0] is expected


@pytest.mark.parametrize('transforms', [
    [dict(type='RandomCrop', size=8), FLIP, dict(type='RandomAffine', degrees=180), dict(type='RandomErasing', p=1.0)],
    [dict(type='v2.RandomResizedCrop', size=8), dict(type='v2.RandomPhotometricDistort', p=1.0)],
    [dict(type='mmcv.RandomFlip', prob=0.5), dict(type='RandomChoice', transforms=[FLIP, dict(type='RandomInvert')])],
], ids=['v1', 'v2', 'mmcv'])  # fmt: skip
def test_batches_do_not_depend_on_the_workers(transforms: list[dict[str, Any]]) -> None:
    if any('mmcv' in cfg['type'] for cfg in transforms):
        pytest.importorskip('mmcv.transforms')
    dataset = ArrayDataset(noise(8, 3, 12, 12), None, dict(type='MultiView', transforms=transforms))
    sampler = EpochSampler(dataset, seed=5)
    found = []
    for workers in (0, 2):
        random.seed(workers), np.random.seed(workers), torch.manual_seed(workers)
        found.append(list(DataLoader(dataset, 4, sampler=sampler, num_workers=workers, collate_fn=collate)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one['index'], other['index'])
        assert all(torch.equal(*views) for views in zip(one['inputs'], other['inputs'], strict=True))
        assert not torch.equal(*one['inputs'])


def test_mmcv_takes_bgr_with_the_channels_last() -> None:
    mmcv = pytest.importorskip('mmcv.transforms')

    class FirstChannel(mmcv.BaseTransform):  # type: ignore[misc, name-defined]
        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            assert results['img'].shape == (6, 5, 3) == (*results['img_shape'], 3)
            return results | dict(img=results['img'] * np.array([1, 0, 0], np.uint8))

    image = noise(3, 6, 5)
    (view,) = MultiView([FirstChannel()], num_views=1)(image, SampleKey(0))
    assert torch.equal(view, image * torch.tensor([0, 0, 1], dtype=torch.uint8)[:, None, None])  # blue
    (flipped,) = MultiView([dict(type='mmcv.RandomFlip', prob=1.0)], num_views=1)(noise(13, 6, 5), SampleKey(0))
    assert torch.equal(flipped, noise(13, 6, 5).flip(2))
    with pytest.raises(ValueError, match=r'transforms\.0: Normalize does not work on .* data_preprocessor normalises'):
        MultiView([dict(type='mmcv.Normalize', mean=[0], std=[1])])(image, SampleKey(0))


GEOMETRY = {
    'crop': [dict(type='RandomResizedCrop', size=16), dict(type='RandomHorizontalFlip')],
    'cubic': [dict(type='RandomResizedCrop', size=16, interpolation='bicubic'), dict(type='PILGaussianBlur')],
    'center': [dict(type='Resize', size=20), dict(type='CenterCrop', size=16)],
}


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize('name', GEOMETRY)
@pytest.mark.parametrize('backend', ['numba', 'torch'])
def test_each_channel_is_cropped_as_an_image_of_its_own(channels: int, name: str, backend: str) -> None:
    images, key = noise(channels, 40, 33), SampleKey(5, 1, 2)
    views = MultiView(GEOMETRY[name], backend=backend)(images, key)
    for c in range(channels):
        alone = MultiView(GEOMETRY[name], backend='torch')(images[c : c + 1], key)
        for view, other in zip(views, alone, strict=True):
            assert view.dtype == torch.uint8
            assert (view[c].int() - other[0].int()).abs().max() <= 1


@pytest.mark.parametrize('pipeline', [
    MultiView(GEOMETRY['crop']),
    MultiView([*GEOMETRY['crop'], FLIP]),
    SingleView(GEOMETRY['center']),
    MultiCrop([dict(num_views=2, transforms=GEOMETRY['crop']), dict(num_views=1, transforms=GEOMETRY['center'])]),
    MultiView([dict(type='RandomCrop', size=16), dict(type='Cutout', mask_size=4, p=1.0)]),
    MultiView([dict(type='RandomCrop', size=16), dict(type='PILGaussianBlur'), dict(type='RandomRotation', degrees=9)]),
], ids=['fused', 'named', 'single', 'crops', 'cutout', 'blur'])  # fmt: skip
@pytest.mark.parametrize('dtype', [torch.uint8, torch.uint16, torch.int16, torch.float16, torch.float32])
def test_types_and_channels_in_batches(pipeline: Any, dtype: torch.dtype) -> None:
    """Views of values beyond 8 bits are those of the values divided by 8, times 8."""
    images = noise(6, 13, 40, 33)
    given = images if dtype == torch.uint8 else (images.float() * 8).to(dtype)
    batch = collate(ArrayDataset(given, range(6), pipeline).__getitems__(range(6)))
    small = collate(ArrayDataset(images.float(), range(6), pipeline).__getitems__(range(6)))
    views, others = (b['inputs'] if isinstance(b['inputs'], list) else [b['inputs']] for b in (batch, small))
    for view, other in zip(views, others, strict=True):
        assert view.shape == (6, 13, 16, 16)
        if dtype == torch.uint8:
            assert (view.float() - other).abs().max() <= 1
        else:
            torch.testing.assert_close(view, other * 8, rtol=0, atol=255 * 8 * 2**-20)


def test_flips_keep_every_value() -> None:
    image = torch.tensor([-3.5, 0.25, 1e4, 7.0, 8.0, 9.0]).view(1, 2, 3)
    (view,) = MultiView([dict(type='RandomVerticalFlip', p=1.0)], num_views=1)(image, SampleKey(0))
    assert torch.equal(view, image.flip(1))
    palette = Image.new('P', (4, 3), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    for transforms in ([FLIP], [dict(type='Resize', size=(3, 4))]):
        (view,) = MultiView(transforms, num_views=1)(palette, SampleKey(0))
        assert view[:, 0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize(('name', 'fused'), [
    *((name, True) for name in ('ColorJitter', 'RandomGrayscale', 'RandomSolarize')),
    *((name, False) for name in ('RandomEqualize', 'Grayscale', 'RandAugment', 'v2.ColorJitter')),
])  # fmt: skip
def test_changes_of_colour_are_for_one_or_three_channels_of_0_to_255(name: str, fused: bool) -> None:
    pipeline = MultiView([dict(type='Resize', size=(10, 10)), config(name)])
    assert pipeline.fused == fused
    short = name.removeprefix('v2.')
    with pytest.raises(ValueError, match=rf'{short}.* for images of 1 or 3 channels'):
        pipeline(noise(4, 10, 10), SampleKey(0))
    if short != 'Grayscale':
        with pytest.raises(ValueError, match=rf'{short}.*values of 0 to 255, and the images .* have 0 to 4'):
            pipeline(torch.tensor([0.0, 4080.0]).repeat(5)[:, None].expand(1, 10, 10), SampleKey(0))
