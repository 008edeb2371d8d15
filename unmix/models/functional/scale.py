"""Let autograd differentiate with respect to a scale."""

from torch import Tensor


def fold_scale(query: Tensor, scale: float | Tensor) -> tuple[Tensor, float]:
    """Multiply a scale that is a tensor into the query; return the query and the scale that is left to apply.

    The autograd functions of this package know derivatives with respect to rows only, and take a float as scale.
    Autograd gets the derivative with respect to a tensor from this product: for a log-sum-exp ``query . (softmax @
    bank)``. A float scale is returned with the query unchanged.

    Args:
        query: (R, D).
        scale: A float, or a tensor ().
    """
    return (scale * query, 1.0) if isinstance(scale, Tensor) else (query, scale)
