"""How a training uses its device: precision, compilation, and the line that says so."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from unmix.config.combinations import check_precision
from unmix.engine.optimizers import AutocastOptimWrapper
from unmix.utils.accumulation import optim_wrappers
from unmix.utils.dist import unwrap

ENCODER_PARTS = ('backbone', 'neck', 'predictor')  # names of the networks of a method


def set_matmul_precision(value: str | None) -> None:
    """Set how float32 matrix products and convolutions are computed, for the whole process.

    It is ``torch.set_float32_matmul_precision(value)`` for products, and ``torch.backends.cudnn.allow_tf32`` for
    convolutions: off for ``'highest'``, on for the others.

    Args:
        value: ``'highest'`` (float32), ``'high'`` (TF32) or ``'medium'`` (bfloat16, in convolutions TF32). None leaves
            PyTorch's settings as they are, by default float32 in products and TF32 in convolutions.

    Raises:
        ValueError: If it is another one.
    """
    check_precision(value)
    if value is not None:
        torch.set_float32_matmul_precision(value)
        torch.backends.cudnn.allow_tf32 = value != 'highest'


def networks(model: nn.Module) -> list[nn.Module]:
    """Return the networks of a model, those of a momentum encoder or control too: backbones, necks, predictors."""
    found: dict[str, nn.Module] = {}
    for name, module in unwrap(model).named_modules():
        parts = name.split('.')
        if parts[-1] in ENCODER_PARTS and not any('.'.join(parts[:i]) in found for i in range(1, len(parts))):
            found[name] = module
    return list(found.values())


def compile_networks(model: nn.Module, options: Mapping[str, Any]) -> bool:
    """Compile the networks of a model in place, each on its own; return whether there are any.

    A network is a function of tensors. What surrounds it in a step counts steps, follows schedules and draws numbers
    with Python's integers; if that were compiled, as MMEngine does, it would be compiled anew for each step. Names of
    tensors do not change, so a checkpoint fits the model with and without compilation.

    Args:
        model: The model, perhaps in DistributedDataParallel.
        options: Of ``torch.compile``.

    Raises:
        ValueError: If ``torch.compile`` has no such options.
    """
    found = networks(model)
    for network in found:
        try:
            network.compile(**options)
        except (RuntimeError, TypeError) as error:  # such as an unknown mode or backend
            raise ValueError(
                f'compile is {dict(options)}, which torch.compile refuses: {" ".join(str(error).split())}. '
                'compile=True takes its defaults.'
            ) from error
    return bool(found)


def describe_use(runner: Runner | FlexibleRunner, prefetch: bool) -> str:
    """Return one line: device, precision, and which of the settings for speed are on.

    Args:
        runner: With a model and an optimiser that are built.
        prefetch: Whether batches are copied ahead.
    """
    device, count = next(unwrap(runner.model).parameters()).device, get_world_size()
    parts = [
        f'{_device(device)}, {count} process{"es" * (count > 1)}',
        _precision(runner, device),
        f'channels-last {_channels_last(runner.model)}',
        f'compile {_on(runner.cfg.get("compile") not in (None, False))}',
        _optimizers(runner),
        f'cudnn_benchmark {_on(torch.backends.cudnn.benchmark)}',
        f'prefetch {_on(prefetch)}',
    ]
    return f'Device: {"; ".join(parts)}'


def _on(value: object) -> str:
    return 'on' if value else 'off'


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type.upper()


def _precision(runner: Runner | FlexibleRunner, device: torch.device) -> str:
    wrapper = next(iter(optim_wrappers(runner.optim_wrapper)), None)
    if isinstance(wrapper, AutocastOptimWrapper):
        autocast = 'bfloat16 autocast, else '
    elif isinstance(wrapper, AmpOptimWrapper):
        dtype = str(wrapper.cast_dtype or torch.float16).removeprefix('torch.')
        autocast = f'{dtype} autocast with scaled losses, else '
    else:
        autocast = ''
    products = {'highest': 'float32', 'high': 'TF32', 'medium': 'bfloat16'}[torch.get_float32_matmul_precision()]
    if device.type != 'cuda':
        return f'{autocast}float32' + (f' (products {products} where the processor has it)' * (products != 'float32'))
    convolutions = 'TF32' if torch.backends.cudnn.allow_tf32 else 'float32'
    return f'{autocast}float32 (products {products}, convolutions {convolutions})'


def _channels_last(model: nn.Module) -> str:
    chosen = {getattr(network, 'channels_last', False) for network in networks(model)} - {False}
    return ', '.join('on' if value is True else f'in {value} layers' for value in sorted(chosen)) or 'off'


def _optimizers(runner: Runner | FlexibleRunner) -> str:
    wrappers = [wrapper for wrapper in optim_wrappers(runner.optim_wrapper) if isinstance(wrapper, OptimWrapper)]
    named = []
    for wrapper in wrappers:
        fused = any(group.get('fused') for group in wrapper.optimizer.param_groups)
        named.append(f'{type(wrapper.optimizer).__name__} {"fused" if fused else "not fused"}')
    return ', '.join(named) or 'no optimizer'
