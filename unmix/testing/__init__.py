"""Check a method against what every method of this toolbox promises."""

from unmix.testing.check import BrokenPromise, check_method, check_promise
from unmix.testing.method import MethodUnderTest
from unmix.testing.promises import PROMISES
from unmix.testing.ranks import run_ranks, without_batch_norm
from unmix.testing.tolerances import assert_same, rounding

__all__ = [
    'PROMISES',
    'BrokenPromise',
    'MethodUnderTest',
    'assert_same',
    'check_method',
    'check_promise',
    'rounding',
    'run_ranks',
    'without_batch_norm',
]
