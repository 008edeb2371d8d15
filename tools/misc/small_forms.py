"""A few images in each form that training data may have, for ``check_resume.py --data``."""

import json
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unmix.datasets import ImageFolder

NUMBER, SIDE = 80, 20
# Form and cache of the data set.
FORMS = (
    *('folder', 'folder-full', 'zip', 'zip-full', 'zip-part', 'zip-decoded'),
    *('tar', 'tar-part', 'shards', 'shards-full', 'arrow', 'arrow-part'),
)
PIPELINE = dict(
    type='MultiView',
    num_views=2,
    transforms=[dict(type='RandomResizedCrop', size=16), dict(type='RandomHorizontalFlip')],
)


def dataset_of(form: str, place: Path) -> dict[str, Any]:
    """Return the config of a data set of one of ``FORMS`` in ``place``."""
    kind, _, cache = form.partition('-')
    root = dict(folder='images', zip='x.zip', tar='x.tar', shards='x-{0..1}.tar', arrow='table.arrow')[kind]
    name = 'HuggingFaceDataset' if kind == 'arrow' else 'ImageFolder'
    return dict(type=name, data_root=str(place / root), cache=cache or 'none', pipeline=PIPELINE)


def write(form: str, place: Path) -> None:
    """Write the images, PNGs of noise in two class folders, in one of ``FORMS``.

    Raises:
        ImportError: If the package ``pyarrow`` is missing, for 'arrow'.
    """
    kind = form.partition('-')[0]
    files: dict[str, bytes] = {}
    for number in range(NUMBER):
        pixels = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, 'PNG')
        files[f'{"ab"[number % 2]}/{number:02}.png'] = buffer.getvalue()
    place.mkdir(parents=True)
    if kind == 'zip':
        with zipfile.ZipFile(place / 'x.zip', 'w') as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif kind in ('tar', 'shards'):
        names = list(files)
        parts = {'x.tar': names} if kind == 'tar' else {'x-0.tar': names[::2], 'x-1.tar': names[1::2]}
        for file, members in parts.items():
            with tarfile.open(place / file, 'w') as tar:
                for name in members:
                    entry = tarfile.TarInfo(name)
                    entry.size = len(files[name])
                    tar.addfile(entry, BytesIO(files[name]))
    else:
        for name, data in files.items():
            path = place / 'images' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if kind == 'arrow':
            _write_table(place)


def _write_table(place: Path) -> None:
    import pyarrow

    folder = ImageFolder(place / 'images', labelled=False)
    paths = [path.decode() for path in folder.paths.tolist()]
    table = place / 'table.arrow'
    images = [dict(bytes=(place / 'images' / path).read_bytes(), path=path) for path in paths]
    labels = [int(path[0] == 'b') for path in paths]
    columns = pyarrow.table(dict(image=images, label=labels))
    features = dict(image=dict(_type='Image'), label=dict(_type='ClassLabel', names=['a', 'b']))
    noted = json.dumps(dict(info=dict(features=features)))  # what the package datasets notes
    columns = columns.replace_schema_metadata(dict(huggingface=noted))
    with pyarrow.OSFile(str(table), 'wb') as file, pyarrow.ipc.new_stream(file, columns.schema) as writer:
        writer.write_table(columns)
