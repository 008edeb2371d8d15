"""SwAV with Un-Mix as released: one joint encoding, and three evaluations of the whole loss with two Sinkhorns each."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from literal.mixing import mix


class SwAV(nn.Module):
    """Two or more crops of one size. Crops 0, 2, ... are mixed. The mixtures replace them in the second and third loss.

    Args:
        encoder: Images to features of any length; crops and mixtures go through it as one batch.
        flip_mode: ``'code_only'`` as released, ``'full'`` as the author explains it.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dim: int = 128,
        num_prototypes: int = 100,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        flip_mode: str = 'code_only',
        prob: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder, self.prototypes = encoder, nn.Linear(dim, num_prototypes, bias=False)
        self.temperature, self.epsilon, self.flip_mode, self.prob = temperature, epsilon, flip_mode, prob
        self.mixing = np.random.default_rng(0)

    @torch.no_grad()
    def normalize_prototypes(self) -> None:
        weight = self.prototypes.weight.data.clone()
        self.prototypes.weight.copy_(F.normalize(weight, dim=1, p=2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of two crops."""
        self.normalize_prototypes()
        mixture, lam = mix(x, self.mixing, self.prob)
        features = F.normalize(self.encoder(torch.cat([x, y, mixture])), dim=1, p=2)
        a, b, mixed = self.prototypes(features).chunk(3)
        reverse = mixed.flip(0)
        predicted = mixed if self.flip_mode == 'code_only' else reverse
        return (
            self.swapped([a, b], [a, b])
            + lam * self.swapped([mixed, b], [mixed, b])
            + (1 - lam) * self.swapped([reverse, b], [predicted, b])
        )

    def swapped(self, assigned: Sequence[Tensor], predicted: Sequence[Tensor]) -> Tensor:
        """Cross-entropy of the codes of the first two crops and the predictions of all others."""
        total: Any = 0.0
        for i in range(2):
            code = self.sinkhorn(assigned[i].detach())
            terms: Any = 0.0
            for v in range(len(predicted)):
                if v != i:
                    prediction = F.softmax(predicted[v] / self.temperature, dim=1)
                    terms = terms - torch.mean(torch.sum(code * torch.log(prediction), dim=1))
            total = total + terms / (len(predicted) - 1)
        loss: Tensor = total / 2
        return loss

    @torch.no_grad()
    def sinkhorn(self, scores: Tensor) -> Tensor:
        q = torch.exp(scores / self.epsilon).t()
        num_prototypes, num_samples = q.shape
        q = q / torch.sum(q)
        for _ in range(3):
            q = q / torch.sum(q, dim=1, keepdim=True) / num_prototypes
            q = q / torch.sum(q, dim=0, keepdim=True) / num_samples
        return (q * num_samples).t()


class LARC(torch.optim.SGD):
    """SGD on gradients that are scaled and decayed one tensor after the other, with norms read on the host."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, decay: float = 1e-6, trust: float = 0.001) -> None:
        super().__init__(params, lr, momentum=0.9)
        self.decay, self.trust = decay, trust

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        for group in self.param_groups:
            for p in group['params']:
                norm, gradient = torch.norm(p.data), torch.norm(p.grad.data)
                if norm != 0 and gradient != 0:
                    rate = self.trust * norm / (gradient + norm * self.decay + 1e-8)
                    p.grad.data += self.decay * p.data
                    p.grad.data *= rate
        super().step()
