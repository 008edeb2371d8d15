"""The recipes that pre-train, and batches as their data loaders deliver them, without their data."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from unmix.config import config_files, config_root
from unmix.datasets import SampleKey
from unmix.registry import TRANSFORMS

MOST_INSTANCES = {'DeepClusterV2Head': 20_000}  # of others 200,000
OWN_SIZES = {'digits': 16, 'fashion-mnist': 28}  # of images that no transform scales; others: 32


def recipes() -> list[str]:
    """Return the names of all recipes that pre-train, but those for a folder, whose models others have."""
    names = [path.relative_to(config_root()).with_suffix('').as_posix() for path in config_files()]
    return [name for name in names if not name.startswith('benchmarks/') and not name.endswith('_folder')]


def sizes_of(transforms: Any) -> Iterator[int]:
    """Yield the sizes in a list of transforms, from the first on."""
    for transform in transforms:
        if 'size' in transform:
            yield transform['size']
        yield from sizes_of(transform.get('transforms') or [])


def with_fewer_instances(cfg: Any, folder: str) -> Any:
    """Cut the banks of a recipe, whose memory is the host's, and put rows that are on disk into ``folder``."""
    head = cfg.model.head
    if 'num_instances' in head:
        head.num_instances = min(head.num_instances, MOST_INSTANCES.get(head.type, 200_000))
    if head.get('rows_dir'):
        head.rows_dir = folder
    return cfg


def make_batch(cfg: Any, name: str, image: Callable[..., Tensor], pinned: bool) -> dict[str, Any]:
    """Return a batch as the recipe's loader delivers it, with the ids 0, 1, 2, ...

    Args:
        cfg: Config of the recipe.
        name: Its name, which tells the size of images that no transform scales.
        image: Makes the bytes of images from a shape and a dtype, as ``torch.empty`` does.
        pinned: Whether it is in page-locked memory.
    """
    own = next((size for key, size in OWN_SIZES.items() if key in name), 32)
    dataset = cfg.train_dataloader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:  # a wrapper
        dataset = dataset.dataset
    pipeline = dataset.get('pipeline') or dict(transforms=[], num_views=2)
    crops = pipeline.get('crops') or [pipeline]
    sizes = [next(sizes_of(crop['transforms']), own) for crop in crops for _ in range(crop.get('num_views', 1))]
    grey = own != 32 or cfg.model.get('data_preprocessor', {}).get('palette') is not None
    channels = 1 if grey else cfg.model.backbone.get('in_channels', 3)
    number = cfg.train_dataloader.batch_size
    index = torch.arange(number)
    if pipeline.get('backend') == 'torch':
        # As workers deliver it whose views the device makes: images of several sizes.
        images = [image((3, 60 + n % 7, 80 - n % 5), dtype=torch.uint8) for n in range(number)]
        views: Any = TRANSFORMS.build(pipeline).defer(images, [SampleKey(n) for n in range(number)])
        return dict(inputs=views.pin_memory() if pinned else views, index=index.pin_memory() if pinned else index)
    views = [image((number, channels, size, size), dtype=torch.uint8) for size in sizes]
    if pinned:
        views, index = [view.pin_memory() for view in views], index.pin_memory()
    return dict(inputs=views, index=index)
