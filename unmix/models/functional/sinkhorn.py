"""Balanced assignment of samples to prototypes."""

import torch
from mmengine.dist import get_world_size
from torch import Tensor

from unmix.utils.dist import concat_all_gather


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3, mask: Tensor | None = None) -> Tensor:
    """Return the codes (N, K) of Sinkhorn and Knopp: rows are distributions, all ranks together use prototypes equally.

    ``Q = exp(scores / epsilon)``; repeat: scale each prototype's column to the same sum over the samples of all ranks,
    then each sample's row to sum 1 (`SwAV <https://arxiv.org/abs/2006.09882>`_, Sec. 3.1). Here with the logarithms of
    the scales, so nothing overflows; the constants K and N cancel. One collective an iteration, a vector of K numbers.

    Deviation: the released CIFAR code replaces infinite entries of Q by the largest finite one; here there is none.

    Args:
        scores: Similarities (N, K) of this rank's samples.
        epsilon: Smoothness; small is sharp.
        iterations: Number of repetitions.
        mask: 0 for samples that count and -inf for those that do not, (N,); their codes are computed all the same.
    """
    with torch.autocast(scores.device.type, enabled=False):
        logits = (scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores) / epsilon
        sample = logits.logsumexp(1, keepdim=True)
        prototype = torch.zeros_like(logits[:1])
        for i in range(iterations):
            rest = logits - sample if i else logits
            if mask is not None:
                rest = rest + mask[:, None]
            prototype = _logsumexp_over_ranks(rest)
            sample = (logits - prototype).logsumexp(1, keepdim=True)
        return (logits - prototype - sample).exp()


def _logsumexp_over_ranks(x: Tensor) -> Tensor:
    """Log of the summed exponentials of a column over all ranks' rows: (N, K) to (1, K)."""
    total = x.logsumexp(0, keepdim=True)
    return total if get_world_size() == 1 else concat_all_gather(total).logsumexp(0, keepdim=True)
