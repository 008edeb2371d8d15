"""Two processes with half the batch each are one process with the whole batch.

Without BatchNorm, whose statistics are those of a process unless it is synchronised.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

from unmix.mixing import Partners
from unmix.models.algorithms.base import BaseAlgorithm
from unmix.testing.method import MethodUnderTest, Unmix, backward, copied, replace, sgd
from unmix.testing.ranks import run_ranks, without_batch_norm
from unmix.testing.tolerances import assert_same, rounding

STEPS = 3


class Outcome(NamedTuple):
    """What some training steps came to.

    Attributes:
        losses: Loss terms by name, (steps,) each.
        gradients: Those of the last step, by parameter.
        state: State dict at the end.
    """

    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


class Halves(Partners):
    """The partners of one process as two ranks have them: each half of the batch by itself.

    Args:
        partners: Those of a half.
    """

    def __init__(self, partners: Partners) -> None:
        self.partners, self.whole = partners, partners.whole

    def first(self, x: Tensor) -> Tensor:
        """See :meth:`Partners.first`."""
        return torch.cat([self.partners.first(half) for half in x.chunk(2)])

    def second(self, x: Tensor) -> Tensor:
        """See :meth:`Partners.second`."""
        return torch.cat([self.partners.second(half) for half in x.chunk(2)])

    def met(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Partners.met`."""
        return (x, x) if self.whole else (self.first(x), self.second(x))

    def turn(self, mixtures: Tensor) -> Tensor:
        """See :meth:`Partners.turn`."""
        return torch.cat([self.partners.turn(half) for half in mixtures.chunk(2)])

    def back(self, turned: Tensor) -> Tensor:
        """See :meth:`Partners.back`."""
        return torch.cat([self.partners.back(half) for half in turned.chunk(2)])


def train_rows(method: MethodUnderTest, unmix: Unmix, own: slice = slice(None), halves: bool = False) -> Outcome:
    """Train without BatchNorm on rows ``own`` of the batch for 3 steps, on this rank; gradients are averaged.

    Mixtures are drawn as on rank 0; with ``halves`` the partners are those of two ranks. Each step is an epoch of
    ``prepare``.
    """
    model = method.build(unmix)
    if halves and model.unmix is not None:
        partners = model.unmix.partners
        replace(model.unmix, partners=lambda rng: Halves(partners(rng)))
    without_batch_norm(model)
    draw = BaseAlgorithm.generator
    replace(model, generator=lambda purpose, *key: draw(model, purpose, *(0 for _ in key)))
    optimizer = sgd(model)
    for group in optimizer.param_groups:
        group['weight_decay'] = 1e-2
    generator = torch.Generator().manual_seed(1)
    instances = model.head.num_instances or method.batch_size
    losses: dict[str, list[Tensor]] = {}
    for step in range(STEPS):
        views = [view[own] for view in method.draw_views(generator)]
        index = torch.randperm(instances, generator=generator)[: method.batch_size][own]
        if method.prepare is not None:
            method.prepare(model, views, index, step)
        optimizer.zero_grad()
        terms = model.loss(views, index)
        backward(terms)
        _average_gradients(model)
        model.before_step()
        optimizer.step()
        model.after_step()
        for key, term in terms.items():
            losses.setdefault(key, []).append(term.detach())
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    return Outcome({key: torch.stack(terms) for key, terms in losses.items()}, gradients, copied(model.state_dict()))


def _average_gradients(model: nn.Module) -> None:
    if distributed.is_initialized():
        for parameter in model.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()


def train_half(rank: int, method: MethodUnderTest, unmix: Unmix) -> Outcome:
    """Train on the half of the batch that is rank 0's or 1's."""
    half = method.batch_size // 2
    return train_rows(method, unmix, slice(rank * half, rank * half + half))


def compare_ranks(parts: list[Outcome], method: MethodUnderTest, unmix: Unmix) -> None:
    """Check that what two ranks came to is what this process comes to with the whole batch.

    Raises:
        AssertionError: If losses, gradients or state differ by more than rounding.
    """
    whole = train_rows(method, unmix, halves=True)
    # The longest sum is a convolution's gradient, over the pixels of the batch.
    bound = rounding(method.batch_size * max(method.sizes) ** 2, method.condition)
    to_do = (
        '  to do: Let the loss be a mean over samples. Gather features of all ranks by unmix.utils.dist where a sample '
        'meets other samples, and before they enter a queue or a bank.'
    )
    for key, expected in whole.losses.items():
        assert_same((parts[0].losses[key] + parts[1].losses[key]) / 2, expected, bound, f'{to_do}\n  seen: {key}')
    for part in parts:
        _compare('gradient of', part.gradients, whole.gradients, bound, to_do)
        _compare('state', part.state, whole.state, bound, to_do)
    if not any(gradient.abs().max() > 1e-4 for gradient in whole.gradients.values()):
        raise AssertionError('All gradients are nearly 0, so nothing is compared: use another network or head.')


def _compare(kind: str, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], bound: float, to_do: str) -> None:
    if actual.keys() != expected.keys():
        raise AssertionError(f'  seen: {kind} {sorted(actual.keys() ^ expected.keys())} on one side only\n{to_do}')
    for key, tensor in expected.items():
        assert_same(actual[key], tensor, bound, f'{to_do}\n  seen: {kind} {key}')


def check_two_ranks(method: MethodUnderTest) -> None:
    """Two processes with half the batch each have the losses, gradients and state of one with the whole batch."""
    classes = {type(module) for module in method.build().modules()}  # unpickled, they register themselves
    forms = {'plain': None, 'with Un-Mix': method.unmix}
    with tempfile.TemporaryDirectory() as directory:
        run_ranks(_run_rank, 2, Path(directory), sorted(classes, key=repr), method, forms, directory)
        parts = [torch.load(Path(directory) / f'{rank}.pth', weights_only=False) for rank in range(2)]
    for form, unmix in forms.items():
        try:
            compare_ranks([part[form] for part in parts], method, unmix)
        except AssertionError as error:
            raise AssertionError(f'  form: {form}\n{error}') from None


def _run_rank(rank: int, _: list[type], method: MethodUnderTest, forms: dict[str, Unmix], directory: str) -> None:
    torch.save({form: train_half(rank, method, unmix) for form, unmix in forms.items()}, f'{directory}/{rank}.pth')
