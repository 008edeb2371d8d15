"""A part of a data set, for training with few labels."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unmix.datasets.folder import read_list
from unmix.datasets.samplers import SampleKey
from unmix.registry import DATASETS
from unmix.utils.rng import generator


@DATASETS.register_module()
class Subset(Dataset):
    """Some images of a labelled data set, counted anew from 0; everything else is the data set's.

    Either those of a list of file names, as SimCLR published them for 1 % and 10 % of ImageNet (``1percent.txt``,
    ``10percent.txt``; `its repository <https://github.com/google-research/simclr>`_, ``imagenet_subsets``), or a number
    or share of each class, drawn by the seed alone.

    Args:
        dataset: The data set, or its config.
        files: List with a file name in each line, with or without folders.
        per_class: Images of each class, all there are where a class has fewer.
        share: Share of the images of each class, rounded up.
        seed: Which images are drawn.

    Attributes:
        rows: (N,) int64, numbers of the images in the data set, rising.

    Raises:
        FileNotFoundError: If there is no list, or images of the list are not in the data set.
        ValueError: Unless one of files, per_class and share is given, and fits; or the data set has no labels.
    """

    def __init__(
        self,
        dataset: dict[str, Any] | Dataset,
        files: str | Path | None = None,
        per_class: int | None = None,
        share: float | None = None,
        seed: int = 0,
    ) -> None:
        source: Any = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.dataset = source
        given = [value for value in (files, per_class, share) if value is not None]
        if len(given) != 1 or (per_class is not None and per_class < 1) or (share is not None and not 0 < share <= 1):
            raise ValueError(
                f'Subset: files={files}, per_class={per_class}, share={share}; give one of them, at least one image a '
                'class, or a share in (0, 1].'
            )
        if source.labels is None:
            raise ValueError('Subset: the data set has no labels, so it has no classes to draw from.')
        self.rows = self._listed(files) if files is not None else self._drawn(per_class, share, seed)
        self.labels: Tensor = source.labels[self.rows]

    def _listed(self, files: str | Path) -> Tensor:
        paths = getattr(self.dataset, 'paths', None)
        if paths is None:
            raise ValueError(f'Subset: files={files}, but a {type(self.dataset).__name__} is not made of files.')
        wanted = {Path(name).name for name in read_list(files, 'dataset.files')}
        place = {Path(path.decode(errors='surrogateescape')).name: row for row, path in enumerate(paths.tolist())}
        missing = sorted(wanted - place.keys())
        if missing:
            raise FileNotFoundError(
                f'dataset.files: {len(missing)} of the {len(wanted)} images of {files} are not in the data set: '
                f'{", ".join(missing[:4])}{", ..." if len(missing) > 4 else ""}.'
            )
        return torch.tensor(sorted(place[name] for name in wanted))

    def _drawn(self, per_class: int | None, share: float | None, seed: int) -> Tensor:
        labels, rng = self.dataset.labels.numpy(), generator('subset', seed)
        rows: list[np.ndarray] = []
        for c in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == c))
            rows.append(members[: per_class or int(np.ceil(len(members) * (share or 0)))])
        return torch.from_numpy(np.sort(np.concatenate(rows)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getattr__(self, name: str) -> Any:
        """Classes and the like are those of the data set."""
        if name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        key = SampleKey.of(key)
        inner = key._replace(index=int(self.rows[key.index]))  # so that an image is augmented as in the whole data set
        return self.dataset[inner] | dict(index=key.index)

    def __getitems__(self, keys: list[int | SampleKey]) -> dict[str, Any] | list[dict[str, Any]]:
        if not hasattr(self.dataset, '__getitems__'):
            return [self[key] for key in keys]
        rows = SampleKey.all_of(keys)
        batch = self.dataset.__getitems__([key._replace(index=int(self.rows[key.index])) for key in rows])
        if isinstance(batch, dict):
            return batch | dict(index=torch.tensor([key.index for key in rows]))
        return [item | dict(index=key.index) for item, key in zip(batch, rows, strict=True)]
