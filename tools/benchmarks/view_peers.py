"""Two views of images by other libraries, each as its users write it, for ``views.py``.

The recipe is MoCo v2's: crop, flip, colour jitter (0.8), grey (0.2), and blur (0.5) for photographs, normalised to
float32. Where a library has a transform of its own for it, that one is taken. Of each function the result is a pair of
batches (N, 3, S, S).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision.transforms as tv
from PIL import Image
from torch import Tensor

from unmix.datasets.transforms import PILGaussianBlur

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = (0.2, 1.0)
Source = Sequence[np.ndarray] | Sequence[Path]  # (H, W, 3) uint8, or JPEG files
Views = Callable[[], object]


def _pil(source: Source) -> Callable[[int], Image.Image]:
    def load(index: int) -> Image.Image:
        item = source[index]
        return Image.fromarray(item) if isinstance(item, np.ndarray) else Image.open(item).convert('RGB')

    return load


def _cv2(source: Source) -> Callable[[int], np.ndarray]:
    def load(index: int) -> np.ndarray:
        item = source[index]
        return item if isinstance(item, np.ndarray) else cv2.cvtColor(cv2.imread(str(item)), cv2.COLOR_BGR2RGB)

    return load


def _twice(load: Callable[[int], Any], transform: Callable[[Any], Tensor], num: int) -> Views:
    def views() -> tuple[Tensor, Tensor]:
        first, second = [], []
        for index in range(num):
            image = load(index)
            first.append(transform(image))
            second.append(transform(image))
        return torch.stack(first), torch.stack(second)

    return views


def torchvision_pil(source: Source, size: int, blur: bool) -> Views:
    """The official recipe: torchvision on PIL images."""
    steps = [
        tv.RandomResizedCrop(size, scale=SCALE),
        tv.RandomHorizontalFlip(),
        tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        tv.RandomGrayscale(p=0.2),
        *([tv.RandomApply([PILGaussianBlur((0.1, 2.0))], p=0.5)] if blur else []),
        tv.ToTensor(),
        tv.Normalize(MEAN, STD),
    ]
    return _twice(_pil(source), tv.Compose(steps), len(source))


def albumentations(source: Source, size: int, blur: bool) -> Views:
    """albumentations, on arrays that OpenCV has decoded; it does not smooth what it shrinks."""
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    steps = [
        A.RandomResizedCrop(size=(size, size), scale=SCALE),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter(brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4), hue=(-0.1, 0.1), p=0.8),
        A.ToGray(p=0.2),
        *([A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=0.5)] if blur else []),
        A.Normalize(MEAN, STD),
        ToTensorV2(),
    ]
    compose = A.Compose(steps)
    return _twice(_cv2(source), lambda image: compose(image=image)['image'], len(source))


def lightly(source: Source, size: int, blur: bool) -> Views:
    """lightly's MoCo v2 transform, which makes both views."""
    from lightly.transforms import MoCoV2Transform

    load = _pil(source)
    transform = MoCoV2Transform(input_size=size, gaussian_blur=0.5 if blur else 0.0, normalize=dict(mean=MEAN, std=STD))

    def views() -> list[Tensor]:
        return [torch.stack(view) for view in zip(*(transform(load(i)) for i in range(len(source))), strict=True)]

    return views


def kornia(source: Source, size: int, blur: bool) -> Views:
    """kornia, on a whole batch of images of one size in memory."""
    import kornia.augmentation as K

    images = torch.stack([torch.from_numpy(np.array(_pil(source)(i))).permute(2, 0, 1) for i in range(len(source))])
    compose = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=SCALE),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        *([K.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5)] if blur else []),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=['input'],
    )

    def views() -> list[Tensor]:
        return [compose(images.float() / 255) for _ in range(2)]

    return views
