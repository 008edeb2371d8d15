"""The method that is checked: a config, data of its size, and the facts that a config does not tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from unmix.models.algorithms.base import MIXTURE, BaseAlgorithm, Features, View, beside_mixture
from unmix.registry import MODELS

Unmix = dict[str, Any] | None
Prepare = Callable[[BaseAlgorithm, Sequence[Tensor], Tensor, int], None]


@dataclass(frozen=True)
class MethodUnderTest:
    """A method on a network that is small enough to be run many times.

    Args:
        config: Config of the method, as ``model`` of a recipe. Its ``unmix`` is used where a check needs Un-Mix.
        num_views: Number of views, or of crops, of an image.
        image_size: Height and width of the views in pixels; a sequence has one size for each view.
        batch_size: Number of images N.
        in_channels: Number of channels C of an image.
        prepare: Called before the first step of an epoch as ``prepare(model, views, index, epoch)``; for a method that
            needs a hook, such as the clustering of DeepCluster-v2.
        encodings: Number of forward passes of the backbone in a step with Un-Mix, and of the momentum encoder's
            backbone; None: not checked.
        joint_batch_norm: BatchNorm normalises the mixture together with the views, as in SwAV. Then Un-Mix has an
            effect on the base loss in training mode, but in no other mode.
        moves_with_optimizer: The buffers of the head move in ``head.after_step``, not in ``head.update``.
        literal_unmix: ``loss_unmix`` is the equation of the paper; False for a method that departs from it in
            ``match_mixture`` or ``mixture_loss``.
        condition: How many times the method enlarges a relative error of rounding; for the check on two ranks.
    """

    config: Mapping[str, Any]
    num_views: int = 2
    image_size: int | Sequence[int] = 8
    batch_size: int = 6
    in_channels: int = 3
    prepare: Prepare | None = None
    encodings: tuple[int, int] | None = None
    joint_batch_norm: bool = False
    moves_with_optimizer: bool = False
    literal_unmix: bool = True
    condition: float = 100.0

    @property
    def unmix(self) -> dict[str, Any]:
        """Config of Un-Mix."""
        return dict(self.config.get('unmix') or dict(type='UnMix'))

    @property
    def index(self) -> Tensor:
        """Instance ids (N,) of the batch."""
        return torch.arange(self.batch_size)

    @property
    def sizes(self) -> list[int]:
        """Height and width of each view."""
        size = self.image_size
        return [size] * self.num_views if isinstance(size, int) else list(size)

    def draw_views(self, generator: torch.Generator) -> list[Tensor]:
        """Draw random views, each (N, C, H, W), in float64."""
        shape = self.batch_size, self.in_channels
        return [torch.randn(*shape, s, s, dtype=torch.float64, generator=generator) for s in self.sizes]

    def views(self) -> list[Tensor]:
        """Return the batch that all checks on one process use; the same at each call."""
        return self.draw_views(torch.Generator().manual_seed(1))

    def build(self, unmix: Unmix = None, seed: int = 0) -> BaseAlgorithm:
        """Build the method in float64, ready for the first step."""
        torch.manual_seed(seed)
        model: BaseAlgorithm = MODELS.build(dict(self.config, unmix=unmix))
        model.double()
        if self.prepare is not None:
            self.prepare(model, self.views(), self.index, 0)
        return model

    def step(self, model: BaseAlgorithm) -> dict[str, Tensor]:
        """Return the losses of a step, and commit it as one whose gradients accumulate."""
        losses = model.loss(self.views(), self.index)
        if model.training:
            model.after_step(stepped=False)
        return losses

    def train(self, model: BaseAlgorithm, optimizer: Optimizer) -> dict[str, Tensor]:
        """Take one optimiser step; return the losses before it."""
        optimizer.zero_grad()
        losses = model.loss(self.views(), self.index)
        backward(losses)
        model.before_step()
        optimizer.step()
        model.after_step()
        return losses

    def state(self, model: BaseAlgorithm) -> dict[str, Tensor]:
        """Copy all that a step may move, but BatchNorm's running statistics; the rows of the batch are in place."""
        model.head.enter(self.index)
        running = ('running_mean', 'running_var', 'running_cov', 'num_batches_tracked')
        return {key: value for key, value in copied(model.state_dict()).items() if not key.endswith(running)}


@dataclass
class Recorded:
    """What one call of ``loss`` computes: views, mixture and encodings.

    Attributes:
        views: What ``model.views`` makes of the batch.
        mixture: The mixture of ``model.mix``; None without Un-Mix.
        lam: Its share.
        queries: Encodings by view, as ``model.encode_all`` returns them.
        targets: What ``model.encode_targets`` returns, and the target of the mixture, if it is one.
    """

    views: Sequence[Any] = ()
    mixture: Any = None
    lam: float | Tensor = 1.0
    queries: Features = field(default_factory=dict)
    targets: Features = field(default_factory=dict)

    def target_of_mixture(self, view: View) -> Tensor:
        """Return the target that the mixture meets: encoded beside it where BatchNorm joins the two."""
        beside = beside_mixture(view) if isinstance(view, int) else view
        return self.queries.get(beside, self.targets[view])


def record(model: BaseAlgorithm) -> Recorded:
    """Write down what the next calls of ``model.loss`` compute; the last call counts."""
    seen = Recorded()
    views, mix, encode_all, encode_target = model.views, model.mix, model.encode_all, model.encode_target
    encode_targets = model.encode_targets

    def watch_views(inputs: Sequence[Tensor]) -> Sequence[Any]:
        seen.views = views(inputs)
        return seen.views

    def watch_mix(views: Sequence[Any]) -> tuple[Any, float | Tensor]:
        seen.mixture, seen.lam = mix(views)
        return seen.mixture, seen.lam

    def watch_queries(views: Mapping[View, Any]) -> Features:
        seen.queries = encode_all(views)
        return dict(seen.queries)

    def watch_target(view: Any, query: Tensor | None, index: Tensor | None) -> Tensor:
        seen.targets[MIXTURE] = encode_target(view, query, index)  # the last call is the mixture's, if it is a target
        return seen.targets[MIXTURE]

    def watch_targets(views: Sequence[Any], queries: Mapping[View, Tensor], index: Tensor | None) -> Features:
        targets = encode_targets(views, queries, index)
        seen.targets = dict(targets)
        return targets

    replace(model, views=watch_views, mix=watch_mix, encode_all=watch_queries)
    replace(model, encode_target=watch_target, encode_targets=watch_targets)
    return seen


def replace(owner: object, **methods: Callable[..., Any]) -> None:
    """Put functions in the place of methods of one object."""
    for name, method in methods.items():
        setattr(owner, name, method)


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """Add the terms of a step up."""
    return torch.stack(list(losses.values())).sum()


def backward(losses: Mapping[str, Tensor]) -> None:
    """Compute the gradients of the sum of the terms."""
    torch.autograd.backward(total(losses))


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, without their graph."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def sgd(model: BaseAlgorithm) -> torch.optim.SGD:
    """Return an optimiser of the parameters that learn, and tell the head of it."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    model.head.follow(optimizer)
    return optimizer


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Return the names whose tensors are not equal, bit for bit, or that only one of the two has."""
    common = one.keys() & other.keys()
    return sorted((one.keys() ^ other.keys()) | {key for key in common if not torch.equal(one[key], other[key])})


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest absolute difference; infinite where shapes or NaN differ."""
    if one.shape != other.shape:
        return float('inf')
    if one.dtype == torch.bool or not one.numel():
        return 0.0 if torch.equal(one, other) else float('inf')
    largest = float((one - other).detach().abs().max())
    return largest if largest == largest else float('inf')


def tensors_of(value: Any) -> list[Tensor]:
    """Return all tensors of a tensor, a sequence or mapping, however deep."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return [tensor for part in parts if not isinstance(part, str) for tensor in tensors_of(part)]
