"""Download and verification of weights."""

import os
import shutil
from pathlib import Path

from pooch import file_hash

from unmix.utils.download import cache_directory, fetch, not_written
from unmix.utils.files import atomic_path
from unmix.zoo.index import Entry, find_model, list_models, local_path

MIRROR = 'UNMIX_MIRROR'


def download(name: str, directory: str | Path | None = None) -> Path:
    """Return a file with the weights of a model; its SHA-256 is that of the metafile.

    Files in the package, the cache or a mirror directory need no network.

    Args:
        name: As :func:`unmix.list_models` gives it.
        directory: Where the file goes. None: it may stay where it is, and a download goes to the cache, UNMIX_HOME or
            torch.hub's folder of checkpoints.

    Raises:
        ConnectionError: If the weights cannot be reached.
        FileNotFoundError: If the file is neither in the package nor in the mirror directory.
        OSError: If the file cannot be written.
        ValueError: If there is no such model, it has no weights, or their digest is another one; nothing is kept then.
    """
    entry = find_model(name)
    if entry.weights is None:
        raise ValueError(
            f'{entry.name} has no published weights; train it by unmix::{entry.content["Config"].partition("/")[2]}, '
            f'or take one of {", ".join(list_models(pretrained=True)) or "none yet"}.'
        )
    target = Path(directory).expanduser() / entry.filename if directory else cache_directory() / entry.filename
    if target.is_file() and file_hash(target) == entry.sha256:
        return target
    source = _source(entry)
    if isinstance(source, str):
        return fetch(source, target.parent, target.name, entry.sha256)
    _verify(source, entry)
    if directory is None:
        return source
    try:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
            _verify(temporary, entry)
    except OSError as error:
        raise not_written(target, error) from error
    return target


def _source(entry: Entry) -> Path | str:
    """Return the file, or the address, from which the weights are taken."""
    own, mirror = entry.file, os.environ.get(MIRROR)
    if own is not None and own.is_file():
        return own
    if mirror is None and own is not None:
        raise FileNotFoundError(f'The weights of {entry.name}, {own}, do not exist; install unmix again.')
    if mirror is None:
        return str(entry.weights)
    folder = local_path(mirror)
    if folder is None:
        return f'{mirror.rstrip("/")}/{entry.filename}'
    if not (folder / entry.filename).is_file():
        raise FileNotFoundError(
            f'{MIRROR}={mirror} has no file {entry.filename} for {entry.name}. Put it there, or unset {MIRROR} to '
            'download it.'
        )
    return folder / entry.filename


def _verify(path: Path, entry: Entry) -> None:
    digest = file_hash(path)
    if digest != entry.sha256:
        raise ValueError(
            f'{path} is refused: its SHA-256 is {digest}, that of {entry.name} is {entry.sha256}. The file is damaged '
            'or another one; copy it again.'
        )
