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
TRUST = f'read the config of a model of the index {INDEX}: it can execute any code'  # help of --trust
_Loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # the one in C is ten times as fast


@dataclass(frozen=True)
class Entry:
    """A model: its entry of a metafile.

    Attributes:
        name: Its ``Name``.
        root: Folder of the ``model-index.yml``; ``Config`` and ``Weights`` without scheme are paths below it.
        content: The whole entry.
        foreign: Whether its index is that of UNMIX_MODEL_INDEX, not the package's.
    """

    name: str
    root: Path
    content: Mapping[str, Any]
    foreign: bool

    @property
    def config(self) -> Path:
        """File of its config."""
        return self.root / str(self.content['Config'])

    def config_to_read(self, trust: bool) -> Path:
        """Return the file of its config, which can execute any code when it is read or built from.

        Raises:
            ValueError: If the model is of another index than the package's, and ``trust`` is False.
        """
        if self.foreign and not trust:
            raise ValueError(
                f'The model {self.name} is of the index {self.root / "model-index.yml"} ({INDEX}), and its config '
                f'{self.content["Config"]} can execute any code, in Python and in YAML. If you trust the index, give '
                'trust=True, or --trust on the command line. Its weights alone are safe: unmix.zoo.download, or '
                f'unmix::{self.name} as a checkpoint.'
            )
        return self.config

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
        why = f'; {INDEX} names it' if index is not indexes[0] else ''
        for metafile in _list(_read(index, why), 'Import', str, index):
            path = index.parent / metafile
            for content in _list(_read(path, f'; {index} imports it'), 'Models', dict, path):
                _check(content, path)
                entry = Entry(content['Name'], index.parent, content, index is not indexes[0])
                if entry.name in found:
                    raise ValueError(
                        f'The model {entry.name} of {path} is already in {found[entry.name].root}; '
                        'give it another name.'
                    )
                found[entry.name] = entry
    return found


# Keys of an entry that are read, beside Name and Config, and their types.
_KEYS: dict[str, type | tuple[type, ...]] = {
    'Name': str, 'Config': str, 'Weights': str, 'SHA256': (str, int), 'Metadata': dict, 'Results': list,
}  # fmt: skip


def _list(content: Mapping[str, Any], key: str, kind: type, file: Path) -> list[Any]:
    """Return the list ``key`` of a metafile, empty if there is none."""
    found = content.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        expected = 'mappings with Name and Config' if kind is dict else 'paths of metafiles'
        raise ValueError(f'{file}: {key} is {_short(found)}; expected a list of {expected}.')
    return found


def _check(content: Mapping[str, Any], metafile: Path) -> None:
    """Check the keys of an entry that are read.

    Raises:
        ValueError: If one is missing or of another type; names the file, the model and the key.
    """
    if not {'Name', 'Config'} <= content.keys():
        raise ValueError(f'{metafile} has a model without Name or Config: {_short(content)}.')
    for key, kinds in _KEYS.items():
        value = content.get(key)
        if not isinstance(value, kinds) and (value is not None or key in ('Name', 'Config')):
            kind = (kinds if isinstance(kinds, type) else kinds[0]).__name__
            raise ValueError(f'{metafile}, model {content["Name"]}: {key} is {_short(value)}; expected a {kind}.')
    for result in content.get('Results') or []:
        if not isinstance(result, dict) or not isinstance(result.get('Metrics') or {}, dict):
            raise ValueError(
                f'{metafile}, model {content["Name"]}: Results has {_short(result)}; expected mappings with Metrics, a '
                'mapping of names to numbers.'
            )


def _short(value: Any) -> str:
    text = repr(value)
    return f'{text if len(text) <= 80 else text[:77] + "..."} ({type(value).__name__})'


def _read(path: Path, why: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist{why}.')
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:  # ValueError: such as a date
        raise ValueError(f'{path} is no YAML: {" ".join(str(error).split())}.') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}; expected Import or Models, as in a metafile.')
    return content


def find_model(name: str) -> Entry:
    """Return the entry of a model; ``unmix::`` may stand before its name.

    Raises:
        ValueError: If there is none; names the nearest ones, and a folder that is named so.
    """
    found, wanted = entries(), name.removeprefix('unmix::')
    if wanted in found:
        return found[wanted]
    hint = suggest(wanted, found, "unmix.list_models('*moco*') lists names.")
    folder = f'The folder {wanted} has no checkpoint (.pth). ' if Path(wanted).is_dir() else ''
    raise ValueError(f'The model zoo has no model {wanted!r}. {folder}{hint}')


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
