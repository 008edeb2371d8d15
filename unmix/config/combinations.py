"""Checks of values that do not go together, which MMEngine and PyTorch refuse without naming the key, or late."""

import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from unmix.config.check import arguments, find_type, suggest

# Packages of MMEngine's backends, which are imported only when the training begins.
PACKAGES = {
    'AimVisBackend': 'aim',
    'ClearMLVisBackend': 'clearml',
    'DVCLiveVisBackend': 'dvclive',
    'MLflowVisBackend': 'mlflow',
    'NeptuneVisBackend': 'neptune',
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
}
PARAMWISE = {  # MMEngine's keys, and those of our constructor
    *('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult'),
    *('dcn_offset_lr_mult', 'bypass_duplicate', 'no_decay', 'layer_decay'),
}
TRANSFORMER = re.compile('vit|deit|swin|VisionTransformer|eva|beit|cait|former', re.IGNORECASE)  # in names
OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'timeout', 'multiprocessing_context')


PRECISIONS = ('highest', 'high', 'medium')  # torch.set_float32_matmul_precision


def check_combinations(cfg: Mapping[str, Any]) -> None:
    """Check values that depend on each other.

    Raises:
        ValueError: It names the keys, and a value that works.
    """
    _check_backends((cfg.get('visualizer') or {}).get('vis_backends') or [])
    _check_scaling(cfg.get('auto_scale_lr') or {}, cfg.get('train_dataloader') or {})
    _check_multipliers(cfg.get('optim_wrapper') or {})
    _warn_of_lars(cfg.get('optim_wrapper') or {}, (cfg.get('model') or {}).get('backbone') or {})
    check_precision((cfg.get('env_cfg') or {}).get('matmul_precision'))
    compiled = cfg.get('compile')
    if compiled is not None and not isinstance(compiled, bool | Mapping):
        raise ValueError(
            f'compile is {compiled!r} ({type(compiled).__name__}); expected True, False, or a dict of arguments of '
            'torch.compile, as in --cfg-options compile.mode=default.'
        )
    if cfg.get('strategy') and compiled not in (None, False):
        raise ValueError(
            'The config has strategy and compile: networks that FSDP divides among the ranks are not compiled. Set '
            'compile=False, or strategy=None if the model fits on one GPU.'
        )


def check_precision(value: Any) -> None:
    """Check ``env_cfg.matmul_precision``.

    Raises:
        ValueError: If it is none of PyTorch's names.
    """
    if value is not None and value not in PRECISIONS:
        raise ValueError(
            f'env_cfg.matmul_precision is {value!r}; it is one of {", ".join(map(repr, PRECISIONS))}: float32, TF32 or '
            "bfloat16 in products of float32 matrices; or None, which leaves PyTorch's own choice."
        )


def _check_backends(backends: Any) -> None:
    for index, backend in enumerate(backends):
        name = backend.get('type') if isinstance(backend, Mapping) else None
        package = PACKAGES.get(name) if isinstance(name, str) else None
        if package is not None and importlib.util.find_spec(package) is None:
            raise ValueError(
                f'visualizer.vis_backends.{index}.type is {name}, which needs the package {package}: '
                f"pip install 'unmix[{package}]', or take another one, such as dict(type='PatientVisBackend')."
            )


def _check_scaling(scaling: Mapping[str, Any], loader: Any) -> None:
    if not scaling.get('enable'):
        return
    base = scaling.get('base_batch_size')
    if isinstance(base, bool) or not isinstance(base, int) or base < 1:
        received = 'is missing' if base is None else f'is {base!r}; expected a whole number from 1'
        raise ValueError(
            f'auto_scale_lr.enable is True, but auto_scale_lr.base_batch_size {received}. Give the batch size, of all '
            'processes together, for which optim_wrapper.optimizer.lr was chosen: auto_scale_lr.base_batch_size=256.'
        )
    if isinstance(loader, Mapping) and 'batch_size' not in loader:
        raise ValueError('auto_scale_lr.enable is True, which needs train_dataloader.batch_size; it is missing.')


def _check_multipliers(wrapper: Mapping[str, Any]) -> None:
    optimizer, paramwise = wrapper.get('optimizer'), wrapper.get('paramwise_cfg') or {}
    if not isinstance(optimizer, Mapping) or not isinstance(paramwise, Mapping):
        return
    if wrapper.get('constructor') in (None, 'DefaultOptimWrapperConstructor'):
        for name in paramwise.keys() - PARAMWISE - {'_delete_'}:
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.{name}: the config has no such key. {suggest(str(name), PARAMWISE)}'
            )
    for ending, key in (
        *(('decay_mult', 'weight_decay'), ('no_decay', 'weight_decay')),
        *(('lr_mult', 'lr'), ('layer_decay', 'lr')),
    ):
        places = [place for place in _keys(paramwise) if place.endswith(ending)]
        if places and optimizer.get(key) is None:
            function, _ = find_type(optimizer.get('type'))
            parameter = arguments(function)[0].get(key) if function is not None else None
            default = getattr(parameter, 'default', None)
            value = default if isinstance(default, int | float) else 1e-4
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.{places[0]} multiplies the {key} of the optimizer, and '
                f'optim_wrapper.optimizer.{key} is missing. Give it, e.g. the default of '
                f'{optimizer.get("type")}: optim_wrapper.optimizer.{key}={value}.'
            )


def _warn_of_lars(wrapper: Mapping[str, Any], backbone: Mapping[str, Any]) -> None:
    optimizer = (wrapper.get('optimizer') or {}).get('type')
    name = str(backbone.get('model_name', ''))
    if optimizer in ('LARS', 'LARC') and TRANSFORMER.search(name):
        warnings.warn(
            f'optim_wrapper.optimizer.type is {optimizer}, and model.backbone.model_name is {name!r}: with '
            'it the features of a ViT usually collapse. Take AdamW, as the recipes of ViTs do (docs/backbones.md).',
            stacklevel=2,
        )


def _keys(node: Mapping[str, Any], path: str = '') -> Iterator[str]:
    for key, value in node.items():
        place = f'{path}.{key}' if path else str(key)
        yield place
        if isinstance(value, Mapping):
            yield from _keys(value, place)


def drop_options_of_workers(name: str, loader: Any) -> None:
    """Remove from a loader's config without workers what is for workers only, which PyTorch refuses; warn.

    Recipes keep their workers alive, and ``num_workers=0`` is how one looks for a mistake in a data set.
    """
    if loader.get('num_workers', 0) == 0:
        given = [key for key in OF_WORKERS if loader.get(key)]
        for key in given:
            del loader[key]
        if given:
            keys = ' and '.join(f'{name}.{key}' for key in given)
            warnings.warn(f'{keys} has no effect with {name}.num_workers=0, and is left out.', stacklevel=2)
