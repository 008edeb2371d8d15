"""Check that a method keeps all promises."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unmix.testing.method import MethodUnderTest, Prepare
from unmix.testing.promises import PROMISES
from unmix.testing.two_ranks import check_two_ranks


class BrokenPromise(AssertionError):
    """A method does not keep a promise.

    Attributes:
        promise: Name of the promise, a key of :data:`PROMISES`, or ``'two_ranks_equal_one_process'``.
    """

    def __init__(self, promise: str, message: str) -> None:
        super().__init__(message)
        self.promise = promise


def check_method(
    config: dict[str, Any],
    *,
    num_views: int = 2,
    image_size: int | Sequence[int] = 8,
    batch_size: int = 6,
    in_channels: int = 3,
    prepare: Prepare | None = None,
    encodings: tuple[int, int] | None = None,
    joint_batch_norm: bool = False,
    moves_with_optimizer: bool = False,
    literal_unmix: bool = True,
    ranks: bool = False,
    condition: float = 100.0,
) -> None:
    """Check that a method keeps all of :data:`PROMISES`, plain and with Un-Mix, on small random images in float64.

    Take a small network, because the method is built and run about a hundred times. Needs no pytest::

        check_method(dict(type='SimCLR', backbone=dict(type='ResNet', depth=8, width=4, in_channels=3, stem='cifar'),
                          neck=dict(type='MLPNeck', in_dim=16, hidden_dim=12, out_dim=8), head=dict(type='MyHead')))

    Args:
        config: Config of the method, as ``model`` of a recipe.
        num_views: Number of views, or of crops, of an image.
        image_size: Height and width of the views in pixels; a sequence has one size for each view.
        batch_size: Number of images N.
        in_channels: Number of channels of an image.
        prepare: See :class:`MethodUnderTest`, as the next four.
        encodings: Number of forward passes in a step with Un-Mix: (backbone, momentum encoder); None: not checked.
        joint_batch_norm: Whether BatchNorm normalises the mixture together with the views.
        moves_with_optimizer: Whether the head's buffers move in ``head.after_step`` only.
        literal_unmix: Whether ``loss_unmix`` is the equation of the paper.
        ranks: Also check that two processes with half the batch each equal one process with the whole batch. It starts
            processes, so a script must call it under ``if __name__ == '__main__':``, and the method's classes must be
            in modules that can be imported.
        condition: How many times the method enlarges a rounding error, with ``ranks``.

    Raises:
        BrokenPromise: At the first promise that is broken. The message says which, what was seen, what was expected
            and what to change.
    """
    method = MethodUnderTest(
        config, num_views, image_size, batch_size, in_channels, prepare, encodings, joint_batch_norm,
        moves_with_optimizer, literal_unmix, condition,
    )  # fmt: skip
    for name, (_, forms) in PROMISES.items():
        for form in forms:
            check_promise(name, method, form)
    if ranks:
        _run('two_ranks_equal_one_process', check_two_ranks, method)


def check_promise(name: str, method: MethodUnderTest, form: str) -> None:
    """Check one promise of one form of a method, ``'plain'`` or ``'unmix'``.

    Raises:
        BrokenPromise: If the promise is broken.
    """
    heading = f'{name} ({"with Un-Mix" if form == "unmix" else "plain"})'
    _run(name, PROMISES[name].check, method, method.unmix if form == 'unmix' else None, heading=heading)


def _run(name: str, check: Callable[..., None], *args: object, heading: str = '') -> None:
    title = (check.__doc__ or '').strip().splitlines()[0]
    message = f'{heading or name}: {title}'
    try:
        with torch.random.fork_rng(devices=[]):
            check(*args)
    except AssertionError as error:
        raise BrokenPromise(name, f'{message}\n{error}') from None
    except Exception as error:
        raise BrokenPromise(name, f'{message}\n  seen: {type(error).__name__}: {error}') from error
