"""Index of the model zoo, from the metafiles."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import yaml

from unmix.config import config_root
from unmix.config.check import suggest

INDEX = 'UNMIX_MODEL_INDEX'
_Loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # the one in C is ten times as fast


@dataclass(frozen=True)
class Entry:
    """A model: its entry of a metafile.

    Attributes:
        name: Its ``Name``.
        root: Folder of the ``model-index.yml``; ``Config`` and ``Weights`` without scheme are paths below it.
        content: The whole entry.
    """

    name: str
    root: Path
    content: Mapping[str, Any]

    @property
    def config(self) -> Path:
        """File of its config."""
        return self.root / str(self.content['Config'])

    @property
    def weights(self) -> str | None:
        """Address of its weights, or the path of their file; None: there are none."""
        weights = self.content.get('Weights')
        return weights if weights is None or '://' in weights else str(self.root / weights)

    @property
    def file(self) -> Path | None:
        """File of its weights where they are given by path or ``file://``, else None."""
        return None if self.weights is None else local_path(self.weights)

    @property
    def filename(self) -> str:
        """Name of the file of its weights, also in a mirror."""
        return Path(unquote(urlsplit(self.weights or '').path)).name if self.file is None else self.file.name

    @property
    def sha256(self) -> str:
        """Digest of its weights, 64 hexadecimal digits.

        Raises:
            ValueError: If the metafile has none, so that the weights cannot be verified.
        """
        digest = str(self.content.get('SHA256', '')).lower()
        if not re.fullmatch('[0-9a-f]{64}', digest):
            raise ValueError(
                f'The metafile entry of {self.name} has Weights, and SHA256: {digest or "none"}; expected 64 '
                'hexadecimal digits. tools/model_converters/publish_model.py writes both.'
            )
        return digest


def local_path(address: str) -> Path | None:
    """Return the path that is given as such or as ``file://``, None for another scheme."""
    if address.startswith('file://'):
        return Path(url2pathname(urlsplit(address).path))
    return None if '://' in address else Path(address).expanduser()


def entries() -> dict[str, Entry]:
    """Return all models by name: the package's, and those of the ``model-index.yml`` that UNMIX_MODEL_INDEX names.

    Raises:
        FileNotFoundError: If an index, or a metafile that it imports, does not exist.
        ValueError: If one cannot be read, a model has no name or config, or a name is there twice.
    """
    indexes = [config_root().parent / 'model-index.yml']
    if own := os.environ.get(INDEX):
        indexes.append(Path(own).expanduser().absolute())
    found: dict[str, Entry] = {}
    for index in indexes:
        for metafile in _read(index, f'; {INDEX} names it' if index is not indexes[0] else '').get('Import') or []:
            for content in _read(index.parent / metafile, f'; {index} imports it').get('Models') or []:
                if not isinstance(content, dict) or not {'Name', 'Config'} <= content.keys():
                    raise ValueError(f'{index.parent / metafile} has a model without Name or Config: {content}.')
                entry = Entry(content['Name'], index.parent, content)
                if entry.name in found:
                    raise ValueError(
                        f'The model {entry.name} of {index.parent / metafile} is already in {found[entry.name].root}; '
                        'give it another name.'
                    )
                found[entry.name] = entry
    return found


def _read(path: Path, why: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist{why}.')
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f'{path} is no YAML: {" ".join(str(error).split())}.') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}; expected Import or Models, as in a metafile.')
    return content


def find_model(name: str) -> Entry:
    """Return the entry of a model; ``unmix::`` may stand before its name.

    Raises:
        ValueError: If there is none; names the nearest ones.
    """
    found, wanted = entries(), name.removeprefix('unmix::')
    if wanted in found:
        return found[wanted]
    hint = suggest(wanted, found, "unmix.list_models('*moco*') lists names.")
    raise ValueError(f'The model zoo has no model {wanted!r}. {hint}')


def list_models(pattern: str = '*', pretrained: bool = False) -> list[str]:
    """Return the names of the models that match a pattern, sorted.

    Args:
        pattern: As in a shell: ``*``, ``?`` and ``[...]``.
        pretrained: Only those with weights.
    """
    return sorted(
        name
        for name, entry in entries().items()
        if fnmatchcase(name, pattern) and not (pretrained and entry.weights is None)
    )
