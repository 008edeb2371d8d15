"""FSDP: parameters, gradients and optimiser state are sharded over the ranks."""

from functools import partial
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import FlexibleRunner as MMEngineFlexibleRunner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from unmix.engine.device import ENCODER_PARTS, set_matmul_precision
from unmix.engine.loader import build_dataloader
from unmix.engine.runner import Evaluating, quiet
from unmix.registry import STRATEGIES


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """MMEngine's ``FSDPStrategy`` for encoders with a momentum twin, on CUDA and, for tests, on CPU (gloo).

    Backbone, neck and predictor, those of the momentum encoder too, are separate units, so the momentum encoder is
    updated shard by shard. A module inside of them with ``min_num_params`` parameters or more is a unit too. Buffers
    (queues, banks) are not sharded. A checkpoint has the same form as without FSDP.

    Raises:
        ValueError: If the head has parameters (prototypes, class weights), or there is no process group.

    Args:
        min_num_params: Number of parameters from which a module is a unit of its own.
        **kwargs: Arguments of ``FSDPStrategy``.
    """

    model_wrapper: dict[str, Any] | None

    def __init__(self, *, min_num_params: int = 10_000_000, **kwargs: Any) -> None:
        super().__init__(state_dict_cfg='full', **kwargs)
        self.min_num_params = min_num_params

    def _setup_env(self, *, matmul_precision: str | None = None, **kwargs: Any) -> None:
        set_matmul_precision(matmul_precision)
        super()._setup_env(**kwargs)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger as MMEngine does, with a filter on what it prints."""
        logger = super().build_logger(*args, **kwargs)
        quiet(logger)
        return logger

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not is_distributed():
            raise ValueError('strategy.type is ShardedStrategy, which needs several processes: use tools/dist_train.sh')
        head = [name for name, _ in model.named_parameters() if name.startswith('head.')]
        if head:
            raise ValueError(
                f'strategy.type is ShardedStrategy, but {type(model.head).__name__} has parameters ({head[0]}), which '
                'training changes in place; FSDP would lose the change. Train this method without strategy'
            )
        units = {part for name, part in model.named_modules() if name.rpartition('.')[2] in ENCODER_PARTS}
        policy = partial(_is_unit, units=units, min_num_params=self.min_num_params)
        wrapper = dict(type='MMFullyShardedDataParallel', auto_wrap_policy=policy) | (self.model_wrapper or {})
        if get_device() == 'cpu':
            wrapper['device_id'] = torch.device('cpu')
        self.model_wrapper = wrapper
        return super()._wrap_model(model)

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a full optimiser state; MMEngine 0.10.7 calls torch with the arguments in the order of torch 2.0."""
        optimizer = self.optim_wrapper.optimizer
        self.optim_wrapper.load_state_dict(
            FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        )


def _is_unit(
    module: nn.Module, recurse: bool, nonwrapped_numel: int, units: set[nn.Module], min_num_params: int
) -> bool:
    """Return whether FSDP descends into a module (``recurse``), or whether the module is a unit."""
    if recurse or module in units:
        return True
    return nonwrapped_numel >= min_num_params and not isinstance(module, nn.ModuleList | nn.ModuleDict)


class FlexibleRunner(Evaluating, MMEngineFlexibleRunner):
    """MMEngine's Runner for strategies, with the console and the checkpoints of :class:`unmix.engine.runner.Runner`."""

    build_dataloader = staticmethod(build_dataloader)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        init_default_scope(kwargs.get('default_scope', 'unmix'))  # MMEngine looks for the strategy before it does so
        super().__init__(*args, **kwargs)
        self._place: dict[str, Any] = {}

    def save_checkpoint(self, *args: Any, meta: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Save, on every rank, with the ``epoch`` and ``iter`` of ``meta``; MMEngine overwrites them."""
        self._place = dict(meta or {})
        super().save_checkpoint(*args, meta=meta, **kwargs)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call a hook; the one before saving comes after MMEngine has made up its ``meta``."""
        if fn_name == 'before_save_checkpoint':
            kwargs['checkpoint']['meta'].update(self._place)
        super().call_hook(fn_name, **kwargs)
