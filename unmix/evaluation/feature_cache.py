"""Cache of features, in files."""

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log
from torch import Tensor

from unmix.checkpoint.files import verify, write_checkpoint
from unmix.checkpoint.load import load_from_local
from unmix.evaluation.extraction import Batch, Encoder, collect_features
from unmix.evaluation.shard import Features, Shard
from unmix.version import __version__


@dataclass
class FeatureCache:
    """Keep the features of frozen networks in files, one per network and data set: ``directory/KEY.pt``.

    The key is a digest of all that features depend on: the caller's description of the network (SHA-256 of its
    checkpoint, config, layer) and of the data (config and pipeline), the arrays that the data set holds in memory
    (images, labels, paths; image *files* are assumed to be unchanged), and the versions of this package and of torch.
    The folder may be deleted at any time. Each file is sealed (:mod:`unmix.checkpoint.files`); one that is damaged is
    computed again, with a warning. With several processes rank 0 reads and writes whole files, in memory of its host,
    and sends and gets rows in pieces; files do not depend on the number of processes.

    Args:
        directory: Folder of the files.
    """

    directory: Path

    def collect(
        self,
        batches: Iterable[Batch],
        encoders: Mapping[str, Encoder],
        networks: Mapping[str, Any],
        data: Any,
        dataset: Any,
    ) -> dict[str, Shard] | None:
        """Return what :func:`collect_features` returns, from the files if each encoder has one, else computed.

        Args:
            batches: Argument of :func:`collect_features`; not read if there is a file for each encoder.
            encoders: Likewise.
            networks: Description of each encoder's network, in plain containers.
            data: Description of the data, likewise.
            dataset: The data set.
        """
        data = dict(data=data, content=_content_digest(dataset), versions=(__version__, torch.__version__))
        paths = {}
        for name in encoders:
            text = json.dumps(dict(data, network=networks[name]), sort_keys=True, default=repr)
            paths[name] = self.directory / f'{hashlib.sha256(text.encode()).hexdigest()[:16]}.pt'
        cached = _read_all(paths, len(dataset)) if get_rank() == 0 else None
        found = [cached is not None]
        broadcast_object_list(found, src=0)
        if found[0]:
            print_log(f'The features of {len(dataset)} images are those in {self.directory}.', logger='current')
            return {name: Shard.deal(None if cached is None else cached.pop(name)) for name in encoders}
        shards = collect_features(batches, encoders)
        for name, shard in (shards or {}).items():
            if len(shard.all_labels) < len(dataset):  # some images could not be read; they may be mended later
                continue
            rows = shard.whole(keep=get_rank() == 0)
            if rows is not None:
                _write(paths[name], rows)
        return shards


def _content_digest(dataset: Any) -> str:
    """Digest of the arrays that a data set holds (images, labels, paths), and of its length."""
    digest = hashlib.sha256(str(len(dataset)).encode())
    for name in ('images', 'labels', 'paths', 'rows'):
        array = getattr(dataset, name, None)
        if isinstance(array, Tensor | np.ndarray):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _write(path: Path, rows: Features) -> None:
    torch.save(dict(features=rows.features, labels=rows.labels), buffer := io.BytesIO())
    try:
        write_checkpoint(buffer, str(path))
    except OSError as error:
        print_log(f'The features are not kept: {error}', logger='current', level=logging.WARNING)


def _read_all(paths: Mapping[str, Path], number: int) -> dict[str, Features] | None:
    """Return the features in all files, or None if one is missing or damaged."""
    if not all(path.is_file() for path in paths.values()):
        return None
    try:
        return {name: _read(path, number) for name, path in paths.items()}
    except (OSError, ValueError) as error:
        message = f'Features in the cache cannot be used, and are computed again: {error}.'
        print_log(message, logger='current', level=logging.WARNING)
        return None


def _read(path: Path, number: int) -> Features:
    content = load_from_local(str(path), map_location='cpu')
    parts = [content.get(key) for key in ('features', 'labels')] if isinstance(content, dict) else []
    if not verify(path) or not all(isinstance(part, Tensor) and len(part) == number for part in parts) or not parts:
        raise ValueError(f'{path} has no seal, or is not of {number} images')
    return Features(content['features'], content['labels'])
