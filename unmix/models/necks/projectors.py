"""Projectors from backbone features to the space where the loss is computed."""

from itertools import pairwise
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.registry import MODELS


@MODELS.register_module()
class LinearNeck(BaseModule):
    """One linear layer (N, in_dim) -> (N, out_dim): MoCo v1.

    Args:
        in_dim: Input dimension.
        out_dim: Output dimension.
        bias: Whether the layer has a bias.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg)
        self.fc = nn.Linear(in_dim, out_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Project ``x`` (N, in_dim)."""
        return self.fc(x)


@MODELS.register_module()
class MLPNeck(BaseModule):
    """Multi-layer perceptron (N, in_dim) -> (N, out_dim): MoCo v2, SimCLR, BYOL; also a predictor.

    Args:
        in_dim: Input dimension.
        hidden_dim: Width of the hidden layers.
        out_dim: Output dimension.
        num_layers: Number of linear layers, at least 2.
        norm: BatchNorm after each hidden layer, which then has no bias unless ``hidden_bias``.
        hidden_bias: Bias of the hidden layers; None is ``not norm``.
        last_bias: Bias of the last layer.
        last_norm: BatchNorm after the last layer.
        last_affine: Whether that has affine parameters.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        num_layers: int = 2,
        norm: bool = False,
        hidden_bias: bool | None = None,
        last_bias: bool = True,
        last_norm: bool = False,
        last_affine: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_layers < 2:
            raise ValueError(f'MLPNeck.num_layers is {num_layers}; it has at least 2 (use LinearNeck for one layer).')
        bias = not norm if hidden_bias is None else hidden_bias
        layers: list[nn.Module] = []
        for i in range(num_layers - 1):
            layers.append(nn.Linear(in_dim if i == 0 else hidden_dim, hidden_dim, bias=bias))
            if norm:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Linear(hidden_dim, out_dim, bias=last_bias))
        if last_norm:
            layers.append(nn.BatchNorm1d(out_dim, affine=last_affine))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Project ``x`` (N, in_dim)."""
        return self.layers(x)


@MODELS.register_module()
class DINONeck(BaseModule):
    """Perceptron to a bottleneck of unit length, and a last layer with unit rows: (N, in_dim) -> (N, out_dim).

    (`DINO <https://arxiv.org/abs/2104.14294>`_, Sec. 3.2.) The released last layer is weight-normalised with a length
    that does not learn, ``norm_last_layer=True``; here its rows are scaled to unit length, which is the same.

    Args:
        in_dim: Input dimension.
        hidden_dim: Width of the hidden layers.
        bottleneck_dim: Dimension before the last layer.
        out_dim: Output dimension.
        num_layers: Number of linear layers to the bottleneck.
        norm: Whether BatchNorm follows each hidden layer, ``use_bn_in_head`` of the release. Weights start with a
            standard deviation of 0.02, so in narrow layers features vanish beside the biases without it.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        out_dim: int = 65536,
        num_layers: int = 3,
        norm: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), bottleneck_dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(dims):
            linear = nn.Linear(before, after)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            layers += [linear, *([nn.BatchNorm1d(after)] if norm else []), nn.GELU()]
        self.layers = nn.Sequential(*layers[: -2 if norm else -1])  # the bottleneck has neither
        self.last = nn.Linear(bottleneck_dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Project ``x`` (N, in_dim)."""
        return F.linear(F.normalize(self.layers(x), dim=1), F.normalize(self.last.weight, dim=1))
