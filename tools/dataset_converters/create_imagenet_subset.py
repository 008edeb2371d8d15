"""Make a data set of some classes of ImageNet, ImageNet-100 by default, of symbolic links to its class folders.

python tools/dataset_converters/create_imagenet_subset.py data/imagenet data/imagenet100
python tools/dataset_converters/create_imagenet_subset.py data/imagenet data/imagenet20 --subset classes.txt

The folders train and val of SOURCE hold a folder for each class; those of TARGET hold the links. Configs of this
project need no such folder: dataset.class_list='imagenet100.txt' reads these classes out of the whole data set. Other
programs do.
"""

import argparse
import os
from collections.abc import Collection
from pathlib import Path

from unmix.apis.command import run_tool
from unmix.datasets.lists import read_list
from unmix.utils.names import few, path_bytes, shown, text

SPLITS = (b'train', b'val')


def create_subset(source: str | Path, target: str | Path, subset: str | Path, force: bool = False) -> list[str]:
    """Link the class folders of a list; nothing is made unless all can be.

    Args:
        source: Folder with ``train`` and ``val``.
        target: Folder that the links go to.
        subset: File with the name of a class in each line (:func:`~unmix.datasets.lists.read_list`).
        force: Replace links that exist.

    Returns:
        Names of the classes.

    Raises:
        FileNotFoundError: If a folder or the list does not exist, or a class has no folder.
        ValueError: If something else is in the way.
    """
    root, goal = os.path.abspath(path_bytes(source)), os.path.abspath(path_bytes(target))
    for split in SPLITS:
        folder = os.path.join(root, split)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'There is no folder {shown(folder)}. SOURCE is the folder with train and val.')

    def find(name: bytes) -> bytes | None:
        single = os.path.basename(name) == name and name not in (b'.', b'..')
        return name if single and any(os.path.isdir(os.path.join(root, split, name)) for split in SPLITS) else None

    classes = [*read_list(subset, '--subset', root, find)]
    for split in SPLITS:
        missing = [name for name in classes if not find(name) or not os.path.isdir(os.path.join(root, split, name))]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of the {len(classes)} classes of {shown(path_bytes(subset))} have no folder in '
                f'{shown(os.path.join(root, split))}: {few(missing)}. Correct the list, or give SOURCE a folder for '
                'each class in both train and val.'
            )
        _check_target(os.path.join(goal, split), classes, force)
    for split in SPLITS:
        os.makedirs(os.path.join(goal, split), exist_ok=True)
        for name in classes:
            link = os.path.join(goal, split, name)
            temporary = os.path.join(goal, split, b'.%s.%d' % (name, os.getpid()))
            os.symlink(os.path.join(root, split, name), temporary, target_is_directory=True)
            os.replace(temporary, link)
    return list(map(text, classes))


def _check_target(folder: bytes, classes: Collection[bytes], force: bool) -> None:
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    solid = [name for name in there if name in classes and not os.path.islink(os.path.join(folder, name))]
    if solid:
        raise ValueError(f'{shown(folder)} has {few(solid)}, which are no links. Give another TARGET, or delete them.')
    links = [name for name in there if name in classes]
    if links and not force:
        raise ValueError(
            f'{shown(folder)} has {len(links)} links of these classes already: {few(links)}. --force replaces them.'
        )
    others = [name for name in there if name not in classes and not name.startswith(b'.')]
    if others:
        raise ValueError(
            f'{shown(folder)} has {few(others)}, which are not in the list and would be further classes. Give another '
            'TARGET, or delete them.'
        )


def main() -> None:
    """Make the links, and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='folder of ImageNet, with train and val')
    parser.add_argument('target', help='folder of the links; it is made')
    parser.add_argument(
        '--subset',
        default='imagenet100.txt',
        metavar='FILE',
        help='names of classes, one in each line (default: imagenet100.txt of this package, the classes of CMC)',
    )
    parser.add_argument('--force', action='store_true', help='replace links that exist')
    args = parser.parse_args()
    classes = create_subset(args.source, args.target, args.subset, args.force)
    print(f'{args.target}: train and val with links to {len(classes)} classes of {args.source}')


if __name__ == '__main__':
    run_tool(main)
