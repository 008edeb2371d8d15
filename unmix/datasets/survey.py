"""A look at a folder of images before a training: number, classes, sizes, channels, broken files."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unmix.datasets.decode import decode_image
from unmix.datasets.folder import ImageFolder
from unmix.utils.names import path_bytes, text
from unmix.utils.rng import generator

SAMPLE, WHOLE = 2000, 200  # files whose header is read, and of these, files that are read as a whole
TRAIN, TESTED = 'train', ('val', 'valid', 'validation', 'test')  # names of the two parts of a folder


@dataclass(frozen=True)
class Facts:
    """What a training needs to know about a folder of images.

    Attributes:
        images: Number of images to train on, and to hold out of them.
        classes: Number of images of each class; empty without labels.
        side: Median of the shorter sides of a sample of the images, in pixels.
        smallest: The shortest side of the sample.
        largest: The longest side of the sample.
        modes: Images of the sample by the mode that PIL gives them: L is grey, RGB is colour.
        broken: Files of the sample that cannot be read, below ``root``.
        root: Folder of the images to train on.
        tested: Folder of the images to test on, of the same classes; None: some are held out.
    """

    images: int
    classes: tuple[int, ...] = ()
    side: int = 256
    smallest: int = 256
    largest: int = 256
    modes: tuple[tuple[str, int], ...] = (('RGB', 1),)
    broken: tuple[str, ...] = ()
    root: str = 'data/images'
    tested: str | None = None

    @property
    def grey(self) -> bool:
        """Return whether all images of the sample are grey."""
        return all(mode[0] in 'L1IF' for mode, _ in self.modes)


def survey(folder: str | Path) -> Facts:
    """Look at the images below a folder.

    A folder that holds ``train`` and ``val`` (or ``valid``, ``validation``, ``test``), and no other images, is divided
    already. Sizes are those of 2,000 images, drawn by a fixed seed, of which the first 200 are read as a whole.

    Raises:
        FileNotFoundError: If there is no folder, or no image.
        ValueError: If the folder, or no image of the sample, can be read.
    """
    root, tested = _parts(folder)
    dataset = _read(root)
    tested = tested if tested is not None and dataset.classes is not None and _same_classes(dataset, tested) else None
    if tested is None and root != str(folder):
        root, dataset = str(folder), _read(folder, False)
    number = len(dataset)
    rows = generator('survey').permutation(number)[:SAMPLE].tolist()
    sides: list[tuple[int, int]] = []
    modes: Counter[str] = Counter()
    broken: list[str] = []
    for place, row in enumerate(rows):
        path = os.path.join(dataset.root, dataset.paths[row])
        try:
            with Image.open(path) as image:
                size, mode = image.size, image.mode
            if place < WHOLE:
                decode_image(path)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
            broken.append(text(dataset.paths[row]))
            continue
        sides.append((min(size), max(size)))
        modes[mode] += 1
    if not sides:
        raise ValueError(f'--data {root}: none of {len(rows)} images can be read, e.g. {broken[0]}.')
    short = np.array(sides)
    labels = None if dataset.labels is None else dataset.labels.numpy()
    return Facts(
        images=number,
        classes=() if labels is None else tuple(np.bincount(labels, minlength=len(dataset.classes or ())).tolist()),
        side=int(np.median(short[:, 0])),
        smallest=int(short[:, 0].min()),
        largest=int(short[:, 1].max()),
        modes=tuple(modes.most_common()),
        broken=tuple(sorted(broken)),
        root=root,
        tested=tested,
    )


def _read(folder: str | Path, labelled: bool | None = None) -> ImageFolder:
    """Return the images below a folder; without labels if a sub-folder has no images, so that it is no class."""
    try:
        return ImageFolder(folder, labelled)
    except FileNotFoundError:
        return ImageFolder(folder, labelled=False)


def _parts(folder: str | Path) -> tuple[str, str | None]:
    """Return the folders to train on and to test on, if a folder has these two and no other data; else itself, None."""
    root = path_bytes(folder)
    try:
        names = [
            text(name) for name in os.listdir(root) if name[:1] != b'.' and os.path.isdir(os.path.join(root, name))
        ]
    except OSError:
        return str(folder), None
    tested = [name for name in TESTED if name in names]
    if TRAIN not in names or not tested or set(names) - {TRAIN, *TESTED}:
        return str(folder), None
    return str(Path(folder, TRAIN)), str(Path(folder, tested[0]))


def _same_classes(dataset: Any, tested: str) -> bool:
    """Return whether the classes of the images to test on are among those of a data set."""
    other: Sequence[str] = _read(tested).classes or ()
    return len(other) > 0 and set(other) <= set(dataset.classes or ())
