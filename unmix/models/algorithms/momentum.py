"""The slowly moving encoder that gives targets."""

import copy

import torch
from torch import Tensor, nn

import unmix.utils.tensor_versions  # noqa: F401


class MomentumEncoder(nn.Module):
    """An exponential moving average of backbone and neck: ``theta <- momentum * theta + (1 - momentum) * online``.

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
        self._versions: list[int] = []

    def forward(self, view: Tensor) -> Tensor:
        """Return projections (N, D), of unit length, of a view (N, C, H, W)."""
        return nn.functional.normalize(self.project(view), dim=1)

    def project(self, view: Tensor) -> Tensor:
        """Return projections (N, D), of any length, of a view (N, C, H, W)."""
        return self.neck(self.backbone(view))

    def copy_from(self, backbone: nn.Module, neck: nn.Module) -> None:
        """Take over weights and buffers, for a pre-trained start."""
        self.backbone.load_state_dict(backbone.state_dict())
        self.neck.load_state_dict(neck.state_dict())

    @torch.no_grad()
    @torch.compiler.disable
    def update(self, backbone: nn.Module, neck: nn.Module) -> None:
        """Move one step towards the online weights, if an optimiser step has changed them since the last call.

        So gradient accumulation, or a step skipped by a gradient scaler, does not move the average more often. A
        tensor's version counts its in-place changes; every optimiser makes them, see ``unmix.utils.tensor_versions``.
        """
        if self.is_up_to_date(backbone, neck):
            return
        own: list[Tensor] = [*self.backbone.parameters(), *self.neck.parameters()]
        torch._foreach_lerp_(own, [*backbone.parameters(), *neck.parameters()], 1.0 - self.momentum)
        self.mark_up_to_date(backbone, neck)

    def is_up_to_date(self, backbone: nn.Module, neck: nn.Module) -> bool:
        """Whether neither the online weights nor these have changed since the last move."""
        return self._versions == self._current(backbone, neck)

    def mark_up_to_date(self, backbone: nn.Module, neck: nn.Module) -> None:
        """Take the weights as they are for moved, as in a step that is replayed from its middle."""
        self._versions = self._current(backbone, neck)

    def _current(self, backbone: nn.Module, neck: nn.Module) -> list[int]:
        # Its own versions count too: a move that is undone (a step that is taken back) is made again.
        return [p._version for module in (backbone, neck, self) for p in module.parameters()]
