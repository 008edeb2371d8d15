"""Features in two dimensions."""

import importlib.util

import numpy as np
import torch
from torch import Tensor

METHODS = {'pca': 'PCA', 'tsne': 't-SNE', 'umap': 'UMAP'}
LEAST = 5  # images of t-SNE and UMAP, which place each by its neighbours
_PERPLEXITY, _NEIGHBOURS = 30, 15  # defaults of scikit-learn and umap-learn
_AXES = 50  # that PCA leaves to t-SNE and UMAP


def has_umap() -> bool:
    """Return whether umap-learn is installed."""
    return importlib.util.find_spec('umap') is not None


def project(features: Tensor | np.ndarray, method: str = 'pca', seed: int = 0) -> np.ndarray:
    """Place features in a plane; rows are scaled to unit length first, as kNN does.

    * ``'pca'``: on the two axes of largest variance;
    * ``'tsne'``: t-SNE of scikit-learn with perplexity 30, or a third of the images where there are fewer than 90;
    * ``'umap'``: UMAP of umap-learn with 15 neighbours.

    The last two begin with the first 50 principal components.

    Args:
        features: (N, D), finite.
        method: Key of :data:`METHODS`.
        seed: Of t-SNE and UMAP; the same seed gives the same points on the same machine.

    Returns:
        (N, 2) float32.

    Raises:
        ValueError: If the method is unknown or not installed, features are no matrix or not finite, or there are fewer
            than 5 for t-SNE or UMAP.
    """
    return place(components(features), method, seed)


def components(features: Tensor | np.ndarray) -> np.ndarray:
    """Return the first 50 principal components (N, min(50, N, D)) of features (N, D) of unit length.

    Raises:
        ValueError: If features are no matrix or not finite.
    """
    return principal_components(unit_rows(features).double().numpy(), _AXES)


def place(points: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Place the components of :func:`components` in a plane, as :func:`project` does."""
    if method not in METHODS:
        raise ValueError(f'The method of an embedding is {method!r}; expected one of {", ".join(map(repr, METHODS))}.')
    if method != 'pca' and len(points) < LEAST:
        raise ValueError(
            f'{METHODS[method]} places images by their neighbours: it needs {LEAST}, here are {len(points)}.'
        )
    if method == 'umap' and not has_umap():
        raise ValueError("UMAP needs the package umap-learn: pip install 'unmix[umap]', or take 'tsne'.")
    if method == 'pca' or not points.any():  # of equal features t-SNE is not defined
        return _two(points)
    if method == 'tsne':
        from sklearn.manifold import TSNE  # slow to import

        start = _two(points / (points[:, 0].std() or 1.0) * 1e-4)
        perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
        return np.asarray(TSNE(init=start, perplexity=perplexity, random_state=seed).fit_transform(points), np.float32)
    from umap import UMAP

    number = min(_NEIGHBOURS, len(points) - 1)
    return np.asarray(UMAP(n_neighbors=number, random_state=seed).fit_transform(points), np.float32)


def unit_rows(features: Tensor | np.ndarray) -> Tensor:
    """Return features (N, D) on the host with rows of unit length, float32; rows of zeros stay.

    Raises:
        ValueError: If they are no matrix, or not finite.
    """
    rows = torch.as_tensor(features).detach().cpu().float()
    if rows.ndim != 2:
        raise ValueError(f'Features have the shape {tuple(rows.shape)}; expected (images, dimensions).')
    if not rows.isfinite().all():
        raise ValueError('Features are NaN or infinite. Take those of an earlier checkpoint.')
    return torch.nn.functional.normalize(rows)


def principal_components(rows: np.ndarray, number: int) -> np.ndarray:
    """Return the first principal components (N, min(number, N, D)) of rows (N, D).

    The largest weight of each axis is positive, so that the result does not depend on the library.
    """
    centred = rows - rows.mean(0)
    left, scales, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return np.asarray((left * scales * signs)[:, :number])


def _two(points: np.ndarray) -> np.ndarray:
    """Return points (N, D) as (N, 2); a single axis gets zeros beside it."""
    return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1])))).astype(np.float32)
