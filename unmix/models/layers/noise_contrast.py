"""Softmax and noise-contrastive losses of the scores of one positive and K negatives."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.models.functional.at_a_time import numbers_at_a_time

EPS = 1e-7
FORMS = ('softmax', 'nce')
AT_A_TIME = 1 << 22  # numbers that a chunk of samples makes on a CPU, gathered or scores; measured


def build_contrast(form: str, num_instances: int, truncate: bool = False) -> nn.Module:
    """Build the loss by its name; see :class:`SoftmaxContrast`, :class:`NoiseContrast`.

    Raises:
        ValueError: If the name is neither ``'softmax'`` nor ``'nce'``.
    """
    if form not in FORMS:
        raise ValueError(f'head.form is {form!r}; it is one of {FORMS}.')
    return SoftmaxContrast() if form == 'softmax' else NoiseContrast(num_instances, truncate)


def chunk_size(query: Tensor, numbers: int, contrasts: Iterable[nn.Module], least: int = 1) -> int:
    """Return how many samples of ``query`` (N, ...) are scored at a time: all of them while the constant is pending."""
    if any(contrast.pending for contrast in contrasts):
        return len(query)
    return max(numbers_at_a_time(query.device, AT_A_TIME) // numbers, least)


class SoftmaxContrast(nn.Module):
    """``-log softmax(scores_n)[0]``."""

    pending = False

    def forward(self, scores: Tensor) -> Tensor:
        """Return the losses (N,) of scores (N, 1 + K), the positive first, divided by the temperature."""
        return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long), reduction='none')

    def settle(self, scores: Tensor) -> None:
        """Do nothing: this loss has no constant."""


class NoiseContrast(nn.Module):
    """Tell data from K noise samples, uniform over the n instances (`NCE <https://arxiv.org/abs/1805.01978>`_, Eq. 7).

    With ``P = exp(score) / Z`` and ``c = K / n``:
    ``loss_n = -[log(P_0 / (P_0 + c + eps)) + sum_j log(c / (P_j + c + eps))]``, computed by logarithms.

    ``Z = n * mean(exp(score))`` of the first batch, of all ranks, is kept for the rest of the training, and has no
    gradient. Within the very first step each call uses the Z of its own scores, which for the clean batch is the same.

    Args:
        num_instances: Number of instances n.
        truncate: Cut Z to an integer, as the MoCo of the CMC repository does by its integer buffer.

    Attributes:
        constant: Z, () float; -1 until it is settled.
        pending: Whether it may not be settled yet; kept on the host, so that no step waits for the device.
    """

    constant: Tensor

    def __init__(self, num_instances: int, truncate: bool = False) -> None:
        super().__init__()
        self.num_instances, self.truncate = num_instances, truncate
        self.register_buffer('constant', torch.tensor(-1.0))
        self.pending = True

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.pending = True

    def log_constant(self, scores: Tensor) -> Tensor:
        """Return ln Z: the stored one, or that of ``scores`` before it is set."""
        if not self.pending:
            return self.constant.log()
        mean = scores.detach().exp().mean()
        if get_world_size() > 1:
            all_reduce(mean, op='mean')
        fresh = self.num_instances * mean
        fresh = fresh.trunc() if self.truncate else fresh
        return torch.where(self.constant > 0, self.constant, fresh).log()

    def forward(self, scores: Tensor) -> Tensor:
        """Return the losses (N,) of scores (N, 1 + K), the positive first, divided by the temperature."""
        num_negatives = scores.shape[1] - 1
        noise = num_negatives / self.num_instances
        log_odds = scores - self.log_constant(scores) - math.log(noise + EPS)
        zero = torch.zeros_like(log_odds[:, :1])
        positive = torch.logaddexp(zero, -log_odds[:, :1])[:, 0]
        negatives = torch.logaddexp(zero, log_odds[:, 1:]).sum(1) + num_negatives * math.log1p(EPS / noise)
        return positive + negatives

    @torch.no_grad()
    def settle(self, scores: Tensor) -> None:
        """Store Z if this is the first batch."""
        if self.pending:
            self.constant = self.log_constant(scores).exp().to(self.constant.dtype)
            self.pending = False
