"""Two views of each image: our pipelines against other libraries', per core, in interleaved rounds.

* ``cifar``: 256 images of 32 px in memory to two normalised float32 batches, without blur.
* ``jpeg224``: JPEG files of 500 x 375 pixels and about 110 kB, as ImageNet's, decoded once each, to two such batches of
  224 px, with blur.

Ours are a data set's ``__getitems__`` in one process: what a worker of a loader does. The goals are ratios of CPU time
on one thread: ``GOAL <name> <ratio> <target> PASS|FAIL``. The other libraries: ``pip install -e '.[bench]'``.
"""

import io
import os
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')  # it would ask the network for a newer version

import cv2
import numpy as np
import torch
import view_peers
from measure import Goal, argument_parser, interleave, print_goals
from PIL import Image
from sklearn.datasets import load_sample_images

from unmix.datasets import ArrayDataset, BaseDataset, ImageFolder, SampleKey

TARGETS = dict(cifar=dict(torchvision=60.0, albumentations=20.0), jpeg224=dict(torchvision=4.0, albumentations=1.25))
PEERS = dict(
    torchvision=view_peers.torchvision_pil,
    albumentations=view_peers.albumentations,
    lightly=view_peers.lightly,
    kornia=view_peers.kornia,
)
NUM_SMALL, NUM_FILES, FILE_SIZE = 256, 16, 110_000


def recipe(size: int, blur: bool, **kwargs: Any) -> dict[str, Any]:
    """Our pipeline."""
    jitter = dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    transforms = [
        dict(type='RandomResizedCrop', size=size, scale=view_peers.SCALE),
        dict(type='RandomHorizontalFlip'),
        dict(type='RandomApply', p=0.8, transforms=[jitter]),
        dict(type='RandomGrayscale', p=0.2),
    ]
    if blur:
        transforms.append(dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]))
    mean, std = ([255 * value for value in values] for values in (view_peers.MEAN, view_peers.STD))
    return dict(type='MultiView', transforms=transforms, **dict(dict(dtype='float32', mean=mean, std=std), **kwargs))


def crops(num: int, height: int, width: int, seed: int) -> list[np.ndarray]:
    """Random parts of the two photographs of scikit-learn, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    found = []
    for index in range(num):
        photo = photos[index % 2]
        side = rng.uniform(0.6, 1.0)
        box_width = side * min(photo.width, photo.height * width / height)
        box_height = box_width * height / width
        x, y = rng.uniform(0, photo.width - box_width), rng.uniform(0, photo.height - box_height)
        box = (x, y, x + box_width, y + box_height)
        found.append(np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box)))
    return found


def write_jpegs(folder: Path, seed: int) -> list[Path]:
    """Write photographs of 500 x 375 pixels, each of the quality that comes closest to ``FILE_SIZE``."""
    paths = []
    for index, image in enumerate(crops(NUM_FILES, 375, 500, seed)):
        files = []
        for quality in range(70, 101, 2):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, 'JPEG', quality=quality)
            files.append(buffer.getvalue())
        paths.append(folder / f'{index}.jpg')
        paths[-1].write_bytes(min(files, key=lambda data: abs(len(data) - FILE_SIZE)))
    return paths


def ours(dataset: BaseDataset) -> Callable[[], object]:
    """All images of a data set as a batch, of one epoch after the other, as a sampler asks for them."""
    epochs = cycle([[SampleKey(index, epoch, 0) for index in range(len(dataset))] for epoch in range(64)])
    return lambda: dataset.__getitems__(next(epochs))['inputs']


def peers(names: list[str], source: view_peers.Source, size: int, blur: bool) -> dict[str, Callable[[], object]]:
    """The other libraries, as far as they are installed."""
    found = {}
    for name in names:
        try:
            found[name] = PEERS[name](source, size, blur)
        except ImportError as error:
            print(f"{name} is left out ({error}); pip install -e '.[bench]'")
    return found


def main() -> None:
    """Measure, print the tables and the goals."""
    parser = argument_parser(__doc__, rounds=7)
    parser.add_argument('--only', choices=list(TARGETS), help='one of the two settings')
    parser.add_argument('--peers', nargs='+', choices=list(PEERS), default=list(PEERS), help='of these (default all)')
    parser.add_argument('--min-seconds', type=float, default=1.0, help='length of a turn (default 1)')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    goals, report = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in [args.only] if args.only else TARGETS:
            variants: dict[str, Callable[[], object]] = {}
            if setting == 'cifar':
                small = crops(NUM_SMALL, 32, 32, args.seed)
                images = torch.from_numpy(np.stack(small).transpose(0, 3, 1, 2).copy())
                for backend in ('numba', 'torch'):
                    variants[f'unmix {backend}'] = ours(ArrayDataset(images, None, recipe(32, False, backend=backend)))
                uint8 = recipe(32, False, backend='numba', dtype='uint8', mean=None, std=None)
                variants['unmix numba uint8'] = ours(ArrayDataset(images, None, uint8))
                variants |= peers(args.peers, small, 32, False)
            else:
                paths = write_jpegs(Path(folder), args.seed)
                print(
                    f'{NUM_FILES} files of {np.mean([path.stat().st_size for path in paths]) / 1000:.0f} kB on average'
                )
                for backend in ('numba', 'torch'):
                    variants[f'unmix {backend}'] = ours(
                        ImageFolder(folder, pipeline=recipe(224, True, backend=backend))
                    )
                variants |= peers(args.peers, paths, 224, True)
            times = interleave(variants, args.rounds, args.threads, args.min_seconds, args.seed)
            times.print(args.peers[0], f'views_{setting}, two views')
            report[setting] = times.to_dict()
            goals += [
                Goal(f'views_{setting}_{peer}', times.ratio(peer, 'unmix numba', args.threads[0]).median, target)
                for peer, target in TARGETS[setting].items()
                if peer in variants
            ]
    print_goals(goals, args.json, seconds=report)


if __name__ == '__main__':
    main()
