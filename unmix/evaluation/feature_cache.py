"""Cache of features, in files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log
from torch import Tensor

from unmix.evaluation.extraction import Batch, Encoder, Features, collect_features
from unmix.utils.files import atomic_path
from unmix.version import __version__


@dataclass
class FeatureCache:
    """Keep the features of frozen networks in files, one per network and data set: ``directory/KEY.pt``.

    The key is a digest of all that features depend on: the caller's description of the network (SHA-256 of its
    checkpoint, config, layer) and of the data (config and pipeline), the arrays that the data set holds in memory
    (images, labels, paths; image *files* are assumed to be unchanged), and the versions of this package and of torch.
    The folder may be deleted at any time.

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
    ) -> dict[str, Features] | None:
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
        found = [all(path.is_file() for path in paths.values())]
        broadcast_object_list(found, src=0)
        if found[0]:
            print_log(f'The features of {len(dataset)} images are those in {self.directory}.', logger='current')
            return {name: _read(path) for name, path in paths.items()} if get_rank() == 0 else {}
        features = collect_features(batches, encoders)
        for name, rows in (features or {}).items():
            with atomic_path(paths[name]) as path:
                torch.save(
                    dict(features=rows.features.cpu(), labels=rows.labels.cpu(), device=str(rows.labels.device)), path
                )
        return features


def _content_digest(dataset: Any) -> str:
    """Digest of the arrays that a data set holds (images, labels, paths), and of its length."""
    digest = hashlib.sha256(str(len(dataset)).encode())
    for name in ('images', 'labels', 'paths', 'rows'):
        array = getattr(dataset, name, None)
        if isinstance(array, Tensor | np.ndarray):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _read(path: Path) -> Features:
    content = torch.load(path, map_location='cpu', weights_only=True)
    device = content['device'] if torch.cuda.is_available() else 'cpu'
    return Features(content['features'].to(device), content['labels'].to(device))
