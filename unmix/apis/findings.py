"""From what images are like to what is wrong with a data set."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unmix.datasets.duplicates import equal_groups, near_pairs
from unmix.datasets.examine import FAULTS, KINDS, READABLE
from unmix.datasets.scan import Scan, count
from unmix.utils.names import text

IMBALANCE = 4  # times as many images in the largest class as in the smallest
ODD_SIZE, ODD_SHAPE = 4, 4  # times smaller or larger than the median; times as long as wide
LARGE = 50e6  # pixels
FAR_MEAN, FAR_STD = 1.0, 2.0  # of data_preprocessor: in standard deviations; as a factor
LISTED = 1000  # odd files


@dataclass
class Part:
    """A data set, or a part of one, that is examined.

    Attributes:
        name: 'train', 'test', ...
        role: 'train' or 'test'.
        leaves: Data sets that hold the images.
        leaf: (N,) which of them each image is in.
        row: (N,) its number there.
        labels: (N,) or None.
        classes: Names, or None.
        root: The folder, if it is one.
        exif: Whether photographs are turned upright when they are read.
        listed: Whether the data set itself says which classes there are, as by ``class_list``: of these some may lack
            images to test on. Else they are folders.
        records: (N,) of :data:`unmix.datasets.examine.RECORD`, when they have been examined.
        reasons: Likewise.
    """

    name: str
    role: str
    leaves: Sequence[Any]
    leaf: np.ndarray
    row: np.ndarray
    labels: np.ndarray | None = None
    classes: Sequence[str] | None = None
    root: bytes | None = None
    exif: bool = True
    listed: bool = False
    records: np.ndarray = field(default_factory=lambda: np.empty(0))
    reasons: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    def image(self, index: int) -> str:
        """Return the name of an image."""
        leaf = self.leaves[self.leaf[index]]
        name = leaf.name(int(self.row[index])) if hasattr(leaf, 'name') else ''
        return name or f'image {index}'

    @property
    def readable(self) -> np.ndarray:
        """Numbers of the images that can be read."""
        return np.flatnonzero(np.isin(self.records['fault'], [FAULTS.index(fault) for fault in READABLE]))


@dataclass
class Finding:
    """Something that is wrong, or worth knowing.

    Attributes:
        kind: One word, for programs.
        severity: 'error': it breaks a run or falsifies its results; 'warning'; 'note'.
        part: Name of the part.
        text: What, and what to do.
        images: Names of the images, or pairs of names.
        shown: Numbers of some images in parts, for pictures.
    """

    kind: str
    severity: str
    part: str
    text: str
    images: list[str] = field(default_factory=list)
    shown: list[tuple[str, int]] = field(default_factory=list)


FAULT_TEXTS = {
    'unreadable': 'cannot be read from the disk: change their rights, or restore them',
    'zero_byte': 'are empty files: restore or delete them',
    'no_image': 'are named like images, and are none: delete them',
    'truncated': 'end too early or are damaged, and cannot be decoded: restore or delete them',
    'too_large': 'have more pixels than PIL decodes: make them smaller',
    'other_values': (
        'are whole, but of values that are not read, such as floats, negative or 32-bit numbers: save them with 8 or '
        "16 bits, or set dataset.decoder to 'cv2' or 'tifffile'"
    ),
    'damaged': 'are damaged, and decode with errors in the picture: look at them',
}


def of_part(part: Part, scan: Scan | None) -> Iterator[Finding]:
    """Yield what is wrong with one part."""
    yield from _of_files(part, scan)
    yield from _of_classes(part)
    if len(part.readable):
        yield from _of_pixels(part)


def _some(part: Part, kind: str, severity: str, words: str, rows: Sequence[int] | np.ndarray) -> Iterator[Finding]:
    rows = [int(row) for row in rows]
    if rows:
        names = [
            part.image(row) + (f': {part.reasons[row]}' if row in part.reasons and kind in _REASONED else '')
            for row in rows
        ]
        yield Finding(
            kind, severity, part.name, f'{len(rows)} images {words}.', names, [(part.name, row) for row in rows]
        )


_REASONED = {*FAULT_TEXTS, 'wrong_extension'}


def _of_files(part: Part, scan: Scan | None) -> Iterator[Finding]:
    records = part.records
    for code, fault in enumerate(FAULTS[1:], start=1):
        severity = 'warning' if fault in READABLE else 'error'
        yield from _some(part, fault, severity, FAULT_TEXTS[fault], np.flatnonzero(records['fault'] == code))
    words = 'have the suffix of another format; they are read by their content: rename them'
    yield from _some(part, 'wrong_extension', 'warning', words, np.flatnonzero(records['misnamed']))
    if scan is not None and scan.unreadable:
        names = [text(name) for name in scan.unreadable]
        yield Finding('unreadable_folder', 'error', part.name, f'{len(names)} folders cannot be read.', names)
    if scan is not None and scan.passed:
        words = f'{scan.passed.total()} files or folders are no images and are passed over: {count(scan.passed)}.'
        yield Finding('odd_files', 'note', part.name, words, _odd(scan))


def _odd(scan: Scan) -> list[str]:
    """Return the files below a folder that are no images of a data set, as far as they are files; the first ones."""
    images, found = set(scan.paths()), []
    for place, folders, files in os.walk(scan.root):
        folders.sort()
        below = os.path.relpath(place, scan.root)
        paths = [name if below == b'.' else os.path.join(below, name) for name in sorted(files)]
        found += [text(path) for path in paths if path not in images]
        if len(found) >= LISTED:
            break
    return found[:LISTED]


def _of_classes(part: Part) -> Iterator[Finding]:
    if part.labels is None or part.classes is None:
        return
    counts = np.bincount(part.labels, minlength=len(part.classes))
    absent = [part.classes[number] for number in np.flatnonzero(counts == 0).tolist()]
    if absent:
        words, tested = f'{len(absent)} of {len(part.classes)} classes have no image', part.role == 'test'
        if part.listed:
            words += ' to test on.' if tested else ': add images, or leave these classes out (dataset.class_list).'
        else:
            words += ': delete their folders, or fill them.'
        yield Finding('empty_class', 'note' if part.listed and tested else 'error', part.name, words, absent)
    present = np.flatnonzero(counts)
    if len(present) > 1 and counts[present].max() >= IMBALANCE * counts[present].min():
        most, least = int(counts.argmax()), int(present[counts[present].argmin()])
        words = (
            f'The classes are unequal: {counts[most]} images of {part.classes[most]!r}, {counts[least]} of '
            f'{part.classes[least]!r}. Where labels are trained, a ClassBalancedSampler evens them out.'
        )
        yield Finding('imbalance', 'warning', part.name, words)
    forms: dict[str, list[str]] = defaultdict(list)
    for name in part.classes:
        forms[
            ' '.join(unicodedata.normalize('NFKC', name).casefold().replace('_', ' ').replace('-', ' ').split())
        ].append(name)
    clashes = [' = '.join(map(repr, names)) for names in forms.values() if len(names) > 1]
    if clashes:
        words = f'{len(clashes)} names of classes differ only in case, blanks or forms of letters: are they one class?'
        yield Finding('class_names', 'warning', part.name, words, clashes)


def _of_pixels(part: Part) -> Iterator[Finding]:
    rows, records = part.readable, part.records[part.readable]
    kinds = Counter(records['kind'].tolist())
    if len(kinds) > 1:
        usual = kinds.most_common(1)[0][0]
        listed = ', '.join(f'{number} {KINDS[kind]}' for kind, number in kinds.most_common())
        words = f'have other channels than most ({listed}); all become RGB, and what is transparent is lost'
        yield from _some(part, 'channels', 'warning', words, rows[records['kind'] != usual])
    short = np.minimum(records['width'], records['height']).astype(float)
    long = np.maximum(records['width'], records['height']).astype(float)
    middle, shape = np.median(short), np.median(long / short)
    odd = (short * ODD_SIZE < middle) | (short > ODD_SIZE * middle) | (long > ODD_SHAPE * shape * short)
    words = f'are far smaller, larger or longer than the others, whose shorter side is about {middle:.0f} pixels'
    yield from _some(part, 'sizes', 'warning', words, rows[odd])
    words = f'have more than {LARGE / 1e6:.0f} million pixels, which takes long to decode: dataset.decode_size helps'
    yield from _some(part, 'large', 'warning', words, rows[short * long > LARGE])
    yield from _some(part, 'constant', 'warning', 'are of one colour: delete them', rows[records['constant']])
    words = (
        'are stored turned (EXIF); dataset.exif=True turns them upright'
        if part.exif
        else 'are stored turned (EXIF), and dataset.exif=False leaves them so'
    )
    yield from _some(part, 'exif_rotated', 'note' if part.exif else 'warning', words, rows[records['turned']])


def of_pairs(parts: Sequence[Part]) -> Iterator[Finding]:
    """Yield duplicates within a part, and images that are in a part to train on and in one to test on."""
    if not parts:
        return
    owner = np.concatenate([np.full(len(part.readable), number) for number, part in enumerate(parts)])
    row = np.concatenate([part.readable for part in parts])
    if len(row) == 0:
        return

    def column(name: str, where: np.ndarray | None = None) -> np.ndarray:
        """Return a column of all records, or of some rising positions, without a copy of the whole."""
        where = np.arange(len(row)) if where is None else where
        return np.concatenate(
            [part.records[name][row[where[owner[where] == number]]] for number, part in enumerate(parts)]
        )

    groups = equal_groups(column('digest'))
    # Within each part, and from the first image to train on to those to test on, all pairs with the first one.
    exact: list[tuple[int, int]] = []
    for group in groups:
        for number in np.unique(owner[group]):
            own = group[owner[group] == number]
            exact += [(own[0], other) for other in own[1:]]
        trained = [position for position in group if parts[owner[position]].role == 'train'][:1]
        tested = [position for position in group if parts[owner[position]].role == 'test']
        exact += [(one, other) for one in trained for other in tested]
    first = np.setdiff1d(np.arange(len(row)), np.array([other for group in groups for other in group[1:]], int))
    usable = first[~column('constant', first)]
    sides = np.minimum(column('width', usable), column('height', usable))
    near = usable[near_pairs(column('thumbnail', usable), sides, column('mean', usable))]
    yield from _pairs(parts, owner, row, [(int(a), int(b)) for a, b in exact], 'exact')
    yield from _pairs(parts, owner, row, [(int(a), int(b)) for a, b in near], 'near')


def _pairs(
    parts: Sequence[Part], owner: np.ndarray, row: np.ndarray, pairs: Sequence[tuple[int, int]], degree: str
) -> Iterator[Finding]:
    alike = 'have the same pixels as another' if degree == 'exact' else 'are nearly equal to another'
    kinds: dict[tuple[str, str, str], Finding] = {}
    for a, b in pairs:
        one, other = parts[owner[a]], parts[owner[b]]
        if one.role == other.role and one is not other:  # such as val and test
            continue
        if one is other:
            labels = None if one.labels is None else one.labels[[row[a], row[b]]]
            conflict = degree == 'exact' and labels is not None and labels[0] != labels[1]
            kind, severity = (f'{degree}_duplicates', 'warning') if not conflict else ('conflicting_labels', 'error')
            advice = (
                'and another label: one of them is wrong' if conflict else 'of the same part: delete one of each pair'
            )
        else:
            kind, severity = ('leakage' if degree == 'exact' else 'near_leakage'), 'error'
            advice = 'of the images to train on, so results are too good: take them out of one part'
        where = one.name if one is other else f'{one.name}, {other.name}'
        found = kinds.setdefault((kind, severity, where), Finding(kind, severity, where, f'images {alike} {advice}.'))
        prefixes = ('', '') if one is other else (f'{one.name}: ', f'{other.name}: ')
        found.images.append(f'{prefixes[0]}{one.image(row[a])} = {prefixes[1]}{other.image(row[b])}')
        found.shown += [(one.name, int(row[a])), (other.name, int(row[b]))]
    for found in kinds.values():
        found.text = f'{len(found.images)} {found.text}'
        yield found


def summary(part: Part) -> dict[str, Any]:
    """Return numbers of a part: images, classes, sizes, channels, mean and standard deviation (0 to 255)."""
    records = part.records[part.readable]
    found: dict[str, Any] = dict(images=len(part), readable=len(records))
    if part.classes is not None and part.labels is not None:
        counts = np.bincount(part.labels, minlength=len(part.classes)).tolist()
        found['classes'] = dict(zip(part.classes, counts, strict=False))
    if len(records):
        mean = records['mean'].astype(float).mean(0)
        std = np.sqrt(np.maximum(records['square'].astype(float).mean(0) - mean**2, 0))
        for side in ('width', 'height'):
            found[side] = [int(f(records[side])) for f in (np.min, np.median, np.max)]
        found['channels'] = {KINDS[kind]: number for kind, number in Counter(records['kind'].tolist()).most_common()}
        found |= dict(mean=mean.round(2).tolist(), std=std.round(2).tolist())
    return found


def of_normalisation(part: Part, mean: Any, std: Any) -> Iterator[Finding]:
    """Yield a finding if mean and standard deviation of ``data_preprocessor`` are far from those of the images."""
    measured = summary(part)
    if mean is None or std is None or 'mean' not in measured:
        return
    own, spread = np.array(measured['mean']), np.maximum(measured['std'], 1e-3)
    try:
        given, scale = np.broadcast_to(np.ravel(mean), own.shape), np.broadcast_to(np.ravel(std), own.shape)
    except ValueError:
        return
    far = (np.abs(given - own) > FAR_MEAN * spread).any() or (np.abs(np.log(scale / spread)) > np.log(FAR_STD)).any()
    if far:
        words = (
            f'data_preprocessor has mean {np.ravel(mean).tolist()} and std {np.ravel(std).tolist()}, the images '
            f'{measured["mean"]} and {measured["std"]}, in units of 0 to 255.'
        )
        yield Finding('mean_std', 'warning', part.name, words)
