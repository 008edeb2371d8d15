"""The slowly moving encoder that gives targets."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd


class MomentumEncoder(nn.Module):
    """An exponential moving average of backbone and neck: ``theta <- momentum * theta + (1 - momentum) * online``.

    Stochastic depth and dropout are off in it, as in DINO's teacher: they would make noise of the targets.

    Only parameters are averaged; BatchNorm buffers follow from its own forward passes, as in the released code.

    Args:
        backbone: The online backbone, copied.
        neck: The online neck, copied.
        momentum: Share of the old weights that stays, in the papers' convention (0.99 to 0.999).

    Raises:
        ValueError: If ``momentum`` is outside [0.5, 1]; MMEngine's convention, 1 - momentum, would land there.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, momentum: float) -> None:
        super().__init__()
        if not 0.5 <= momentum <= 1:
            raise ValueError(
                f'model.momentum is {momentum}; it is the share of the old weights that stays at each step, so 0.99 or '
                f'0.999 (MMEngine writes 1 - momentum: did you mean {1 - momentum:g}?).'
            )
        self.momentum = momentum
        self.backbone, self.neck = copy.deepcopy(backbone), copy.deepcopy(neck)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> 'MomentumEncoder':
        """Set the mode; what drops features at random stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _DropoutNd) or type(module).__name__ in ('DropPath', 'StochasticDepth'):
                module.eval()
        return self

    def forward(self, view: Tensor) -> Tensor:
        """Return projections (N, D), of unit length, of a view (N, C, H, W)."""
        return nn.functional.normalize(self.project(view), dim=1)

    def project(self, view: Tensor) -> Tensor:
        """Return projections (N, D), of any length, of a view (N, C, H, W)."""
        projections: Tensor = self.neck(self.backbone(view))
        return projections

    def copy_from(self, backbone: nn.Module, neck: nn.Module) -> None:
        """Take over weights and buffers, for a pre-trained start."""
        self.backbone.load_state_dict(backbone.state_dict())
        self.neck.load_state_dict(neck.state_dict())

    @torch.no_grad()
    def update(self, backbone: nn.Module, neck: nn.Module) -> None:
        """Move one step towards the online weights; once for each optimiser step."""
        own: list[Tensor] = [*self.backbone.parameters(), *self.neck.parameters()]
        torch._foreach_lerp_(own, [*backbone.parameters(), *neck.parameters()], 1.0 - self.momentum)
