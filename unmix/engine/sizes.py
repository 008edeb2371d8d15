"""Errors that name the sizes in the config where parts of a model, images or data set do not fit each other."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.runner import FlexibleRunner, Runner

from unmix.models.algorithms import BaseAlgorithm, Classifier
from unmix.utils.dist import unwrap

KEYS = ('in_channels', 'in_dim', 'out_dim', 'dim')
_MISFIT = re.compile(r'shapes cannot be multiplied|to have \d+ channels|must match the size|size mismatch')


@contextmanager
def sizes_explained(runner: Runner | FlexibleRunner) -> Iterator[None]:
    """Turn torch's error about shapes into one that names the sizes in the config.

    Raises:
        ValueError: In the place of such an error.
    """
    try:
        yield
    except ValueError as error:
        if 'Expected more than 1 value per channel' not in str(error):
            raise
        raise ValueError(
            f'BatchNorm has one value a channel only, and needs more: {error}. Let train_dataloader.batch_size be 2 or '
            'more, also for the last batch of an epoch (train_dataloader.drop_last=True).'
        ) from error
    except RuntimeError as error:
        if not _MISFIT.search(str(error)):
            raise
        sizes = [f'model.backbone gives {width}'] if (width := _width(runner.model)) else []
        sizes += [f'{key}={value}' for key, value in _sizes(runner.cfg.get('model'), 'model')]
        raise ValueError(
            f'The parts of the model do not fit each other or the images: {str(error).strip().splitlines()[-1]}. Make '
            f'each size that of what comes before: {", ".join(sizes)}'
        ) from error


def check_num_instances(num_instances: int, num_images: int) -> None:
    """Check that a head with one row for each training image has enough of them.

    Raises:
        ValueError: If the data set has more images than the head has instances.
    """
    if num_images > num_instances:
        raise ValueError(
            f'model.head.num_instances is {num_instances}, but the training data set has {num_images} images: '
            f'--cfg-options model.head.num_instances={num_images}'
        )


def _width(model: Any) -> int | None:
    model = unwrap(model)
    backbone = model.backbone if isinstance(model, BaseAlgorithm | Classifier) else None
    return getattr(backbone, 'out_dim', None)  # backbones of others may not say


def _sizes(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """Keys below ``node`` that are sizes, in the order of the config."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in KEYS and isinstance(value, int):
                yield f'{path}.{key}', value
            yield from _sizes(value, f'{path}.{key}')
