"""Write lists of some images of each class, to train a classifier on few labels: Subset(files=LIST) reads them.

python tools/dataset_converters/make_semi_lists.py data/imagenet/train lists
python tools/dataset_converters/make_semi_lists.py data/imagenet/train lists --per-class 5 20 --seed 1
python tools/dataset_converters/make_semi_lists.py data/imagenet/train lists --files simclr/1percent.txt

A list has the path of an image below DATA in each line. Without options there are two, 1 % and 10 % of each class,
rounded up: lists/1percent.txt and lists/10percent.txt. With the same seed, a smaller list is a part of a larger one.
--files takes a published list, such as those of SimCLR, which have names without folders, checks it, and writes it with
paths.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from unmix.apis.command import run_tool
from unmix.datasets import ImageFolder, Subset
from unmix.utils.files import atomic_path
from unmix.utils.names import path_bytes, shown, text


def write_list(dataset: ImageFolder, path: Path, overwrite: bool, **choice: Any) -> int:
    """Write the paths of a part of a data set, sorted as the data set is.

    Args:
        dataset: The data set.
        path: The list.
        overwrite: Replace a list that differs.
        **choice: Of :class:`~unmix.datasets.Subset`.

    Returns:
        The number of images.

    Raises:
        ValueError: If there is another list, or ``choice`` does not fit.
    """
    paths: list[bytes] = Subset(dataset, **choice).paths.tolist()
    end = b'\0' if any(b'\n' in name for name in paths) else b'\n'
    content = b''.join(name + end for name in paths)
    if os.path.lexists(path) and not overwrite and path.read_bytes() != content:
        raise ValueError(f'{path} exists, and is another list. Give another folder, or --overwrite.')
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
        if Subset(dataset, files=temporary).paths.tolist() != paths:
            raise ValueError(f'{path} cannot hold the names of these images: rename those with unusual characters.')
    return len(paths)


def main() -> None:
    """Write the lists, and say which."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', help='folder or archive with a folder for each class')
    parser.add_argument('out', help='folder of the lists; it is made')
    parser.add_argument('--share', type=float, nargs='+', default=[], help='shares of each class, such as 0.01')
    parser.add_argument('--per-class', type=int, nargs='+', default=[], help='numbers of images of each class')
    parser.add_argument('--files', nargs='+', default=[], metavar='LIST', help='published lists')
    parser.add_argument('--seed', type=int, default=0, help='which images are drawn (default: 0)')
    parser.add_argument('--overwrite', action='store_true', help='replace lists that exist')
    args = parser.parse_args()
    dataset = ImageFolder(args.data, labelled=True)
    out = Path(text(path_bytes(args.out)))
    if not args.share and not args.per_class and not args.files:
        args.share = [0.01, 0.1]
    choices: list[tuple[str, dict[str, Any]]] = [
        *((f'{100 * share:.6g}percent.txt', dict(share=share, seed=args.seed)) for share in args.share),
        *((f'{number}perclass.txt', dict(per_class=number, seed=args.seed)) for number in args.per_class),
        *((os.path.basename(name), dict(files=name)) for name in args.files),
    ]
    for name, choice in choices:
        number = write_list(dataset, out / name, args.overwrite, **choice)
        print(f'{shown(out / name)}: {number} of {len(dataset)} images')


if __name__ == '__main__':
    run_tool(main)
