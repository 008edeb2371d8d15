"""Distance between whitened features."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.models.heads.cosine import CosineHead
from unmix.models.layers.whitening import covariance, whiten
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather_grad
from unmix.utils.numbers import check_number
from unmix.utils.rng import generator, to_device
from unmix.utils.sizes import Misfit, Sizes


@MODELS.register_module()
class WMSEHead(CosineHead):
    """Squared distance of directions, after each view is whitened in random sub-batches.

    ``loss = mean over draws of (2 - 2 mean_n cos(w(q)_n, w(t)_n))`` (`W-MSE <https://arxiv.org/abs/2007.06346>`_, Eq.
    6), where a draw is a partition of the images, of all ranks, into sub-batches, the same for query and target, and
    ``w`` whitens each sub-batch of each of them on its own. Whitening keeps features from collapsing, so there are no
    negatives.

    All calls of one step use the same draws. Note that ``head(flip(q), t)`` is not ``head(q, flip(t))``, since the
    sub-batches do not turn with the batch. With several ranks the sub-batches are of the gathered batch, as in the
    released code on several devices (DataParallel).

    Args:
        sub_batch: Images in a sub-batch, a divisor of the batch of all ranks, larger than D; the paper takes 2 D.
        draws: Number of partitions.
        eps: Shrinkage of the covariance, see :func:`unmix.models.layers.whitening.whiten`.
        normalize: As in :class:`CosineHead`.
    """

    unit_length = False  # whitening needs the length
    pools_ranks = True
    each = BaseHead.each  # sub-batches are whitened together

    def __init__(
        self,
        sub_batch: int,
        draws: int = 1,
        eps: float = 0.0,
        normalize: bool = True,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(normalize, init_cfg)
        if draws < 1 or not 0 <= eps < 1:
            raise ValueError(f'head.draws is {draws} and head.eps {eps}; expected at least 1, and [0, 1).')
        check_number('head.sub_batch', sub_batch, least=2, whole=True)
        self.sub_batch, self.draws, self.eps = sub_batch, draws, eps

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return sub-batches that do not divide a batch, or are not larger than D."""
        found, own = super().misfits(sizes), f'model.head.sub_batch is {self.sub_batch}, '
        if sizes.batch % self.sub_batch:
            reason = f'{own}which does not divide the batch of all processes, {sizes.batch}'
            found.append(Misfit(reason, fatal=True))
        if sizes.dim is not None and self.sub_batch <= sizes.dim:
            reason = f'{own}but features have {sizes.dim} dimensions, and the covariance of so few is singular'
            found.append(Misfit(reason, fatal=True))
        return found

    def suitable(self, sizes: Sizes) -> dict[str, int] | None:
        """Return a smaller sub-batch with features of half as many dimensions; None where another batch is easier."""
        dim = sizes.dim or self.sub_batch // 2
        if sizes.batch % self.sub_batch == 0 and self.sub_batch > dim:
            return {}
        if sizes.batch % self.sub_batch == 0 and sizes.batch % (2 * dim) == 0:
            return {'model.head.sub_batch': 2 * dim}
        if sizes.batch >= self.sub_batch and sizes.batch & (sizes.batch - 1):
            return None
        sub_batch = min(sizes.batch, 2 * dim)
        return {'model.head.sub_batch': sub_batch, 'model.neck.out_dim': min(dim, sub_batch // 2)}

    def permutations(self, size: int) -> np.ndarray:
        """Draw this step's permutations (draws, size), a function of the step's key; the same on every rank."""
        rng = generator('sub-batches', *self.step.key)
        return np.stack([rng.permutation(size) for _ in range(self.draws)])

    def whiten(self, x: Tensor, permutations: Tensor) -> Tensor:
        """Whiten features (G, D) in the sub-batches of each permutation (draws, G): (draws, G, D), in its order."""
        groups = x[permutations].unflatten(1, (-1, self.sub_batch))
        return whiten(groups, *covariance(groups), self.eps).flatten(1, 2)

    @full_precision
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``query`` and ``target``, both (N, D), of any length.

        Raises:
            ValueError: If the sub-batch is not larger than D, or does not divide the batch.
        """
        queries, targets = concat_all_gather_grad(torch.stack([query, target], dim=1)).unbind(1)
        size, dim = queries.shape
        if self.sub_batch <= dim:
            raise ValueError(
                f'head.sub_batch is {self.sub_batch}, features have {dim} dimensions: the covariance of so few is '
                f'singular. Set head.sub_batch to {2 * dim}, or model.neck.out_dim to at most {self.sub_batch // 2}.'
            )
        if size % self.sub_batch:
            raise ValueError(
                f'A batch of {size} (all ranks) cannot be cut into sub-batches of head.sub_batch={self.sub_batch}. '
                "Set train_dataloader.batch_size to a multiple of it, with model.unmix.pairs='once' of twice as much."
            )
        permutations = to_device(self.permutations(size), query.device)
        return super().forward(self.whiten(queries, permutations), self.whiten(targets, permutations))
