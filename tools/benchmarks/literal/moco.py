"""MoCo on CIFAR with Un-Mix: the script's step, and that of Un-Mix's README, with three calls of the model."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from literal.mixing import mix


class MoCo(nn.Module):
    """The step of the CIFAR script, symmetric or not, with or without Un-Mix.

    Args:
        encoder: Images to features of any length, copied for the keys.
        form: ``'script'``: an encoding of the mixture in each direction, features are reversed; ``'readme'``: a call of
            the model, queries and keys, for the views, the mixture, and the reversed mixture; ``'plain'``: no Un-Mix.
    """

    def __init__(
        self,
        encoder: nn.Module,
        form: str = 'script',
        symmetric: bool = False,
        dim: int = 128,
        queue_size: int = 4096,
        temperature: float = 0.1,
        momentum: float = 0.99,
        prob: float = 0.5,
    ) -> None:
        super().__init__()
        self.queue: Tensor
        self.form, self.symmetric, self.prob = form, symmetric, prob
        self.temperature, self.momentum = temperature, momentum
        self.encoder_q, self.encoder_k = encoder, copy.deepcopy(encoder)
        self.encoder_k.requires_grad_(False)
        self.register_buffer('queue', F.normalize(torch.randn(dim, queue_size), dim=0))
        self.pointer = 0
        self.mixing, self.shuffling = np.random.default_rng(0), np.random.default_rng(1)

    @torch.no_grad()
    def move_keys(self) -> None:
        for key, query in zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True):
            key.data = key.data * self.momentum + query.data * (1.0 - self.momentum)

    @torch.no_grad()
    def encode_keys(self, images: Tensor) -> Tensor:
        shuffle = torch.from_numpy(self.shuffling.permutation(len(images))).to(images.device)
        return F.normalize(self.encoder_k(images[shuffle]), dim=1)[torch.argsort(shuffle)]

    def contrast(self, query: Tensor, key: Tensor) -> Tensor:
        positive = torch.einsum('nc,nc->n', [query, key]).unsqueeze(-1)
        negative = torch.einsum('nc,ck->nk', [query, self.queue.clone().detach()])
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))

    def direction(self, x: Tensor, mixture: Tensor | None, y: Tensor, lam: float) -> tuple[Tensor, Tensor]:
        """Return the loss of the query view x and the mixture against the key view y, and the keys."""
        query = F.normalize(self.encoder_q(x), dim=1)
        if self.form == 'readme' and mixture is not None:
            key = self.encode_keys(y)
            loss = self.contrast(query, key)
            for share, images in ((lam, mixture), (1 - lam, mixture.flip(0))):
                query = F.normalize(self.encoder_q(images), dim=1)
                loss = loss + share * self.contrast(query, self.encode_keys(y))
            return loss, key
        mixed = None if mixture is None else F.normalize(self.encoder_q(mixture), dim=1)
        key = self.encode_keys(y)
        loss = self.contrast(query, key)
        if mixed is not None:
            loss = loss + lam * self.contrast(mixed, key) + (1 - lam) * self.contrast(mixed.flip(0), key)
        return loss, key

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of two views. The key encoder moves before, the keys are enqueued after."""
        self.move_keys()
        mixture, lam = (None, 1.0) if self.form == 'plain' else mix(x, self.mixing, self.prob)
        loss, keys = self.direction(x, mixture, y, lam)
        if self.symmetric:
            other, other_keys = self.direction(y, mixture, x, lam)
            loss, keys = loss + other, torch.cat([other_keys, keys])
        self.enqueue(keys)
        return loss

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        rows = slice(self.pointer, self.pointer + len(keys))
        self.queue[:, rows] = keys.t()
        self.pointer = rows.stop % self.queue.shape[1]
