"""Whitening by the Cholesky factor of the covariance."""

import torch
from torch import Tensor, nn

from unmix.utils.nan_reasons import give_nan
from unmix.utils.precision import full_precision


def covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (..., 1, D) and unbiased covariance (..., D, D) of the rows of ``x`` (..., N, D)."""
    mean = x.mean(-2, keepdim=True)
    centred = x - mean
    return mean, centred.mT @ centred / (x.shape[-2] - 1)


def whiten(x: Tensor, mean: Tensor, cov: Tensor, eps: float = 0.0) -> Tensor:
    """Return ``(x - mean) L^-T``, with ``L L^T = (1 - eps) cov + eps I`` and L lower triangular.

    (`W-MSE <https://arxiv.org/abs/2007.06346>`_, Sec. 3). With ``eps = 0`` and x's own mean and covariance the result
    has the identity as covariance. Where the released code stops, at a matrix that is singular to working
    precision, its diagonal grows by 1e-6, 1e-5, 1e-4 or 1e-3 of its mean, the least that makes it regular.

    Args:
        x: (..., N, D).
        mean: (..., 1, D).
        cov: (..., D, D).
        eps: Shrinkage of the covariance towards the identity.

    Raises:
        ValueError: If the matrix stays singular. But NaN in a training whose losses are watched (:class:`unmix.engine.
            hooks.FiniteLossHook` then says why), and on a GPU: asking it would stop its pipeline.
    """
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    cov = (1 - eps) * cov + eps * eye
    jitter, regular = _jitter(cov.detach(), eye)
    if cov.device.type == 'cpu' and not regular.all():
        give_nan(
            'W-MSE: the covariance of a sub-batch stays singular, so features are NaN, or the same for all images of '
            'it. Lower optim_wrapper.optimizer.lr, or set model.head.eps to 0.01.'
        )
    factor = torch.linalg.cholesky_ex(cov + jitter[..., None, None] * eye).L
    factor = torch.where(regular[..., None, None], factor, torch.nan)
    return torch.linalg.solve_triangular(factor, (x - mean).mT, upper=False).mT


def _jitter(cov: Tensor, eye: Tensor) -> tuple[Tensor, Tensor]:
    """Return the jitter that each matrix (..., D, D) needs, and whether it has a Cholesky factor with it."""
    variance = cov.diagonal(dim1=-2, dim2=-1).mean(-1)
    shares = 10.0 ** torch.arange(-7, -2, dtype=cov.dtype, device=cov.device)
    jitter = shares.where(shares > 5e-7, 0.0).view(-1, *[1] * variance.ndim) * variance
    regular = torch.linalg.cholesky_ex(cov + jitter[..., None, None] * eye).info == 0
    least = regular.int().argmax(0, keepdim=True)
    return jitter.gather(0, least)[0], regular.any(0) & variance.isfinite() & (variance > 0)


class Whitening(nn.Module):
    """Whiten a batch (N, D) with its own statistics, see :func:`whiten`; running statistics serve evaluation.

    ``running <- momentum * batch + (1 - momentum) * running``, from mean 0 and covariance I. Without running statistics
    evaluation also takes the batch's.

    Args:
        num_features: Feature dimension D.
        eps: Shrinkage of the covariance towards the identity.
        momentum: Share of the batch in the running statistics.
        track_running_stats: Whether there are any.
    """

    running_mean: Tensor
    running_cov: Tensor

    def __init__(
        self, num_features: int, eps: float = 0.0, momentum: float = 0.01, track_running_stats: bool = True
    ) -> None:
        super().__init__()
        self.eps, self.momentum, self.track_running_stats = eps, momentum, track_running_stats
        if track_running_stats:
            self.register_buffer('running_mean', torch.zeros(num_features))
            self.register_buffer('running_cov', torch.eye(num_features))

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Whiten ``x`` (N, D)."""
        if self.track_running_stats and not self.training:
            return whiten(x, self.running_mean, self.running_cov, self.eps)
        mean, cov = covariance(x)
        if self.track_running_stats:
            self.running_mean = self.running_mean.lerp(mean.detach()[0], self.momentum)
            self.running_cov = self.running_cov.lerp(cov.detach(), self.momentum)
        return whiten(x, mean, cov, self.eps)
