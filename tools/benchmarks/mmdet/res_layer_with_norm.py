"""The shared head of a C4 detector of mmdet with one more normalisation; put this directory on PYTHONPATH."""

from mmcv.cnn import build_norm_layer
from mmdet.models.backbones import ResNet
from mmdet.models.roi_heads.shared_heads import ResLayer
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ResLayerWithNorm(ResLayer):
    """The last stage of a ResNet, then ``norm``, as in MoCo's transfer.

    Args:
        depth: Of the ResNet.
        **kwargs: As in mmdet's ResLayer.
    """

    def __init__(self, depth: int, **kwargs: object) -> None:
        super().__init__(depth, **kwargs)
        channels = 64 * 2**self.stage * ResNet.arch_settings[depth][0].expansion
        self.norm = build_norm_layer(self.norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """Return (R, 2048, 7, 7) for the features (R, 1024, 14, 14) of R regions."""
        return self.norm(super().forward(x))
