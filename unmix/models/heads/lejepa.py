"""Invariance of views; a Gaussian distribution of each."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor
from torch.nn import functional as F

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS
from unmix.utils.dist import sum_over_ranks
from unmix.utils.numbers import check_number, check_sizes
from unmix.utils.rng import generator, to_device


@MODELS.register_module()
class LeJEPAHead(BaseHead):
    """Pull views to a centre; let the projections of each view be distributed as an isotropic Gaussian.

    ``forward = (1 - weight) * mean_nd (q_nd - t_nd)^2`` and, with the G images of all ranks and unit directions ``u``,

    ``regulariser = weight * mean_v mean_u G int |mean_n exp(i s u.z_vn) - exp(-s^2 / 2)|^2 exp(-s^2 / 2) ds``

    (`LeJEPA <https://arxiv.org/abs/2511.08544>`_, Eq. 6 to 8 and Alg. 1 and 2), the integral from ``-limit`` to
    ``limit`` by the trapezoidal rule; the integrand is even, so it has ``knots`` points from 0. It is computed view by
    view. A mixture has about ``lam^2 + (1 - lam)^2`` of the variance, so Un-Mix mixes the invariance only,
    and weights the regulariser as all pairs together, by ``1 + loss_weight``.

    Args:
        weight: Weight lambda of the regulariser.
        directions: Number of directions, drawn anew in each step.
        knots: Number of points of the integral.
        limit: Its limit.

    Raises:
        ValueError: If the weight is outside [0, 1], the limit not positive, or there are no directions or one knot.
    """

    unit_length = False  # the distribution has a length

    def __init__(self, weight: float = 0.05, directions: int = 1024, knots: int = 17, limit: float = 3.0) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f'head.weight is {weight}; the share of the regulariser lies in [0, 1].')
        check_sizes('head', directions=directions)
        check_number('head.knots', knots, least=2, whole=True)
        check_number('head.limit', limit, above=0)
        self.weight, self.directions, self.knots, self.limit = weight, directions, knots, limit

    @full_precision
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the pair term of ``query`` and ``target``, both (N, D)."""
        return (1 - self.weight) * F.mse_loss(query, target)

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: None = None) -> Tensor:
        """Return the pair terms (N,) of ``query`` and ``target``, both (N, D)."""
        return (1 - self.weight) * (query - target).square().mean(1)

    def regulariser(self, features: Mapping[Any, Tensor]) -> Tensor:
        """Return the mean of the views' distances from a Gaussian; each view is (N, D)."""
        directions = self.draw(next(iter(features.values())))
        return self.weight * torch.stack([self.distance(view, directions) for view in features.values()]).mean()

    def draw(self, like: Tensor) -> Tensor:
        """Draw the unit directions (D, directions) of this step, the same for all views and on all ranks."""
        normal = generator('directions', *self.step.key).standard_normal((like.shape[1], self.directions))
        return F.normalize(to_device(normal, like.device, like.dtype), dim=0)

    @full_precision
    def distance(self, view: Tensor, directions: Tensor) -> Tensor:
        """Return the Epps-Pulley statistic of projections (N, D), the mean over unit directions (D, U)."""
        points = torch.linspace(0, self.limit, self.knots, dtype=view.dtype, device=view.device)
        gaussian = (-points.square() / 2).exp()
        angles = (view @ directions)[..., None] * points
        size = len(view) * get_world_size()
        cosine, sine = (sum_over_ranks(torch.stack([angles.cos().sum(0), angles.sin().sum(0)])) / size).unbind()
        error = (cosine - gaussian).square() + sine.square()
        return 2 * size * torch.trapezoid(error * gaussian, points, dim=1).mean()
