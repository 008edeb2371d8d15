"""Views in one pass: by numba, by torch and by PIL, with the same parameters; and what the parameters are."""

import math
import pickle
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import functional as TF

from unmix.datasets import ArrayDataset, BaseDataset, EpochSampler, SampleKey, Subset, collate
from unmix.datasets.transforms import MultiCrop, MultiView, PILGaussianBlur, SingleView, backends
from unmix.datasets.transforms.blur import blur_kernel
from unmix.datasets.transforms.recipe import Op, Recipe
from unmix.utils.rng import stream, uniforms

JITTER = dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
COLOUR = [
    dict(type='RandomApply', p=0.8, transforms=[JITTER]),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.5))]),
    dict(type='RandomSolarize', threshold=128, p=0.2),
]


def crop(size: Any, interpolation: str = 'bilinear', scale: tuple[float, float] = (0.1, 1.0)) -> list[dict[str, Any]]:
    return [
        dict(type='RandomResizedCrop', size=size, scale=scale, interpolation=interpolation),
        dict(type='RandomHorizontalFlip'),
    ]


def photo(height: int, width: int, seed: int, channels: int = 3) -> torch.Tensor:
    """An image with large and small shapes, (C, H, W)."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((width, height), 3), float)
        for n in (2, 4, 9)
    ]
    mixed = np.clip(1.3 * (np.mean(layers, 0) - 128) + 128, 0, 255).astype(np.uint8)
    return torch.from_numpy(mixed).permute(2, 0, 1)[:channels]


def views(transforms: list[Any], images: Any, backend: str, dtype: str = 'float32', **kwargs: Any) -> torch.Tensor:
    """One view of each image, (N, C, h, w)."""
    pipeline = MultiView(transforms, 1, backend=backend, dtype=dtype, **kwargs)
    return pipeline.batch(images, [SampleKey(i, 3, 7) for i in range(len(images))])[0]


# Largest and mean difference from torchvision on PIL images, in grey levels; docs/speed.md has those of 500 images.
OPERATIONS = {
    'bilinear': (crop((24, 20)), 1.01, 0.4),
    'bicubic': (crop(24, 'bicubic'), 3.0, 0.5),
    'brightness': ([*crop(24), dict(type='ColorJitter', brightness=0.4)], 2.5, 1.0),
    'contrast': ([*crop(24), dict(type='ColorJitter', contrast=0.4)], 2.5, 1.0),
    'saturation': ([*crop(24), dict(type='ColorJitter', saturation=0.4)], 3.0, 1.0),
    'hue': ([*crop(24), dict(type='ColorJitter', hue=0.5)], 12.0, 1.5),
    'grey': ([*crop(24), dict(type='RandomGrayscale', p=1.0)], 2.0, 0.5),
    'blur': ([*crop(24), dict(type='PILGaussianBlur', sigma=(0.1, 2.0))], 7.0, 1.0),
    'solarize': ([dict(type='RandomSolarize', threshold=100, p=1.0), *crop(24)], 1.01, 0.4),
}


@pytest.mark.parametrize('name', OPERATIONS)
def test_operations_are_those_of_torchvision(name: str) -> None:
    transforms, largest, mean = OPERATIONS[name]
    images = [photo(20 + 3 * i % 40, 24 + 5 * i % 30, i) for i in range(24)]
    expected = views(transforms, images, 'pil', 'uint8').float()
    for backend in ('numba', 'torch'):
        difference = (views(transforms, images, backend) - expected).abs()
        assert difference.max() <= largest
        assert difference.mean() <= mean
    assert (expected - views(crop(expected.shape[2:]), images, 'pil', 'uint8')).abs().max() > 1 or 'linear' in name


def test_pil_applies_torchvisions_functions_to_the_draws() -> None:
    """A naive oracle: each operation of the recipe, by hand, on one image after the other."""
    recipe = Recipe(MultiView([*crop(16), *COLOUR]).transforms.transforms)
    images = [photo(30, 26, i) for i in range(12)]
    found = views([*crop(16), *COLOUR], images, 'pil', 'uint8')
    keys = np.arange(12)
    draws = recipe.draw(uniforms(stream('views', 7, 3, 0), keys, recipe.columns), np.tile([30, 26], (12, 1)))
    for n, image in enumerate(images):
        pil = TF.resized_crop(TF.to_pil_image(image), *draws.boxes[n].tolist(), [16, 16])
        pil = TF.hflip(pil) if draws.flips[n] else pil
        for code, value in zip(draws.codes[n].tolist(), draws.values[n].tolist(), strict=True):
            function = {
                Op.BRIGHTNESS: TF.adjust_brightness,
                Op.CONTRAST: TF.adjust_contrast,
                Op.SATURATION: TF.adjust_saturation,
                Op.HUE: TF.adjust_hue,
                Op.SOLARIZE: TF.solarize,
            }.get(code)
            if function:
                pil = function(pil, value)
            elif code == Op.GREY:
                pil = TF.rgb_to_grayscale(pil, 3)
            elif code == Op.BLUR:
                blur = PILGaussianBlur((value, value))
                pil = blur(pil)
        assert torch.equal(found[n], TF.pil_to_tensor(pil))


SHAPES = [(8, 8, 3), (8, 8, 1), (33, 47, 3), (21, 64, 1), (1, 5, 3), (300, 7, 3)]


@pytest.mark.parametrize('early', [False, True], ids=['crop first', 'colour first'])
@pytest.mark.parametrize(('height', 'width', 'channels'), SHAPES)
def test_numba_is_torch_to_rounding(height: int, width: int, channels: int, early: bool) -> None:
    for size, filter_ in ((8, 'bilinear'), ((19, 32), 'bicubic')):
        transforms = [*COLOUR[:3], *crop(size, filter_)] if early else [*crop(size, filter_), *COLOUR]
        images = torch.stack([photo(height, width, i, channels) for i in range(8)])
        found, expected = (views(transforms, images, backend) for backend in ('numba', 'torch'))
        # Where a solarized pixel is as bright as the threshold, rounding decides.
        assert ((found - expected).abs() < 5e-3).float().mean() > 0.999
        for layout in (images.contiguous(memory_format=torch.channels_last), list(images), list(images.contiguous())):
            torch.testing.assert_close(views(transforms, layout, 'numba'), found, rtol=0, atol=1e-3)
        torch.testing.assert_close(views(transforms, images[:1], 'numba'), found[:1], rtol=0, atol=0)


def test_resize_and_central_crop() -> None:
    images = [photo(40, 60, 0), photo(61, 37, 1), photo(50, 50, 2)]
    for transforms in (
        [dict(type='Resize', size=32), dict(type='CenterCrop', size=27)],
        [dict(type='Resize', size=(32, 20), interpolation='bicubic')],
    ):
        expected = views(transforms, images, 'pil', 'uint8').float()
        plain = tv.Compose(SingleView(transforms).transforms.transforms)
        assert all(
            torch.equal(TF.pil_to_tensor(plain(TF.to_pil_image(x))), y.byte())
            for x, y in zip(images, expected, strict=True)
        )
        for backend in ('numba', 'torch'):
            assert (views(transforms, images, backend) - expected).abs().max() <= (3 if len(transforms) == 1 else 1.01)


def test_types_and_normalisation() -> None:
    images, transforms = [photo(20, 20, i) for i in range(6)], [*crop(16), *COLOUR]
    for backend in ('numba', 'torch', 'pil'):
        whole = views(transforms, images, backend)
        rounded = views(transforms, images, backend, 'uint8')
        assert rounded.dtype == torch.uint8
        assert (rounded - whole).abs().max() <= 0.501
        kwargs = dict(mean=[120.0, 115.0, 100.0], std=[60.0, 58.0, 57.0])
        mean, std = (torch.tensor(kwargs[name]).view(3, 1, 1) for name in ('mean', 'std'))
        normal = views(transforms, images, backend, **kwargs)
        torch.testing.assert_close(normal, (whole - mean) / std, rtol=1e-5, atol=1e-5)
        half = views(transforms, images, backend, 'bfloat16', **kwargs)
        assert torch.equal(half, normal.to(torch.bfloat16))


def test_parameters_have_torchvisions_distribution() -> None:
    """Every number against its law; crops against torchvision's own draws, by two-sample tests."""
    recipe = Recipe(MultiView([*crop(16, scale=(0.2, 1.0)), *COLOUR]).transforms.transforms)
    n = 4000
    draws = recipe.draw(uniforms(5, np.arange(n), recipe.columns), np.tile([30, 70], (n, 1)))
    reference = np.array(
        [tv.RandomResizedCrop.get_params(torch.empty(3, 30, 70), (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(n)]
    )
    limit = 2.2 * math.sqrt(2 / n)  # of Kolmogorov and Smirnov's distance, at 1e-4
    for column in range(4):
        a, b = np.sort(draws.boxes[:, column]), np.sort(reference[:, column])
        at = np.arange(71)
        assert np.abs(np.searchsorted(a, at, 'right') - np.searchsorted(b, at, 'right')).max() / n < limit
    assert (draws.boxes[:, :2] >= 0).all()
    assert (draws.boxes[:, :2] + draws.boxes[:, 2:] <= [30, 70]).all()

    def share(found: np.ndarray, p: float, count: int = n) -> bool:
        return abs(found.mean() - p) < 5 * math.sqrt(p * (1 - p) / count)

    jitter, (grey, blur, solarize) = draws.codes[:, :4], draws.codes[:, 4:].T
    used = (jitter != 0).all(1)
    assert share(used, 0.8)
    assert ((jitter != 0).any(1) == used).all()
    assert share(draws.flips, 0.5)
    for codes, op, p in ((grey, Op.GREY, 0.2), (blur, Op.BLUR, 0.5), (solarize, Op.SOLARIZE, 0.2)):
        assert share(codes == op, p)
        assert abs(np.corrcoef(codes == op, used)[0, 1]) < 5 / math.sqrt(n)
    orders, counts = np.unique(jitter[used], axis=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - used.sum() / 24) ** 2).sum() / (used.sum() / 24) < 60  # chi-square, 23 degrees: 1e-4
    for op, low, high in ((Op.BRIGHTNESS, 0.6, 1.4), (Op.HUE, -0.1, 0.1)):
        values = np.sort(draws.values[:, :4][jitter == op])
        assert np.abs((values - low) / (high - low) - np.arange(len(values)) / len(values)).max() < limit
    assert (draws.values[solarize == Op.SOLARIZE, 6] == 128).all()


def test_a_box_that_never_fits_is_the_largest_central_one() -> None:
    recipe = Recipe([tv.RandomResizedCrop(8, scale=(1.0, 1.0))])
    for height, width in ((10, 100), (100, 10), (1, 9)):
        draws = recipe.draw(uniforms(1, np.arange(3), recipe.columns), np.tile([height, width], (3, 1)))
        expected = tv.RandomResizedCrop.get_params(torch.empty(3, height, width), (1.0, 1.0), (3 / 4, 4 / 3))
        assert draws.boxes.tolist() == [list(expected)] * 3


@pytest.mark.parametrize('radius', [0.1, 0.7, 1.5, 2.0, 4.0])
def test_blur_kernel_is_pils(radius: float) -> None:
    """The impulse response, to PIL's rounding of each of six passes."""
    image = np.zeros((61, 61), np.uint8)
    image[30, 30] = 255
    found = np.asarray(PILGaussianBlur((radius, radius))(Image.fromarray(image)))
    half = blur_kernel(radius)
    kernel = np.concatenate([half[:0:-1], half])
    assert abs(kernel.sum() - 1) < 1e-6
    ends = 30 - len(half) + 1
    assert np.abs(np.pad(255 * np.outer(kernel, kernel), ends) - found).max() < 2


class Photos(BaseDataset):
    """Images of different sizes that are decoded one by one, as those of a folder."""

    def __init__(self, channels: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def __len__(self) -> int:
        return 20

    def load(self, index: int) -> tuple[torch.Tensor, int]:
        return photo(20 + index % 7, 30 - index % 5, index, self.channels), index % 3


RECIPES = {
    'MultiView': dict(type='MultiView', transforms=[*crop(16), *COLOUR]),
    'SingleView': dict(type='SingleView', transforms=[dict(type='Resize', size=18), dict(type='CenterCrop', size=16)]),
    'MultiCrop': dict(
        type='MultiCrop',
        crops=[dict(num_views=2, transforms=[*crop(16), *COLOUR]), dict(num_views=3, transforms=crop(8))],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', RECIPES)
def test_batches_are_the_items_with_any_number_of_workers(kind: str) -> None:
    for dataset in (
        Photos(pipeline=RECIPES[kind]),
        ArrayDataset(torch.stack([photo(20, 20, i) for i in range(20)]), range(20), RECIPES[kind]),
        Subset(ArrayDataset(torch.stack([photo(20, 20, i) for i in range(40)]), [0] * 40, RECIPES[kind]), share=0.5),
    ):
        found = []
        for workers in (0, 1, 2):
            sampler = EpochSampler(dataset, seed=2)
            sampler.set_epoch(3)
            found.append(list(DataLoader(dataset, 8, sampler=sampler, num_workers=workers, collate_fn=collate)))
        for batches in found[1:]:
            for batch, other in zip(found[0], batches, strict=True):
                assert torch.equal(batch['index'], other['index'])
                assert torch.equal(batch['label'], other['label'])
                for x, y in zip(batch['inputs'], other['inputs'], strict=True):
                    assert torch.equal(x, y)
        keys = [SampleKey(index, 3, 2) for index in found[0][0]['index'].tolist()]
        copy = pickle.loads(pickle.dumps(dataset))  # as for workers that are not forked
        again = collate([copy[key] for key in keys])
        assert torch.equal(again['label'], found[0][0]['label'])
        for x, y in zip(again['inputs'], found[0][0]['inputs'], strict=True):
            assert torch.equal(x, y)


def test_crops_of_one_numbering_are_the_same_in_a_batch() -> None:
    """The second kind of a MultiCrop goes on with the numbers of the first."""
    images, keys = [photo(20, 25, i) for i in range(5)], [SampleKey(i, 1, 1) for i in range(5)]
    one = MultiView(crop(8), 5).batch(images, keys)
    two = MultiCrop([dict(num_views=2, transforms=crop(8)), dict(num_views=3, transforms=crop(8))]).batch(images, keys)
    assert all(map(torch.equal, one, two))
    assert len({view.numpy().tobytes() for view in one}) == 5


def test_what_cannot_be_done_is_said() -> None:
    turn = [*crop(8), dict(type='RandomRotation', degrees=5)]
    with pytest.raises(ValueError, match=r"backend='numba' cannot do RandomRotation here; use 'auto' or 'pil'"):
        MultiView(turn, backend='numba')
    with pytest.raises(ValueError, match=r"backend='torch' cannot do no crop and no size"):
        MultiView([JITTER], backend='torch')
    with pytest.raises(ValueError, match=r"backend='gpu', .*expected one of auto, numba, torch, pil"):
        MultiView(crop(8), backend='gpu')
    with pytest.raises(ValueError, match=r'mean=1, std=None, .*give both or none'):
        MultiView(crop(8), mean=1, dtype='float32')
    with pytest.raises(ValueError, match=r'ColorJitter is for images of 1 or 3 channels, and the data set gives 2'):
        MultiView([*crop(8), JITTER])(torch.zeros(2, 6, 5, dtype=torch.uint8), SampleKey(0))
    mixed = [photo(9, 9, 0), photo(9, 9, 0, 1)]
    with pytest.raises(ValueError, match=r'1 \(torch.uint8\), 3 \(torch.uint8\) channels.*; load all alike'):
        MultiView(crop(8)).batch(mixed, [SampleKey(0), SampleKey(1)])
    dataset = Photos(pipeline=RECIPES['SingleView'])
    dataset.load = lambda index: (photo(20, 20, 0), index or None)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match='Label all images or none'):
        dataset.__getitems__([0, 1])


def test_without_numba_torch_makes_the_views(monkeypatch: pytest.MonkeyPatch) -> None:
    images, keys = [photo(20, 20, i) for i in range(3)], [SampleKey(i) for i in range(3)]
    expected = MultiView(crop(8), dtype='float32').batch(images, keys)
    monkeypatch.setitem(sys.modules, 'unmix.datasets.transforms.numba_kernel', None)
    backends.kernel.cache_clear()
    try:
        pipeline = MultiView(crop(8), dtype='float32')
        with pytest.warns(RuntimeWarning, match='made by torch, not by numba.*Install numba'):
            found = pipeline.batch(images, keys)
        with warnings.catch_warnings():  # one is enough
            warnings.simplefilter('error')
            MultiView(crop(8)).batch(images, keys)
        assert pipeline.backend == 'torch'
        with pytest.raises(ValueError, match="backend='numba', but numba does not work here"):
            MultiView(crop(8), backend='numba').batch(images, keys)
    finally:
        backends.kernel.cache_clear()
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-3)
