"""Classification of instances."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from unmix.models.functional import bank_lse, own_similarity
from unmix.models.functional.precision import full_precision
from unmix.models.functional.sharded_softmax import sharded_cross_entropy
from unmix.models.heads.instances import InstanceHead, check_index
from unmix.models.layers import Temperature, build_temperature, read_temperature
from unmix.models.memory.recent import RecentInstances
from unmix.models.memory.rows_on_disk import RowsOnDisk
from unmix.registry import MODELS

INIT_STD = 0.01


@MODELS.register_module()
class PICHead(InstanceHead):
    """Classify each crop as its image, one class for each (`PIC <https://arxiv.org/abs/2006.14618>`_, Eq. 1).

    ``loss = mean over images and crops of -log softmax_i(q . w_i / |w_i| / temperature)[own image]``

    The softmax reads the weights chunk by chunk, see :func:`bank_lse`: there is no table of logits.

    The weights learn from large crops only, the encoder from all; small crops count in the mean all the same, so
    with 1 + 3 crops the weights get a quarter of the gradient that they would get without the small ones (as released).

    With ``num_recent`` the softmax is over the K most recently seen instances (Sec. 3.3), including those of the batch,
    and the weights of the others are corrected for the steps they miss (Sec. 3.3; here in closed form, exact also
    when the learning rate changes): the training is that of dense SGD on the same loss, see :class:`RecentInstances`.
    The first batches have fewer classes, those seen. Not in the released code. With ``sharded`` each rank computes the
    logits of every world_size-th class only, for the crops of all ranks.

    Args:
        num_instances: Number of training images.
        dim: Feature dimension D.
        temperature: Divides the cosines; a number or a config, as in :class:`InfoNCEHead`.
        num_large: How many of the crops, the first ones, are large.
        num_recent: K; None: all instances.
        sharded: Whether the ranks share the classes of the softmax; not with ``num_recent``.
        weight_grad_scale: Factor of the gradient of the weights.
        max_phases: See :class:`StepHistory`; with ``num_recent`` only.
        rows_dir: Directory for the weights of the instances that are not recent, if memory has no room for them; see
            :class:`RowsOnDisk`, also for checkpoints. None: in memory, as buffers.

    Attributes:
        weight: (num_instances or num_recent, D), starts at N(0, 0.01).

    Raises:
        ValueError: If an argument is out of its range.
    """

    num_instances: int

    def __init__(
        self,
        num_instances: int,
        dim: int = 128,
        temperature: Temperature | dict = 0.2,
        num_large: int = 1,
        num_recent: int | None = None,
        sharded: bool = False,
        weight_grad_scale: float = 1.0,
        max_phases: int = 65536,
        rows_dir: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_recent is not None and not 0 < num_recent <= num_instances:
            raise ValueError(
                f'head.num_recent is {num_recent}; it is None, or from 1 to head.num_instances={num_instances}.'
            )
        if num_recent is not None and sharded:
            raise ValueError('head.sharded is for the softmax over all instances; leave out head.num_recent or it.')
        self.num_instances, self.num_large, self.sharded = num_instances, num_large, sharded
        self.temperature, self.weight_grad_scale = build_temperature(temperature), weight_grad_scale
        if rows_dir is not None and num_recent is None:
            raise ValueError(f'head.rows_dir is {rows_dir!r}, but only the rows outside of head.num_recent go to disk.')
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
        self._has_gradient = False  # since the last optimiser step

    def follow(self, optimizer: Optimizer) -> None:
        """Tell the head of the optimiser, before the first step; for ``num_recent``, see :class:`RecentInstances`."""
        if self.recent is not None:
            self.recent.follow(optimizer, self.weight)

    def enter(self, index: Tensor | None) -> None:
        """Give the instances ``index`` (N,) a slot among the recent.

        Raises:
            ValueError: If gradients are accumulated, or the batch has more images than there are slots.
        """
        if self.recent is None:
            return
        if self._has_gradient and self.weight.grad is not None:
            raise ValueError(
                'model.head.weight still has a gradient, of rows that are about to be exchanged: head.num_recent does '
                'not work with optim_wrapper.accumulative_counts > 1.'
            )
        self.recent.enter(check_index(index, self.num_instances), self.weight)

    def address(self, index: Tensor | None) -> Tensor:
        """Return the target: the class (N,) of each instance, its number or its slot among the recent.

        Raises:
            ValueError: If an id is missing or not below ``num_instances``.
        """
        index = check_index(index, self.num_instances)
        return index if self.recent is None else self.recent.slots[index]

    def update(self, queries: Mapping[Any, Tensor], targets: Mapping[Any, Tensor]) -> None:
        """Note that the rows have a gradient, which must reach the optimiser before others take their slots."""
        self._has_gradient = True

    def after_step(self) -> None:
        """Count the step, for the weights that are not among the recent."""
        self._has_gradient = False
        if self.recent is not None:
            self.recent.advance()

    def saved(self, kept: Iterable[Mapping[str, Tensor]]) -> None:
        """Remove the tables on the disk that no checkpoint needs."""
        if self.rows is not None:
            key = 'head.rows.digest'
            self.rows.prune(state_dict[key] for state_dict in kept if key in state_dict)

    def _of_crops(self, function: Callable[..., Tensor], query: Tensor, target: Tensor | None = None) -> Tensor:
        """Return a function (N, V) of queries (N, V, D), and their classes, and the weights; only large crops teach."""
        options: dict[str, Any] = dict(scale=1 / read_temperature(self.temperature), unit_rows=True)
        if target is None and self.recent is not None:
            options.update(valid=self.recent.ids >= 0)
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
        """Return the log-sum-exps (N, V) of the logits of unit queries, (N, D) or (N, V, D), over all classes."""
        return None if self._shards else self._of_crops(bank_lse, _crops(query))

    @full_precision
    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of unit queries, (N, D) or (N, V, D), against the classes ``target`` (N,)."""
        query = _crops(query)
        if self._shards:
            return sharded_cross_entropy(query, target, self.own_logits)
        lse = self._of_crops(bank_lse, query) if shared is None else shared
        return (lse - self._of_crops(own_similarity, query, target)).mean()

    @property
    def _shards(self) -> bool:
        return self.sharded and get_world_size() > 1

    def own_logits(self, query: Tensor) -> Tensor:
        """Return the logits (N, V, C) of unit queries (N, V, D), the large crops first, of this rank's classes."""
        rows = F.normalize(self.weight[get_rank() :: get_world_size()], dim=1)
        scale = self.weight_grad_scale
        learning = rows if scale == 1 else scale * rows + (1 - scale) * rows.detach()
        large, small = query[:, : self.num_large], query[:, self.num_large :]
        return torch.cat([large @ learning.T, small @ rows.detach().T], 1) / read_temperature(self.temperature)


def _crops(query: Tensor) -> Tensor:
    return query.unsqueeze(1) if query.ndim == 2 else query
