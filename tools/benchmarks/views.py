"""Two views of each image: our pipelines against those of other libraries, per core, in interleaved rounds.

* ``cifar``: 256 images of 32 px in memory to two normalised float32 batches, without blur.
* ``jpeg224``: JPEG files of 500 x 375 pixels and about 110 kB, as ImageNet's, decoded once each, to two such batches of
  224 px, with blur.

The recipe is MoCo v2's: crop, flip, colour jitter (0.8), grey (0.2), and blur (0.5) for photographs. Ours is a data
set's ``__getitems__`` in one process, which is what a worker of a loader does. The others are those of
``view_peers.py``: torchvision on PIL images, as the released codes have it, torchvision v2 on tensors in 8 bits,
albumentations (``pip install -e '.[bench]'``), and for files, with one thread each, ``spdl`` (which needs FFmpeg's
libraries) and DALI on the CPU, as far as they are installed. The goals are ratios of CPU time on one thread:
``GOAL <name> <ratio> <target> PASS|FAIL``.

With ``--device`` all views end on the device, where ``unmix torch`` makes them of the images in 8 bits.
"""

import io
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Goal, argument_parser, interleave, print_goals
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from view_peers import ENGINES, MEAN, PEERS, SCALE, STD

from unmix.datasets import ArrayDataset, BaseDataset, ImageFolder, SampleKey, collate
from unmix.models import DataPreprocessor

TARGETS = dict(
    cifar=dict(torchvision=60.0, albumentations=20.0),
    jpeg224=dict(torchvision=4.0, torchvision_v2=2.0, albumentations=1.25, spdl=1.0, dali=1.0),
)
NUM_SMALL, NUM_FILES, FILE_SIZE = 256, 16, 110_000
Source = Sequence[np.ndarray] | Sequence[Path]  # (H, W, 3) uint8, or JPEG files
Views = Callable[[], object]
Pairs = Callable[[], list[Tensor]]


def twice(source: Source, transform: Callable[[Any], Tensor], read: Callable[[Any], Any]) -> Pairs:
    """Return a function that makes two batches (N, 3, S, S) of the images, one image after the other."""

    def views() -> list[Tensor]:
        pairs = []
        for item in source:
            image = read(item)
            pairs.append((transform(image), transform(image)))
        return [torch.stack(view) for view in zip(*pairs, strict=True)]

    return views


def recipe(size: int, blur: bool, **kwargs: Any) -> dict[str, Any]:
    """Our pipeline."""
    jitter = dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    transforms: list[dict[str, Any]] = [
        dict(type='RandomResizedCrop', size=size, scale=SCALE),
        dict(type='RandomHorizontalFlip'),
        dict(type='RandomApply', p=0.8, transforms=[jitter]),
        dict(type='RandomGrayscale', p=0.2),
    ]
    if blur:
        transforms.append(dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]))
    mean, std = ([255 * value for value in values] for values in (MEAN, STD))
    return dict(type='MultiView', transforms=transforms, **dict(dict(dtype='float32', mean=mean, std=std), **kwargs))


def crops(num: int, height: int, width: int, seed: int) -> list[np.ndarray]:
    """Random parts of the two photographs of scikit-learn, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    found = []
    for index in range(num):
        photo = photos[index % 2]
        box_width = rng.uniform(0.6, 1.0) * min(photo.width, photo.height * width / height)
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
    print(f'{NUM_FILES} files of {np.mean([path.stat().st_size for path in paths]) / 1000:.0f} kB on average')
    return paths


def ours(dataset: BaseDataset, device: str) -> Views:
    """All images of a data set as a batch, of one epoch after the other, as a sampler asks for them."""
    epochs = cycle([[SampleKey(index, epoch, 0) for index in range(len(dataset))] for epoch in range(64)])
    cast = DataPreprocessor().to(device).cast_data
    return lambda: cast(collate(dataset.__getitems__(next(epochs)))['inputs'])


def to_device(views: Pairs, device: str) -> Views:
    """Move what a function makes to the device."""
    return lambda: [view.to(device) for view in views()]


def all_to_device(epoch: Iterable[Sequence[Tensor]], device: str) -> Views:
    """Move all batches of an epoch to the device."""
    return lambda: [view.to(device) for batch in epoch for view in batch]


def variants(setting: str, names: Sequence[str], folder: str, seed: int, device: str) -> dict[str, Views]:
    """Return our pipelines and those of the named libraries that are installed, by name; all views on the device."""
    found: dict[str, Views] = {}
    source: Source
    if setting == 'cifar':
        source = crops(NUM_SMALL, 32, 32, seed)
        images, size, blur = torch.from_numpy(np.stack(source).transpose(0, 3, 1, 2).copy()), 32, False
        uint8 = recipe(size, blur, backend='numba', dtype='uint8', mean=None, std=None)
        found['unmix numba uint8'] = ours(ArrayDataset(images, None, uint8), device)
    else:
        source, size, blur = write_jpegs(Path(folder), seed), 224, True
    for backend in ('numba', 'torch'):
        pipeline = recipe(size, blur, backend=backend)
        small = setting == 'cifar'
        dataset = ArrayDataset(images, None, pipeline) if small else ImageFolder(folder, pipeline=pipeline)
        found[f'unmix {backend}'] = ours(dataset, device)
    for name in names:
        if name in ENGINES and setting == 'cifar':
            continue  # they read files
        try:
            if name in PEERS:
                read, transform = PEERS[name](size, blur)
                found[name] = to_device(twice(source, transform, read), device)
            else:
                epoch = ENGINES[name](source, size, blur, NUM_FILES, 1)
                found[name] = all_to_device(epoch, device)
        except (ImportError, RuntimeError) as error:  # RuntimeError: a library of theirs is missing
            print(f"{name} is left out ({' '.join(str(error).split())[:160]}); pip install -e '.[bench]'")
    return found


def main() -> None:
    """Measure, print the tables and the goals."""
    parser = argument_parser(__doc__, rounds=7)
    parser.add_argument('--only', choices=list(TARGETS), help='one of the two settings')
    every = [*PEERS, *ENGINES]
    parser.add_argument('--peers', nargs='+', choices=every, default=every, help='of these (default all)')
    parser.add_argument('--min-seconds', type=float, default=1.0, help='length of a turn (default 1)')
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    goals, report = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in [args.only] if args.only else TARGETS:
            forms = variants(setting, args.peers, folder, args.seed, args.device)
            times = interleave(forms, args.rounds, args.threads, args.min_seconds, args.seed, args.device)
            times.print(args.peers[0], f'views_{setting}, two views')
            report[setting] = times.seconds
            goals += [
                Goal(f'views_{setting}_{peer}', times.ratio(peer, 'unmix numba').median, target)
                for peer, target in TARGETS[setting].items()
                if peer in forms
            ]
    print_goals(goals, args.json, seconds=report)


if __name__ == '__main__':
    main()
