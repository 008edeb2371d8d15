"""MoCo v2's two views by other libraries, for ``views.py``.

A peer for single images is a function of (size, blur) that returns two others: one reads an image, from an array
(H, W, 3) uint8 or a JPEG file, the other makes a view of it, a normalised float32 tensor (3, S, S). An engine is a
function of (files, size, blur, batch size, threads) that returns an iterable of batches, two tensors (N, 3, S, S). All
draw other random numbers than ours.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')  # it would ask the network for a newer version

import numpy as np
import torch
import torchvision.transforms as tv
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from unmix.datasets.transforms import PILGaussianBlur

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, SIGMA = (0.2, 1.0), (0.1, 2.0)
Peer = tuple[Callable[[Any], Any], Callable[[Any], Tensor]]
Batches = Iterable[Sequence[Tensor]]


def torchvision(size: int, blur: bool) -> Peer:
    """torchvision on PIL images, as the released codes have it."""
    steps = [
        tv.RandomResizedCrop(size, scale=SCALE),
        tv.RandomHorizontalFlip(),
        tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        tv.RandomGrayscale(p=0.2),
        *([tv.RandomApply([PILGaussianBlur(SIGMA)], p=0.5)] if blur else []),
        tv.ToTensor(),
        tv.Normalize(MEAN, STD),
    ]

    def read(item: Any) -> Any:
        return Image.fromarray(item) if isinstance(item, np.ndarray) else Image.open(item).convert('RGB')

    return read, tv.Compose(steps)


def torchvision_v2(size: int, blur: bool) -> Peer:
    """torchvision v2 on uint8 tensors, which its own decoder makes of files. Its blur's kernel has a fixed size."""
    steps = [
        v2.RandomResizedCrop(size, scale=SCALE, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
        *([v2.RandomApply([v2.GaussianBlur(size // 20 * 2 + 1, SIGMA)], p=0.5)] if blur else []),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]

    def read(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return torch.from_numpy(item).permute(2, 0, 1)
        return decode_image(str(item), ImageReadMode.RGB)

    return read, v2.Compose(steps)


def albumentations(size: int, blur: bool) -> Peer:
    """albumentations on arrays that OpenCV has decoded; its crop does not smooth when it shrinks."""
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    def ranges(kind: Any, p: float, **values: Any) -> Any:
        """Build a transform of albumentations 2.0, or of albumentationsx, which calls ``sigma_limit`` sigma_range."""
        known = signature(kind.__init__).parameters
        renamed = {key: key if key in known else f'{key.removesuffix("_limit")}_range' for key in values}
        return kind(p=p, **{renamed[key]: value for key, value in values.items()})

    cv2.setNumThreads(1)
    change = (0.6, 1.4)
    steps = [
        A.RandomResizedCrop(size=(size, size), scale=SCALE),
        A.HorizontalFlip(p=0.5),
        ranges(A.ColorJitter, 0.8, brightness=change, contrast=change, saturation=change, hue=(-0.1, 0.1)),
        A.ToGray(p=0.2),
        *([ranges(A.GaussianBlur, 0.5, blur_limit=(0, 0), sigma_limit=SIGMA)] if blur else []),
        A.Normalize(MEAN, STD),
        ToTensorV2(),
    ]
    compose = A.Compose(steps)

    def read(item: Any) -> Any:
        pixels: Any = item if isinstance(item, np.ndarray) else cv2.imread(str(item))
        return pixels if pixels is item else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    return read, lambda image: compose(image=image)['image']


def spdl(files: Sequence[Path], size: int, blur: bool, batch_size: int, threads: int) -> Batches:
    """The threads and the decoder (FFmpeg) of ``spdl``, which has no views; so torchvision v2 makes them."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    _, transform = torchvision_v2(size, blur)

    def make(path: Path) -> tuple[Tensor, Tensor]:
        pixels = spdl.io.load_image(str(path), filter_desc='format=rgb24')
        image = spdl.io.to_torch(pixels).permute(2, 0, 1)
        return transform(image), transform(image)

    def stack(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [torch.stack(view) for view in zip(*pairs, strict=True)]

    spdl.io.load_image(str(files[0]))  # raises if FFmpeg's libraries are missing

    class Epoch:
        def __iter__(self) -> Iterator[list[Tensor]]:
            builder = PipelineBuilder().add_source(files).pipe(make, concurrency=threads)
            pipeline = builder.aggregate(batch_size).pipe(stack).add_sink(2).build(num_threads=threads)
            with pipeline.auto_stop():
                yield from pipeline

    return Epoch()


def dali(files: Sequence[Path], size: int, blur: bool, batch_size: int, threads: int) -> Batches:
    """The CPU pipeline of NVIDIA's DALI."""
    from nvidia.dali import fn, pipeline_def, types  # type: ignore[import-not-found, unused-ignore]

    @pipeline_def(
        batch_size=batch_size, num_threads=threads, device_id=None, prefetch_queue_depth=2, enable_conditionals=True
    )
    def define() -> Any:
        data, _ = fn.readers.file(files=[str(path) for path in files], random_shuffle=True)
        image = fn.decoders.image(data, device='cpu')
        views = []
        for _ in range(2):
            view = fn.random_resized_crop(image, size=size, random_area=SCALE, random_aspect_ratio=(3 / 4, 4 / 3))
            if fn.random.coin_flip(probability=0.8, dtype=types.BOOL):
                view = fn.color_twist(
                    view, brightness=fn.random.uniform(range=(0.6, 1.4)), contrast=fn.random.uniform(range=(0.6, 1.4)),
                    saturation=fn.random.uniform(range=(0.6, 1.4)), hue=fn.random.uniform(range=(-36.0, 36.0)),
                )  # fmt: skip
            if fn.random.coin_flip(probability=0.2, dtype=types.BOOL):
                view = fn.hsv(view, saturation=0.0)
            if fn.random.coin_flip(probability=0.5 if blur else 0.0, dtype=types.BOOL):
                view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=SIGMA))
            mean, std = ([255 * value for value in values] for values in (MEAN, STD))
            mirror = fn.random.coin_flip(probability=0.5)
            views.append(fn.crop_mirror_normalize(view, mean=mean, std=std, mirror=mirror, output_layout='CHW'))
        return tuple(views)

    pipeline = define()
    pipeline.build()

    class Epoch:
        def __iter__(self) -> Iterator[list[Tensor]]:
            for _ in range(math.ceil(len(files) / batch_size)):
                yield [torch.from_numpy(view.as_array()) for view in pipeline.run()]

    return Epoch()


PEERS = dict(torchvision=torchvision, torchvision_v2=torchvision_v2, albumentations=albumentations)
ENGINES = dict(spdl=spdl, dali=dali)
