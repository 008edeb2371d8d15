"""A look at a folder of images before a training: number, classes, sizes, channels, broken files."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unmix.datasets.decode import decode_image, readable_suffixes
from unmix.datasets.folder import ImageFolder
from unmix.datasets.scan import HIDDEN, SYSTEM
from unmix.utils.names import few, path_bytes, shown, text
from unmix.utils.rng import generator

SAMPLE, WHOLE = 2000, 200  # files whose header is read, and of these, files that are read as a whole
THUMBNAIL, MIDDLE = 40, slice(8, 32)  # side of the images that are compared, in pixels, and the middle of it
COMPARED = 8  # side at which they are compared
LEAST_COMPARED = 100  # images, from which on a share tells something
COPY = 0.02  # of the median distance of two images: below it one is taken for a copy of the other
TRAIN = ('train', 'training')  # names of the part of a folder to train on, in lower case, and of that to test on
TESTED = ('val', 'valid', 'validation', 'test', 'testing')


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
        notes: Sentences about what of the folder is not used.
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
    notes: tuple[str, ...] = ()

    @property
    def grey(self) -> bool:
        """Return whether all images of the sample are grey."""
        return all(mode[0] in 'L1IF' for mode, _ in self.modes)


def survey(folder: str | Path, labelled: bool | None = None, class_list: str | None = None) -> Facts:
    """Look at the images below a folder.

    A folder that holds ``train`` (or ``training``) and ``val`` (or ``valid``, ``validation``, ``test``, ``testing``),
    in upper or lower case, is divided already: what else it holds is not used, and a note says so. Sizes are those of
    2,000 images, drawn by a fixed seed, of which the first 200 are read as a whole, and compared with each other.

    Args:
        folder: The folder.
        labelled: As for :class:`ImageFolder`.
        class_list: As for :class:`ImageFolder`.

    Raises:
        FileNotFoundError: If there is no folder, or no image.
        ValueError: If it is no folder, or the folder, or no image of the sample, can be read.
    """
    if os.path.isfile(path_bytes(folder)):
        raise ValueError(
            f'--data is the file {shown(folder)}; expected a folder of images. Unpack an archive, or train on it by a '
            'config of your own, as docs/custom_data.md shows.'
        )
    root, tested, notes = divided(folder)
    dataset = _read(root, labelled, class_list)
    if tested is not None and (reason := _unfit(dataset, tested, class_list is not None)):
        notes.append(f'{shown(tested)} is not tested on: {reason}')
        tested = None
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
        notes=tuple(notes),
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


def _read(folder: str, labelled: bool | None, class_list: str | None) -> ImageFolder:
    """Return the images below a folder; without labels if a sub-folder has no images, so that it is no class."""
    try:
        return ImageFolder(folder, labelled, class_list)
    except FileNotFoundError:
        if labelled is not None or class_list is not None:
            raise
        return ImageFolder(folder, labelled=False)


def divided(folder: str | Path) -> tuple[str, str | None, list[str]]:
    """Return the folders to train on and to test on, if a folder has these two, else itself and None; and notes.

    The notes are sentences about what else it has, which belongs to neither.
    """
    root = path_bytes(folder)
    try:
        names = [name for name in os.listdir(root) if name[0] != HIDDEN and name.lower() not in SYSTEM]
    except OSError:
        return str(folder), None, []
    parts = {text(name).lower(): text(name) for name in names if os.path.isdir(os.path.join(root, name))}
    train, tested = (next((parts[name] for name in known if name in parts), None) for known in (TRAIN, TESTED))
    if train is None or tested is None:
        return str(folder), None, []
    suffixes = tuple(readable_suffixes())
    others = [name for name in parts.values() if name not in (train, tested)]
    others += [text(name) for name in names if text(name).lower().endswith(suffixes)]
    notes = [f'{shown(folder)} has {train} and {tested}, so {few(sorted(others))} beside them is not used.'] * bool(
        others
    )
    return str(Path(folder, train)), str(Path(folder, tested)), notes


def _unfit(dataset: ImageFolder, tested: str, listed: bool) -> str | None:
    """Return why a folder is none to test the classes of a data set on, as a sentence; None if it is one.

    ``listed``: a list says which classes are read, so the folder may have others.
    """
    try:
        paths = ImageFolder(tested, labelled=False).paths.tolist()
    except FileNotFoundError:
        return 'it has no images.'
    classes = {text(path.split(b'/')[0]) for path in paths if b'/' in path}
    known = set(dataset.classes or ())
    if dataset.classes is None:
        return 'the images to train on are in no class folders.'
    if not classes & known:
        return 'its images are in no folders of their classes.'
    unknown = sorted(classes - known)
    return f'it has classes that the images to train on lack, {few(unknown)}.' if unknown and not listed else None
