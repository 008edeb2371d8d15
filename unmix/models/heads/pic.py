"""Classify each crop as the image it comes from (PIC)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from unmix.models.functional import bank_lse, own_similarity
from unmix.models.functional.at_a_time import in_one_table
from unmix.models.functional.precision import full_precision
from unmix.models.functional.sharded_softmax import sharded_cross_entropy
from unmix.models.functional.unit_rows import unit_rows
from unmix.models.heads.instances import InstanceHead, check_index
from unmix.models.layers import Temperature, build_temperature, read_temperature
from unmix.models.memory.recent import RecentInstances
from unmix.models.memory.rows_on_disk import RowsOnDisk
from unmix.registry import MODELS
from unmix.utils.numbers import check_number, check_sizes
from unmix.utils.sizes import Misfit, Sizes

INIT_STD = 0.01


@MODELS.register_module()
class PICHead(InstanceHead):
    """Classify each crop as its image, with one class per image (`PIC <https://arxiv.org/abs/2006.14618>`_, Eq. 1).

    ``loss = mean over images and crops of -log softmax_i(q . w_i / |w_i| / temperature)[own image]``

    On a CPU the softmax reads the weights in chunks and stores no table of logits, see :func:`bank_lse`. An accelerator
    stores the table where it is small beside its memory or the weights, see :func:`in_one_table`: that takes fewer
    kernels, and no similarity is computed twice. The two forms are equal up to rounding.

    The weights learn from large crops only, the encoder from all crops. The mean counts small crops too: with 1 large
    and 3 small crops the weights get a quarter of the gradient that they would get from the large one alone (as in the
    released code).

    With ``num_recent`` the softmax is over the K most recently seen instances, including those of the batch (Sec. 3.3).
    The weights of the other instances are corrected for the steps that they miss. The correction is in closed form and
    stays exact when the learning rate changes, so the training equals dense SGD on the same loss; see
    :class:`RecentInstances`. Before K instances have been seen, the classes are those seen so far. The released code
    has no ``num_recent``.

    With ``sharded`` each rank computes the logits of every world_size-th class only, for the crops of all ranks.

    Args:
        num_instances: Number of training images.
        dim: Feature dimension D.
        temperature: Divides the cosines; a number or a config, as in :class:`InfoNCEHead`.
        num_large: Number of large crops; they come first.
        num_recent: K; None: all instances are classes.
        sharded: Whether the ranks share the classes of the softmax; not with ``num_recent``.
        weight_grad_scale: Factor of the gradient of the weights.
        max_phases: See :class:`StepHistory`; with ``num_recent`` only.
        rows_dir: Directory for the weights of the instances that are not recent, if they do not fit into memory; see
            :class:`RowsOnDisk`. None: they are buffers.

    Attributes:
        weight: (num_instances, D), or (num_recent, D) with ``num_recent``; drawn from N(0, 0.01^2).

    Raises:
        ValueError: If an argument is out of its range.
        OSError: If ``rows_dir`` has no room.
    """

    num_instances: int

    def __init__(
        self,
        num_instances: int,
        dim: int = 128,
        temperature: Temperature | dict[str, Any] = 0.2,
        num_large: int = 1,
        num_recent: int | None = None,
        sharded: bool = False,
        weight_grad_scale: float = 1.0,
        max_phases: int = 65536,
        rows_dir: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_sizes('head', num_instances=num_instances, dim=dim, num_large=num_large, max_phases=max_phases)
        check_number('head.weight_grad_scale', weight_grad_scale, least=0)
        if num_recent is not None and not 0 < num_recent <= num_instances:
            raise ValueError(
                f'head.num_recent is {num_recent}; it is None, or from 1 to head.num_instances={num_instances}.'
            )
        if num_recent is not None and sharded:
            raise ValueError(
                'head.sharded is for the softmax over all instances; leave out one of head.num_recent and head.sharded.'
            )
        self.num_instances, self.num_large, self.sharded = num_instances, num_large, sharded
        self.temperature, self.weight_grad_scale = build_temperature(temperature), weight_grad_scale
        if rows_dir is not None and num_recent is None:
            raise ValueError(
                f'head.rows_dir is {rows_dir!r}, but only the rows outside of head.num_recent go to disk: set '
                'head.num_recent, or leave out head.rows_dir.'
            )
        self.rows = None if rows_dir is None else RowsOnDisk(rows_dir, num_instances, dim, INIT_STD)
        if self.rows is None:
            weight, velocity = INIT_STD * torch.randn(num_instances, dim), None
        else:
            weight, velocity = self.rows.tables.unbind(1)
        self.recent = None
        if num_recent is not None:
            self.recent = RecentInstances(num_instances, num_recent, weight, max_phases, velocity)
            weight = weight[:num_recent].clone()
        self.weight = nn.Parameter(weight)
        self._has_gradient = False  # whether a micro-batch was taken since the last optimiser step

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return fewer recent instances than a batch has images, or more than there are; and ``num_instances``."""
        found, recent = super().misfits(sizes), None if self.recent is None else self.recent.num_slots
        if recent is not None and not sizes.batch <= recent <= sizes.images:
            reason = f'model.head.num_recent is {recent}, but a batch of all processes has {sizes.batch} images'
            found.append(Misfit(f'{reason} and the training data set {sizes.images}', fatal=recent < sizes.batch))
        return found

    def suitable(self, sizes: Sizes) -> dict[str, int] | None:
        """Return as many recent instances as a batch has images or more, and ``num_instances``."""
        options = dict(super().suitable(sizes) or {})
        if self.recent is not None and not sizes.batch <= self.recent.num_slots <= sizes.images:
            options['model.head.num_recent'] = max(sizes.images // 4, sizes.batch)
        return options

    def follow(self, optimizer: Optimizer) -> None:
        """Learn which optimiser trains the weights; ``num_recent`` needs it.

        Raises:
            ValueError: If ``num_recent`` is given and the optimiser is not plain SGD.
        """
        if self.recent is not None:
            self.recent.follow(optimizer, self.weight)

    def enter(self, index: Tensor | None) -> None:
        """Move the instances ``index`` (N,) into slots of the recent ones; a second call changes nothing.

        Raises:
            ValueError: If gradients are accumulated, the batch has more images than there are slots, or an id is
                missing or not below ``num_instances``.
        """
        if self.recent is None:
            return
        if self._has_gradient and self.weight.grad is not None:
            raise ValueError(
                'model.head.weight still has a gradient, but its rows are about to be exchanged: head.num_recent does '
                'not work with optim_wrapper.accumulative_counts > 1. Set it to 1.'
            )
        self.recent.enter(check_index(index, self.num_instances), self.weight)

    def address(self, index: Tensor | None) -> Tensor:
        """Return the target: the class (N,) of each instance, which is its number, or its slot with ``num_recent``.

        Raises:
            ValueError: If an id is missing or not below ``num_instances``.
        """
        index = check_index(index, self.num_instances)
        return index if self.recent is None else self.recent.slots[index]

    def update(self, queries: Mapping[Any, Tensor], targets: Mapping[Any, Tensor]) -> None:
        """Note that the weights have a gradient: the optimiser must step before other instances take their slots."""
        self._has_gradient = True

    def after_step(self) -> None:
        """Count the optimiser step for the weights outside of the slots.

        Raises:
            RuntimeError: If ``num_recent`` is given and :meth:`follow` was not called.
        """
        self._has_gradient = False
        if self.recent is not None:
            self.recent.advance()

    def saved(self, kept: Iterable[Mapping[str, Tensor]]) -> None:
        """Remove the tables on the disk that no checkpoint needs."""
        if self.rows is not None:
            key = 'head.rows.digest'
            self.rows.prune(state_dict[key] for state_dict in kept if key in state_dict)

    def _of_crops(self, function: Callable[..., Tensor], query: Tensor, target: Tensor | None = None) -> Tensor:
        """Call ``function`` for queries (N, V, D) and the weights; return its values (N, V).

        The weights get a gradient from the large crops only.
        """
        options: dict[str, Any] = dict(scale=1 / read_temperature(self.temperature), unit_rows=True)
        if target is None and self.recent is not None:
            options.update(valid=~self._empty_slots)
        learning = options | dict(bank_weight=self.weight_grad_scale)
        values = []
        parts = (query[:, : self.num_large], self.weight, learning), (query[:, self.num_large :], None, options)
        for crops, weight, how in parts:
            if crops.shape[1]:
                classes = () if target is None else (target.repeat_interleave(crops.shape[1]),)
                bank = self.weight.detach() if weight is None else weight
                values.append(function(crops.flatten(0, 1), bank, *classes, **how).view(crops.shape[:2]))
        return torch.cat(values, 1)

    @full_precision
    def shared(self, query: Tensor) -> Tensor | None:
        """Return what the losses of unit queries (N, D) or (N, V, D) have in common.

        It is the log-sum-exp (N, V) over the logits of all K classes; or, where the table of logits is stored, its
        log-softmax (N, V, K); or None if the ranks share the classes.
        """
        query = _crops(query)
        if self._shards:
            return None
        if in_one_table(query.shape[0] * query.shape[1] * len(self.weight), self.weight):
            return self.own_logits(query).transpose(0, 1).log_softmax(2).transpose(0, 1)
        return self._of_crops(bank_lse, query)

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the losses (N,), means over the crops, of unit queries (N, D) or (N, V, D); classes as in forward."""
        query = _crops(query)
        if self._shards:
            raise ValueError(
                "model.unmix.shares is 'sample', but model.head.sharded gives the mean only: leave one out."
            )
        common = self.shared(query) if shared is None else shared
        if common.ndim == 3:
            return -common.gather(2, target[:, None, None].expand(-1, common.shape[1], 1)).mean((1, 2))
        return (common - self._of_crops(own_similarity, query, target)).mean(1)

    @full_precision
    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of unit queries (N, D) or (N, V, D) against the classes ``target`` (N,)."""
        query = _crops(query)
        if self._shards:
            return sharded_cross_entropy(query, target, self.own_logits)
        common = self.shared(query) if shared is None else shared
        if common.ndim == 3:
            return F.nll_loss(common.transpose(0, 1).flatten(0, 1), target.repeat(query.shape[1]))
        return (common - self._of_crops(own_similarity, query, target)).mean()

    @property
    def _shards(self) -> bool:
        return self.sharded and get_world_size() > 1

    @property
    def _empty_slots(self) -> Tensor:
        """Which of the recent classes (K,) no instance has yet."""
        assert self.recent is not None
        return self.recent.ids < 0

    def own_logits(self, query: Tensor) -> Tensor:
        """Return the logits (N, V, C) for unit queries (N, V, D), the large crops first.

        The classes are all, or those of this rank if the ranks share them.
        """
        own = slice(get_rank(), None, get_world_size()) if self._shards else slice(None)
        crops = query.transpose(0, 1) / read_temperature(self.temperature)
        rows, scale = unit_rows(self.weight[own], crops.dtype), self.weight_grad_scale
        learning = rows if scale == 1 else scale * rows + (1 - scale) * rows.detach()
        parts = (crops[: self.num_large], learning), (crops[self.num_large :], rows.detach())
        tables = [part @ classes.T for part, classes in parts if len(part)]
        logits = tables[0] if len(tables) == 1 else torch.cat(tables)
        if self.recent is not None:
            logits.masked_fill_(self._empty_slots, torch.finfo(logits.dtype).min)  # of -inf, log-softmax can be NaN
        return logits.transpose(0, 1)


def _crops(query: Tensor) -> Tensor:
    return query.unsqueeze(1) if query.ndim == 2 else query
