"""1x1 convolutions as matrix products. Shapes: N images, C channels, H W pixels."""

from torch import Tensor, nn
from torch.nn import functional as F

PRODUCT_WEIGHTS = 1 << 20


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution of channels-last maps (N, C, H, W): the product of their pixels (N H' W', C) with the weights.

    Equal to rounding. On CPUs the gradient of a convolution with many weights and few pixels takes up to four times as
    long, see ``docs/speed.md``; with few weights and many pixels the convolution is as fast or faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``; the result is channels-last."""
        down, right = self.stride
        pixels = x[:, :, ::down, ::right].permute(0, 2, 3, 1)
        return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def use_products(module: nn.Module) -> None:
    """Make the 1x1 convolutions with at least 2^20 weights in ``module`` products; names and weights stay."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.weight.numel() >= PRODUCT_WEIGHTS:
            conv.__class__ = PointwiseConv2d
