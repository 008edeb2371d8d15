"""From items to a batch."""

from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

from unmix.registry import FUNCTIONS


@FUNCTIONS.register_module()
def collate(items: list[dict[str, Any]] | dict[str, Any]) -> dict[str, Any]:
    """Stack items to a batch; what a data set has built as a whole (``__getitems__``) is a batch already.

    Raises:
        ValueError: If the images differ in size, or some have a label and others none.
    """
    if isinstance(items, dict):
        return items
    keys = {tuple(item) for item in items}
    if len(keys) > 1:
        raise ValueError(f'The items of a batch have different keys: {sorted(keys)}. Label all images or none.')
    shapes = {tuple(item['inputs'].shape) for item in items if isinstance(item['inputs'], Tensor)}
    if len(shapes) > 1:
        raise ValueError(
            f'The images of a batch have different sizes: {sorted(shapes)[:4]}. Give the data set a pipeline that ends '
            "in one size, e.g. dict(type='SingleView', transforms=[dict(type='Resize', size=256), "
            "dict(type='CenterCrop', size=224)])."
        )
    return default_collate(items)
