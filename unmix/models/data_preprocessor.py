"""Moves a batch to the device and normalises it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from unmix.datasets.transforms.deferred import DeferredViews
from unmix.registry import MODELS
from unmix.utils.labels import check_labels


@MODELS.register_module()
class DataPreprocessor(BaseDataPreprocessor):
    """Move a batch to the model's device and normalise its images: ``(image - mean) / std``.

    Views that the data set has left to the device (``backend='torch'``) are made there first, see
    :class:`DeferredViews`.

    Args:
        mean: Mean of each channel, or one for all, in the units of the images (0 to 255). None: no normalisation.
        std: Standard deviation likewise.
        non_blocking: Whether copies to the device may overlap with the host.

    Attributes:
        num_classes: Number of classes, where a model has them: labels are checked before they leave the host.

    Raises:
        ValueError: If only one of mean and std is given, or their lengths differ.
    """

    mean: Tensor | None
    std: Tensor | None
    num_classes: int | None = None

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, non_blocking: bool = True
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise ValueError(
                f'data_preprocessor has mean={mean} and std={std}; give both, of the same length, or none.'
            )
        for name, value in (('mean', mean), ('std', std)):
            tensor = None if value is None else torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def cast_data(self, data: Any) -> Any:
        """Copy a batch to the device, or a part of one; tensors that are there are not copied again.

        Views that were left to the device are made.

        Raises:
            ValueError: If a label is none of ``num_classes``; labels that are on a device were checked before.
        """
        if isinstance(data, DeferredViews):
            return data.make(self.device)
        label = data.get('label') if isinstance(data, Mapping) and self.num_classes is not None else None
        if label is not None and not (isinstance(label, Tensor) and label.is_cuda):
            check_labels(label, self.num_classes, 'model.head.num_classes does not fit the data set')
        return super().cast_data(data)

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Return the batch with ``inputs``, a tensor (N, C, H, W) or a list of them, as normalised floats.

        Raises:
            ValueError: If a label is none of ``num_classes``.
        """
        batch = dict(self.cast_data(data))
        inputs = batch['inputs']
        batch['inputs'] = self.normalize(inputs) if isinstance(inputs, Tensor) else [self.normalize(x) for x in inputs]
        return batch

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise images (N, C, H, W) of any real type.

        Raises:
            ValueError: If their number of channels is not that of ``mean``.
        """
        images = images if images.is_floating_point() else images.float()
        if self.mean is None or self.std is None:
            return images
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(
                f'The images have {images.shape[1]} channels, data_preprocessor.mean has {len(self.mean)} values. Give '
                'one value a channel, or a single one, and set model.backbone.in_channels to the same number.'
            )
        return (images - self.mean.to(images.dtype)) / self.std.to(images.dtype)

    def restore(self, images: Tensor) -> Tensor:
        """Undo :meth:`normalize` for pictures: images (N, C, H, W) in [0, 1]."""
        if self.mean is not None and self.std is not None:
            images = images * self.std + self.mean
        return (images / 255).clamp(0, 1)
