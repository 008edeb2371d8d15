"""Fused optimisers where PyTorch has them."""

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor as MMEngineConstructor
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import SGD, Adam, AdamW
from torch.utils import _foreach_utils

from unmix.models.algorithms import BaseAlgorithm
from unmix.models.backbones import ResNet
from unmix.models.backbones.library import LibraryBackbone
from unmix.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from unmix.utils.dist import unwrap

FUSED = (SGD, Adam, AdamW)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(name='DefaultOptimWrapperConstructor')
class FusedConstructor(MMEngineConstructor):
    """MMEngine's default constructor, with ``fused=True`` for PyTorch's SGD, Adam and AdamW.

    A fused optimiser has the same formulas in one kernel: equal up to rounding, about twice as fast on a CPU. In the
    scope ``unmix`` this constructor replaces MMEngine's. ``optim_wrapper.optimizer.fused=False`` gives PyTorch's plain
    form, and a checkpoint goes on with the form that it was saved with. ``AmpOptimWrapper`` keeps the plain form.
    So does SGD with momentum if the head freezes parameters at first: PyTorch's fused one fails when a parameter gets
    its first gradient after others.

    ``paramwise_cfg`` has two keys more than MMEngine's. ``no_decay=True``: norms, biases, and all other parameters of
    one dimension have no weight decay, nor have tokens and position embeddings, as usual with AdamW on ViTs.
    ``layer_decay=0.75``: the rates fall by this factor from each layer of the backbone to the one before, as in
    fine-tuning of `BEiT <https://arxiv.org/abs/2106.08254>`_ and MAE: what follows the backbone has the full rate, the
    last of L layers ``0.75``, the stem ``0.75^(L + 1)``; layers and stem are timm's, or torchvision's stages.
    Parameters of equal settings are then one group.

    Raises:
        ValueError: If ``fused=True`` is given for such an SGD, ``layer_decay`` for a backbone that does not tell its
            layers, or one of these keys with FSDP.
    """

    optimizer_cfg: dict[str, Any]
    optim_wrapper_cfg: dict[str, Any]

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add the groups of a module's parameters to ``params``."""
        if not prefix:
            _refuse_flat(self.paramwise_cfg, module)
        super().add_params(params, module, prefix, is_dcn_module)
        no_decay, layer_decay = self.paramwise_cfg.get('no_decay'), self.paramwise_cfg.get('layer_decay')
        if prefix or not (no_decay or layer_decay):
            return
        backbone = getattr(module, 'backbone', None)
        tokens, scales = _tokens(backbone) if no_decay else set(), {}
        if layer_decay:
            scales = _scales(backbone, layer_decay)
        merged: dict[str, dict[str, Any]] = {}
        for group in params:
            (parameter,) = group.pop('params')
            if no_decay and 'decay_mult' not in group and (parameter.ndim <= 1 or id(parameter) in tokens):
                group['weight_decay'] = 0.0
            if id(parameter) in scales:
                group['lr'] = group.get('lr', self.optimizer_cfg['lr']) * scales[id(parameter)]
            merged.setdefault(repr(sorted(group.items())), dict(params=[], **group))['params'].append(parameter)
        params[:] = merged.values()

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser of a model, and the wrapper around it."""
        scaled = self.optim_wrapper_cfg.get('type') == 'AmpOptimWrapper'
        late = _kind(self.optimizer_cfg['type']) is SGD and self.optimizer_cfg.get('momentum') and _freezes(model)
        if late and self.optimizer_cfg.get('fused'):
            raise ValueError(
                'optim_wrapper.optimizer.fused is True, but the model freezes parameters in the first steps, and '
                "PyTorch's fused SGD fails when a parameter gets its first gradient after others. Leave out fused."
            )
        if not scaled and not late and 'fused' not in self.optimizer_cfg and 'foreach' not in self.optimizer_cfg:
            self.optimizer_cfg = dict(self.optimizer_cfg, **fused_argument(self.optimizer_cfg['type'], model))
        return super().__call__(model)


def fused_argument(optimizer: str | type, model: nn.Module) -> dict[str, Any]:
    """Return ``dict(fused=True)`` if the optimiser has a kernel for all parameters of the model, else nothing."""
    kind = _kind(optimizer)
    if kind not in FUSED or 'fused' not in inspect.signature(kind).parameters:
        return {}
    devices = _foreach_utils._get_fused_kernels_supported_devices()
    fits = all(p.device.type in devices and p.is_floating_point() for p in model.parameters())
    return dict(fused=True) if fits else {}


def _refuse_flat(paramwise: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse settings by the shapes of parameters where FSDP has made all of them flat.

    Raises:
        ValueError: It names the keys.
    """
    keys = [key for key in ('no_decay', 'layer_decay', 'flat_decay_mult') if paramwise.get(key) is not None]
    if keys and any(isinstance(part, FullyShardedDataParallel) for part in model.modules()):
        raise ValueError(
            f'optim_wrapper.paramwise_cfg.{keys[0]} needs parameters in their shapes, and strategy.type is '
            'ShardedStrategy, which makes them flat. Train without strategy, or leave the key out.'
        )


def _tokens(backbone: Any) -> set[int]:
    """Return the ids of the parameters that a network calls unregularised."""
    found: set[int] = set()
    for part in backbone.modules() if backbone is not None else ():
        if isinstance(part, LibraryBackbone):
            names = part.unregularised()
            found |= {id(p) for name, p in part.network.named_parameters() if name in names}
    return found


def _scales(backbone: Any, decay: float) -> dict[int, float]:
    """Return the factor of the rate of each parameter of a backbone, by id.

    Raises:
        ValueError: If the backbone does not tell its layers, or the factor is not in (0, 1].
    """
    if not 0 < decay <= 1:
        raise ValueError(f'optim_wrapper.paramwise_cfg.layer_decay is {decay}; it is a factor above 0 and at most 1.')
    found: dict[int, float] = {}
    for part in backbone.modules() if backbone is not None else ():
        if isinstance(part, LibraryBackbone | ResNet):
            depths = part.depths()
            network = part.network if isinstance(part, LibraryBackbone) else part
            last = 1 + max(depths.values())
            found |= {id(p): decay ** (last - depths[name]) for name, p in network.named_parameters()}
    if not found:
        raise ValueError(
            'optim_wrapper.paramwise_cfg.layer_decay needs a backbone that tells its layers: ResNet, TIMMBackbone, '
            f'TorchVisionBackbone. The backbone is {type(backbone).__name__}. Leave layer_decay out.'
        )
    return found


def _kind(optimizer: str | type) -> Any:
    return OPTIMIZERS.get(optimizer) if isinstance(optimizer, str) else optimizer


def _freezes(model: nn.Module) -> bool:
    """Whether some parameters do not learn in the first steps."""
    method = unwrap(model)
    return isinstance(method, BaseAlgorithm) and bool([*method.frozen_parameters()])
