"""The command that writes features to a file."""

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmix.apis.features import extract_features
from unmix.utils.files import atomic_path

SUFFIXES = ('.npz', '.parquet')
DESCRIPTION = """Write the features of all images below a folder to a file.

%(prog)s unmix-moco_digits images/ --out features.npz
%(prog)s work_dirs/NAME/epoch_200.pth images/ --config moco/NAME --out features.parquet

The file holds paths, features and, where sub-folders are classes, labels and classes; images are prepared as the config
prepares those that it evaluates on.
"""


def features(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command; ``prog`` is its name in messages.

    Raises:
        OSError: If a file does not exist, or the result cannot be written.
        ValueError: As :func:`extract_features` and :func:`check_format`.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help="a model of the zoo ('unmix list --pretrained'), or a checkpoint")
    parser.add_argument('folder', help='images at any depth; two or more sub-folders are classes')
    parser.add_argument('--out', required=True, metavar='FILE', help='.npz or .parquet')
    parser.add_argument('--config', help='of a checkpoint: path, or name of one of this project')
    parser.add_argument('--stage', choices=['backbone', 'neck'], help="default: as in the config's evaluation")
    parser.add_argument('--size', type=int, help='side of the centre crop (default: as in the config)')
    parser.add_argument('--batch-size', type=int, help='default: as in the config')
    parser.add_argument('--num-workers', type=int, help='default: as in the config')
    parser.add_argument('--device', help='default: a GPU if there is one')
    args = vars(parser.parse_args(arguments))
    out = Path(args.pop('out'))
    check_format(out)
    found = extract_features(args.pop('model'), args.pop('folder'), **args)
    write_features(found, out)
    labelled = f', {len(found["classes"])} classes' if 'classes' in found else ', no labels'
    print(f'{out}: {len(found["paths"])} images, features of width {found["features"].shape[1]}{labelled}')


def check_format(path: Path) -> None:
    """Complain about a file that could not be written, before the features are computed.

    Raises:
        ValueError: If its ending is neither .npz nor .parquet, or there is no pyarrow for the latter.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f'--out is {path}; expected a file that ends in {" or ".join(SUFFIXES)}.')
    if path.suffix == '.parquet' and importlib.util.find_spec('pyarrow') is None:
        raise ValueError(f"{path} needs pyarrow: pip install 'unmix[parquet]', or let --out end in .npz.")


def write_features(found: Mapping[str, np.ndarray], path: Path) -> None:
    """Write what :func:`extract_features` returns, whole or not at all.

    An .npz file holds the arrays by name. A .parquet file holds a row for each image: ``path``, ``feature`` (a list of
    D float32) and, if there are any, ``label`` and ``class``.

    Raises:
        OSError: If the file cannot be written.
    """
    with atomic_path(path) as temporary:
        if path.suffix == '.npz':
            np.savez(temporary, **dict[str, Any](found))
            return
        import pyarrow
        from pyarrow import parquet

        rows = found['features']
        values = pyarrow.array(rows.reshape(-1))
        columns = dict(
            path=pyarrow.array(found['paths']), feature=pyarrow.FixedSizeListArray.from_arrays(values, rows.shape[1])
        )
        if 'labels' in found:
            names = pyarrow.array(found['classes'][found['labels']])
            columns |= {'label': pyarrow.array(found['labels']), 'class': names}
        parquet.write_table(pyarrow.table(columns), temporary)
