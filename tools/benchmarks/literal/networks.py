"""Encoders on torchvision's blocks, in the default memory format."""

from functools import partial

from torch import Tensor, nn
from torchvision.models import resnet


class SplitBatchNorm(nn.BatchNorm2d):
    """Statistics of the groups n mod S of the batch. S images are viewed as one image with S times the channels."""

    def __init__(self, num_features: int, num_splits: int) -> None:
        super().__init__(num_features)
        self.num_splits = num_splits

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        n, c, h, w = x.shape
        splits = self.num_splits
        mean, var = self.running_mean.repeat(splits), self.running_var.repeat(splits)
        out = nn.functional.batch_norm(
            x.reshape(n // splits, splits * c, h, w), mean, var, self.weight.repeat(splits), self.bias.repeat(splits),
            True, self.momentum, self.eps,
        ).view(n, c, h, w)  # fmt: skip
        self.running_mean.data.copy_(mean.view(splits, c).mean(0))
        self.running_var.data.copy_(var.view(splits, c).mean(0))
        return out


class ResNet(resnet.ResNet):
    """torchvision's ResNet for small images: a 3x3 stem without max-pool, ``fc`` instead of the classifier."""

    def __init__(
        self, fc: nn.Module, depth: int = 18, width: int = 64, num_splits: int = 1, stem_padding: int = 1
    ) -> None:
        nn.Module.__init__(self)
        block = {18: resnet.BasicBlock, 26: resnet.Bottleneck}[depth]
        self._norm_layer = partial(SplitBatchNorm, num_splits=num_splits) if num_splits > 1 else nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, width, 3, 1, stem_padding, bias=False)
        self.bn1 = self._norm_layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()
        for i in range(4):
            self.add_module(f'layer{i + 1}', self._make_layer(block, width * 2**i, 2, stride=2 if i else 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = fc


def mlp(dims: tuple[int, int, int], last_norm: bool = False) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear, and with ``last_norm`` another BatchNorm."""
    first, hidden, last = dims
    layers: list[nn.Module] = [nn.Linear(first, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    layers += [nn.Linear(hidden, last)] + [nn.BatchNorm1d(last)] * last_norm
    return nn.Sequential(*layers)
