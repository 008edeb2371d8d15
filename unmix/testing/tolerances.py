"""How far two computations of the same numbers may differ by rounding, on any processor."""

import torch
from torch import Tensor


def rounding(operations: int, condition: float = 1.0, dtype: torch.dtype = torch.float64) -> float:
    """Bound the difference of two results that are computed in different orders, relative to their size.

    ``2 condition n u / (1 - n u)``: each of the two is off by at most ``n u / (1 - n u)`` after n operations one on top
    of the other (`Higham 2002 <https://doi.org/10.1137/1.9780898718027>`_, Lemma 3.1), which the rest of the
    computation enlarges by its condition.

    Args:
        operations: The longest chain of operations to a number, n; for a sum of k products it is k.
        condition: How many times a relative error is enlarged, 1 where nothing cancels. It is a property of the test's
            data: a difference ``a - b`` has ``(|a| + |b|) / |a - b|``, a softmax its largest score, a matrix's inverse
            the matrix's condition.
        dtype: Of the computation; u is half its ``eps``.
    """
    error = operations * torch.finfo(dtype).eps / 2
    return 2 * condition * error / (1 - error)


def assert_same(actual: Tensor, expected: Tensor, bound: float, name: str = '') -> None:
    """Check that tensors differ by at most ``bound``, relative to the largest expected magnitude, or 1 if that is less.

    So a number that is small because terms cancel may be off as far as its terms.
    """
    largest = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=bound * max(1.0, largest), msg=lambda text: f'{name}: {text}'
    )
