"""Contrastive loss of nearest neighbours."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_rank
from torch import Tensor
from torch.nn import functional as F

from unmix.models.functional.precision import full_precision
from unmix.models.heads.info_nce import InfoNCEHead
from unmix.models.heads.simsiam import build_predictor
from unmix.models.layers import Temperature, read_temperature
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather_grad


@MODELS.register_module()
class NNCLRHead(InfoNCEHead):
    """Find, from the nearest neighbour of one view in a queue, the prediction from the other view.

    With ``nn(z)`` the row of the queue nearest to z, the predictor p, and predictions of all ranks as candidates,

    ``loss = 1/2 mean_n [CE_n(nn(a_n) . p(b) / temperature) + CE_n(nn(b_n) . p(a) / temperature)]``, of directions

    (`NNCLR <https://arxiv.org/abs/2104.14548>`_, Eqs. 2 to 4 and Alg. 1). The queue holds the projections of view 0 of
    earlier steps, never those of the present one: they enter after the step.

    Args:
        dim: Dimension D of the projections.
        hidden_dim: Hidden dimension of the predictor.
        queue_size: Rows of the queue; see :class:`FeatureQueue`.
        temperature: As in :class:`InfoNCEHead`.
    """

    remembers_queries = True
    method = 'NNCLR'
    unit_length = False  # the predictor gets projections as they are
    chance_loss = None  # ln(G), of the G images of a batch, which the head does not know

    def __init__(
        self,
        dim: int = 256,
        hidden_dim: int = 4096,
        queue_size: int = 98304,
        temperature: Temperature | dict[str, Any] = 0.1,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(dim, queue_size, temperature, init_cfg)
        self.predictor = build_predictor(dim, hidden_dim)

    def shared(self, query: Tensor) -> None:
        """Return nothing: the loss is symmetric."""

    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of projections ``query`` and ``target``, both (N, D), of any length."""
        return (self.match(query, self.predictor(target)) + self.match(target, self.predictor(query))) / 2

    def each(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the losses (N,) of projections ``query`` and ``target``, both (N, D), of any length."""
        return (self.match_each(query, self.predictor(target)) + self.match_each(target, self.predictor(query))) / 2

    @full_precision
    def match(self, view: Tensor, prediction: Tensor) -> Tensor:
        """Return the loss of the neighbours of one view (N, D) and the predictions (N, D) from the other."""
        return F.cross_entropy(*self._logits(view, prediction))

    @full_precision
    def match_each(self, view: Tensor, prediction: Tensor) -> Tensor:
        """Return the losses (N,) whose mean is :meth:`match`."""
        return F.cross_entropy(*self._logits(view, prediction), reduction='none')

    def _logits(self, view: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, G) and the places (N,) of the own predictions."""
        candidates = concat_all_gather_grad(F.normalize(prediction, dim=1))
        labels = len(view) * get_rank() + torch.arange(len(view), device=view.device)
        return self.neighbours(view) @ candidates.T / read_temperature(self.temperature), labels

    @torch.no_grad()
    def neighbours(self, view: Tensor) -> Tensor:
        """Return the rows (N, D) of the queue that are nearest to projections (N, D) of any length."""
        return self.queue.features[(view @ self.queue.features.to(view.dtype).T).argmax(1)].to(view.dtype)

    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Enqueue the projections of view 0, at unit length."""
        self.queue.enqueue(F.normalize(queries[0], dim=1))
