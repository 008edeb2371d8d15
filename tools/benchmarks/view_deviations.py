"""Differences of our views from torchvision's on PIL images, with the same parameters, in grey levels (0 to 255).

For each operation and for MoCo v2's recipe: the means of the absolute and of the signed differences, the 99.9th
percentile and the maximum of the absolute ones, over 500 images. Half of the images are parts of photographs, half are
smoothed noise of any colour. They have 60 to 220 pixels a side and are cropped to 64 pixels. Each operation follows a
crop, so its line includes that of the crop. The last column compares numba and torch. ``decode_size`` compares views of
96 pixels from JPEGs decoded at half their size with those of the whole.
"""

import argparse
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from unmix.datasets import SampleKey, decode
from unmix.datasets.transforms import MultiView

JITTER = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
BLUR = dict(type='PILGaussianBlur', sigma=(0.1, 2.0))


def crop(size: int = 64, interpolation: str = 'bilinear') -> dict[str, Any]:
    """The crop before each operation."""
    return dict(type='RandomResizedCrop', size=size, scale=(0.2, 1.0), interpolation=interpolation)


OPERATIONS: dict[str, list[dict[str, Any]]] = {
    'crop, bilinear': [crop()],
    'crop, bicubic': [crop(interpolation='bicubic')],
    'flip': [crop(), dict(type='RandomHorizontalFlip', p=1.0)],
    'resize and central crop': [dict(type='Resize', size=80), dict(type='CenterCrop', size=64)],
    **{f'{name} {value}': [crop(), dict(type='ColorJitter', **{name: value})] for name, value in JITTER.items()},
    'grey': [crop(), dict(type='RandomGrayscale', p=1.0)],
    'solarize': [crop(), dict(type='RandomSolarize', threshold=128, p=1.0)],
    'blur': [crop(), BLUR],
    'MoCo v2': [
        crop(),
        dict(type='RandomApply', p=0.8, transforms=[dict(type='ColorJitter', **JITTER)]),
        dict(type='RandomGrayscale', p=0.2),
        dict(type='RandomApply', p=0.5, transforms=[BLUR]),
        dict(type='RandomHorizontalFlip', p=0.5),
    ],
}


def make_images(num: int) -> list[Tensor]:
    """Parts of photographs and smoothed noise, in turns, (3, H, W)."""
    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    images = []
    for n in range(num):
        height, width = rng.integers(60, 221, 2)
        if n % 2:
            y, x = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
            pixels = photos[n // 2 % 2][y : y + height, x : x + width]
        else:
            noise = rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
            pixels = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
        images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    return images


def make_views(images: list[Tensor], transforms: list[dict[str, Any]], backend: str, device: str = 'cpu') -> Tensor:
    """One view of each image."""
    dtype = 'uint8' if backend == 'pil' else 'float32'
    pipeline = MultiView(transforms, 1, backend=backend, dtype=dtype)
    images = [image.to(device) for image in images]
    views: Tensor = pipeline.batch(images, [SampleKey(n) for n in range(len(images))])[0]
    return views.cpu().double()


def line(name: str, found: Tensor, expected: Tensor, other: Tensor | None = None) -> None:
    """Print the differences."""
    signed = found - expected
    levels = signed.abs().flatten()
    tail = levels.kthvalue(int(0.999 * len(levels))).values
    between = '' if other is None else f'{(found - other).abs().max():12.1e}'
    print(f'{name:26}{levels.mean():8.2f}{signed.mean():8.2f}{tail:8.1f}{levels.max():8.1f}{between}')


def decoding(images: int) -> None:
    """Views from JPEGs decoded at half their size."""
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for n in range(images):
        photo = load_sample_images().images[n % 2]
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, 'JPEG', quality=90)
        pipeline = MultiView([crop(96)], 1, dtype='float32')
        for least, views in ((200, found), (None, expected)):
            pixels = decode._decode_jpeg(buffer.getvalue(), least)
            views.append(pipeline(torch.from_numpy(pixels).permute(2, 0, 1), SampleKey(n))[0].double())
    line('decode_size, 320 of 640', torch.stack(found), torch.stack(expected))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=500)
    parser.add_argument('--device', default='cpu', help='where torch makes its views, as cuda (default cpu)')
    args = parser.parse_args()
    images = make_images(args.images)
    print(f'{str(args.images) + " images":26}{"mean":>8}{"signed":>8}{"99.9 %":>8}{"max":>8}{"numba-torch":>12}')
    for name, transforms in OPERATIONS.items():
        numba, pil = (make_views(images, transforms, backend) for backend in ('numba', 'pil'))
        torch_ = make_views(images, transforms, 'torch', args.device)
        line(name, numba, pil, torch_)
    decoding(40)


if __name__ == '__main__':
    main()
