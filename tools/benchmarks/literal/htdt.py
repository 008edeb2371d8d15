"""SimCLR and BYOL of htdt's repository with Un-Mix as its README has it: three calls of the model.

``loss = F(x, y) + lam F(m, y) + (1 - lam) F(reversed m, y)``, where F encodes both of its views.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from literal.mixing import mix


class ThreeCalls(nn.Module):
    """Un-Mix around a loss of two views, ``call``, which subclasses define."""

    call: Callable[[Tensor, Tensor], Tensor]

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__()
        self.prob, self.mixing = prob, np.random.default_rng(0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mixture, lam = mix(x, self.mixing, self.prob)
        return self.call(x, y) + lam * self.call(mixture, y) + (1 - lam) * self.call(mixture.flip(0), y)


class SimCLR(ThreeCalls):
    """The encoder gets one view at a time, the head and its BatchNorm both views at once."""

    def __init__(self, encoder: nn.Module, head: nn.Module, temperature: float = 0.5, prob: float = 0.5) -> None:
        super().__init__(prob)
        self.encoder, self.head, self.temperature = encoder, head, temperature

    def call(self, x: Tensor, y: Tensor) -> Tensor:
        features = self.head(torch.cat([self.encoder(x), self.encoder(y)]))
        a, b = F.normalize(features, p=2, dim=1).chunk(2)
        return (self.one_side(a, b) + self.one_side(b, a)) / 2

    def one_side(self, a: Tensor, b: Tensor) -> Tensor:
        across, within = a @ b.t() / self.temperature, a @ a.t() / self.temperature
        within = within - torch.eye(len(a), dtype=a.dtype, device=a.device) * 1e9
        return F.cross_entropy(torch.cat([across, within], dim=1), torch.arange(len(a), device=a.device))


class BYOL(ThreeCalls):
    """Encoder, head and predictor, and the averaged encoder and head, get one view at a time."""

    def __init__(
        self, encoder: nn.Module, head: nn.Module, predictor: nn.Module, momentum: float = 0.99, prob: float = 0.5
    ) -> None:
        super().__init__(prob)
        self.encoder, self.head, self.predictor, self.momentum = encoder, head, predictor, momentum
        self.target_encoder, self.target_head = copy.deepcopy(encoder), copy.deepcopy(head)
        for module in (self.target_encoder, self.target_head):
            module.requires_grad_(False)

    def call(self, x: Tensor, y: Tensor) -> Tensor:
        views = (x, y)
        predictions = [self.predictor(self.head(self.encoder(view))) for view in views]
        with torch.no_grad():
            targets = [self.target_head(self.target_encoder(view)) for view in views]
        return self.distance(predictions[0], targets[1]) + self.distance(predictions[1], targets[0])

    @staticmethod
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return 2 - 2 * (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1).mean()

    @torch.no_grad()
    def move_target(self) -> None:
        """After the optimiser's step."""
        pairs = ((self.target_encoder, self.encoder), (self.target_head, self.head))
        for target, online in pairs:
            for p, q in zip(target.parameters(), online.parameters(), strict=True):
                p.data = self.momentum * p.data + (1 - self.momentum) * q.data
