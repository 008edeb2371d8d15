"""Two networks for two groups of channels."""

from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from unmix.models.guarded import Guarded
from unmix.registry import MODELS


@MODELS.register_module()
class TwoBranch(Guarded, BaseModule):
    """Two encoders of one architecture: one sees the first channels of an image, the other one the rest (CMC).

    Args:
        branch: Config of the encoders; each is built with its own ``in_channels``.
        channels: Channels of the first and of the second encoder: lightness and colour.
        channels_last: Memory format of both encoders, as in :class:`ResNet`; False leaves it to ``branch``.

    Attributes:
        out_dim: Dimension of both features together.
        layer_dims: Channels of both after the stem and after each stage; empty if the encoders have none.

    Raises:
        ValueError: If the images have another number of channels.
    """

    def __init__(
        self,
        branch: dict[str, Any],
        channels: tuple[int, int] = (1, 2),
        channels_last: bool | int = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.channels = tuple(channels)
        first, second = channels
        if channels_last is not False:
            branch = dict(branch, channels_last=channels_last)
        self.l_to_ab = MODELS.build(dict(branch, in_channels=first))
        self.ab_to_l = MODELS.build(dict(branch, in_channels=second))
        self.out_dim: int = self.l_to_ab.out_dim + self.ab_to_l.out_dim
        layers = [getattr(encoder, 'layer_dims', ()) for encoder in (self.l_to_ab, self.ab_to_l)]
        self.layer_dims: tuple[int, ...] = tuple(map(sum, zip(*layers, strict=True)))

    def forward(self, x: Tensor, layer: int | None = None) -> Tensor:
        """Return the features (N, D1 + D2), the first encoder's first, of images ``x`` (N, C, H, W).

        With ``layer`` the maps (N, D1' + D2', H', W') after that layer of both; see :class:`ResNet`.
        """
        if x.shape[1] != sum(self.channels):
            raise ValueError(
                f'The images have {x.shape[1]} channels, backbone.channels={self.channels} takes {sum(self.channels)}. '
                "Colour images and model.data_preprocessor.type='ColorPreprocessor' give three."
            )
        first, second = x.split(self.channels, dim=1)
        if layer is not None:
            return torch.cat([self.l_to_ab(first, layer), self.ab_to_l(second, layer)], dim=1)
        return torch.cat([self.l_to_ab(first), self.ab_to_l(second)], dim=1)
