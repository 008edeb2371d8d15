"""Train by ``unmix train --data`` on small folders of real images, and compare with raw pixels and random weights.

    python tools/benchmarks/folders.py --seeds 3 --minutes 20

The data sets come with packages; nothing is downloaded:

* ``digits``: scikit-learn's 1,797 digits of 8x8, the last 540, of other writers, to test on;
* ``photos``: crops of 64 px out of the pictures in scikit-image and scikit-learn, every fourth to test on; a label is
  the picture that a crop is of;
* ``fashion``: the 10,000 test images of Fashion-MNIST, where Debian's ``dataset-fashion-mnist`` or torchvision has put
  them, every fifth to test on.

A cell of the table is the mean and the values of all seeds. Finished runs in --work-dir are not repeated. Choices are
made with --choose, which trains on four fifths of the images to train on, and tests on the last fifth of them.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from unmix.datasets import FashionMNIST

TRAIN = Path(__file__).resolve().parents[1] / 'train.py'
# Pictures of scenes, animals, textures and pages; the others of scikit-image are drawings, or tiny.
PICTURES = (
    *('astronaut', 'brick', 'camera', 'cell', 'chelsea', 'coffee', 'coins', 'grass', 'gravel', 'hubble_deep_field'),
    *('ihc', 'moon', 'motorcycle_left', 'page', 'retina', 'rocket', 'text'),
)
SIDE, LARGEST = 64, 384  # of a crop, and of the shorter side of a picture of more than twice that
METRICS = {'knn': 'kNN', 'linear': 'linear'}
ROWS = {'raw_pixels_top1': 'raw pixels', 'random_init_top1': 'random initialisation', 'top1': 'trained'}
Labelled = tuple[str, str, str, Image.Image]  # part, class, name, image


def digits() -> Iterator[Labelled]:
    """Yield scikit-learn's digits."""
    data = load_digits()
    for i, (pixels, label) in enumerate(zip(data.images, data.target, strict=True)):
        part = 'train' if i < 1257 else 'val'
        yield part, str(label), f'{i:04d}', Image.fromarray((pixels * 255 / 16).round().astype(np.uint8))


def photos() -> Iterator[Labelled]:
    """Yield crops of pictures."""
    found = importlib.util.find_spec('skimage')
    pictures: dict[str, Image.Image] = {}
    if found is not None and found.origin is not None:
        for name in PICTURES:
            (path,) = Path(found.origin).with_name('data').glob(f'{name}.*')
            pictures[name] = Image.open(path).convert('RGB')
    samples = load_sample_images()
    pictures |= {
        Path(name).stem: Image.fromarray(image) for name, image in zip(samples.filenames, samples.images, strict=True)
    }
    for name, picture in pictures.items():
        shorter = min(picture.size)
        if shorter > 2 * LARGEST:
            picture = picture.resize((picture.width * LARGEST // shorter, picture.height * LARGEST // shorter))
        for top in range(0, picture.height - SIDE + 1, SIDE):
            for left in range(0, picture.width - SIDE + 1, SIDE):
                part = 'train' if (top + left) // SIDE % 4 else 'val'
                yield part, name, f'{top}_{left}', picture.crop((left, top, left + SIDE, top + SIDE))


def fashion() -> Iterator[Labelled]:
    """Yield the test images of Fashion-MNIST."""
    data = FashionMNIST(split='test')
    for i in range(len(data)):
        image, label = data.load(i)
        pixels = torch.as_tensor(np.asarray(image))
        yield 'train' if i % 5 else 'val', str(label), f'{i:05d}', Image.fromarray(pixels.reshape(28, 28).numpy())


SETS: dict[str, Callable[[], Iterator[Labelled]]] = dict(digits=digits, photos=photos, fashion=fashion)


def write(name: str, folder: Path) -> Path:
    """Write a data set as PNGs in folders, if it is not there."""
    if not (folder / '.complete').is_file():
        for part, label, stem, image in SETS[name]():
            place = folder / part / label
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f'{stem}.png')
        (folder / '.complete').touch()
    return folder


def train(folder: Path, work_dir: Path, seed: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train with a seed; return the results, with the seconds that it took."""
    done = work_dir / 'seconds.json'
    if not done.is_file():
        options = [f'randomness.seed={seed}', *args.cfg_options]
        command = [sys.executable, str(TRAIN), '--data', str(folder), '--out', str(work_dir), '--overwrite']
        command += ['--method', args.method, '--mixture', args.mixture, '--cfg-options', *options]
        command += [] if args.minutes is None else ['--minutes', str(args.minutes)]
        begin = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL if args.quiet else None)
        done.write_text(json.dumps(time.monotonic() - begin), encoding='utf-8')
    results: dict[str, dict[str, float]] = json.loads((work_dir / 'results.json').read_text(encoding='utf-8'))
    return results


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sets', nargs='+', choices=SETS, default=list(SETS))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--minutes', type=float, help='of a run (default: as the plan has it)')
    parser.add_argument('--method', default='simclr')
    parser.add_argument('--mixture', default='both')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/folders'))
    parser.add_argument('--choose', action='store_true', help='test on a fifth of the images to train on')
    parser.add_argument('--quiet', action='store_true', help='do not print the runs')
    args = parser.parse_args()
    print(f'PyTorch {torch.__version__}, {os.cpu_count()} CPU cores; {args.method}, mixture {args.mixture}')
    print('| data | features | n | ' + ' | '.join(METRICS.values()) + ' |\n|---|---|---|' + '---|' * len(METRICS))
    for name in args.sets:
        folder = write(name, args.work_dir / 'data' / name) / ('train' if args.choose else '')
        runs = [train(folder, args.work_dir / f'{name}_{seed}', seed, args) for seed in range(args.seeds)]
        for key, row in ROWS.items():
            cells = []
            for metric in METRICS:
                values = np.array([run[metric][key] for run in runs])
                each = '' if key == 'raw_pixels_top1' else f' ({", ".join(f"{value:.1f}" for value in values)})'
                cells.append(f'{values.mean():.1f}{each}')
            print(f'| {name} | {row} | {args.seeds} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
