"""A look at a folder of images before a training: number, classes, sizes, channels, broken files."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unmix.datasets.decode import decode_image
from unmix.datasets.folder import ImageFolder
from unmix.utils.names import path_bytes, text
from unmix.utils.rng import generator

SAMPLE, WHOLE = 2000, 200  # files whose header is read, and of these, files that are read as a whole
THUMBNAIL, MIDDLE = 40, slice(8, 32)  # side of the images that are compared, in pixels, and the middle of it
COMPARED = 8  # side at which they are compared
LEAST_COMPARED = 100  # images, from which on a share tells something
COPY = 0.02  # of the median distance of two images: below it one is taken for a copy of the other
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
        mirrored: Share of the images that are less like the others when they are mirrored, see :func:`estranged`; None
            if it is not known.
        cropped: The same of the middle of the images, three fifths of each side.
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
    mirrored: float | None = None
    cropped: float | None = None

    @property
    def grey(self) -> bool:
        """Return whether all images of the sample are grey."""
        return all(mode[0] in 'L1IF' for mode, _ in self.modes)


def survey(folder: str | Path) -> Facts:
    """Look at the images below a folder.

    A folder that holds ``train`` and ``val`` (or ``valid``, ``validation``, ``test``), and no other images, is divided
    already. Sizes are those of 2,000 images, drawn by a fixed seed, of which the first 200 are read as a whole, and
    compared with each other.

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
    thumbnails: list[Tensor] = []
    for place, row in enumerate(rows):
        path = os.path.join(dataset.root, dataset.paths[row])
        try:
            with Image.open(path) as image:
                size, mode = image.size, image.mode
            if place < WHOLE:
                thumbnails.append(adaptive_avg_pool2d(decode_image(path).float(), THUMBNAIL))
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
        mirrored=_share(thumbnails, lambda image: image.flip(-1)),
        cropped=_share(thumbnails, _middle),
    )


def estranged(images: Tensor, changed: Tensor) -> float | None:
    """Return the share of images (N, D) that a change, to ``changed`` (N, D), makes less like the others.

    An image is compared by its distance to the nearest other image, and after the change by that to the nearest image
    other than itself. If the change keeps images among their like, the second is the larger one for about a half of
    them: so it is with photographs and their mirror images. Mirror images of letters have a larger share. Images
    with a copy among the others, whose second distance is always the larger one, are left out, as are those that the
    change keeps as near as they were.

    Returns:
        The share; None if it is of fewer than 100 images.
    """
    if len(images) < LEAST_COMPARED:
        return None
    others = ~torch.eye(len(images), dtype=torch.bool)
    distances = _distances(images, images)
    before = distances.where(others, torch.inf).amin(1)
    after = _distances(changed, images).where(others, torch.inf).amin(1)
    kept = (before > COPY * distances[others].median()) & (before != after)
    return float((after > before)[kept].float().mean()) if kept.sum() >= LEAST_COMPARED else None


def _share(thumbnails: list[Tensor], change: Callable[[Tensor], Tensor]) -> float | None:
    def flat(images: Tensor) -> Tensor:
        return adaptive_avg_pool2d(images, COMPARED).flatten(1)

    if not thumbnails:
        return None
    images = torch.stack(thumbnails)
    return estranged(flat(images), flat(change(images)))


def _middle(images: Tensor) -> Tensor:
    return images[..., MIDDLE, MIDDLE]


def _distances(first: Tensor, second: Tensor) -> Tensor:
    return torch.cdist(first, second, compute_mode='donot_use_mm_for_euclid_dist')


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
