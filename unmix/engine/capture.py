"""One training step in a file, and the same step out of it again."""

import hashlib
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import MessageHub, print_log
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from unmix.checkpoint.load import load_from_local
from unmix.checkpoint.save import save_checkpoint
from unmix.engine.registered_types import refuse_unregistered
from unmix.registry import MODELS
from unmix.utils.clock import Clock, read_clock
from unmix.utils.nan_reasons import watching
from unmix.utils.rng import reseed_step

FORMAT = 1


def config_hash(text: str) -> str:
    """Return the SHA-256 of a config's text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def capture_step(
    runner: Runner, model: nn.Module, batch: Mapping[str, Any], batch_idx: int, losses: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the step that starts from the model and the Runner as they are.

    Args:
        runner: The Runner, at the iteration of the step.
        model: Its model, unwrapped, in the state before the step.
        batch: What the loader has delivered.
        batch_idx: Its number in the epoch.
        losses: The terms that the step has given.
    """
    encoder = getattr(model, 'momentum_encoder', None)
    parts = ('model', 'data_preprocessor', 'optim_wrapper')
    capture: dict[str, Any] = dict(
        format=FORMAT,
        clock=read_clock()._asdict(),
        batch_idx=batch_idx,
        rank=get_rank(),
        world_size=get_world_size(),
        # Data, not the text of the config: that would be executed.
        config={key: value for key, value in runner.cfg.to_dict().items() if key in parts},
        config_hash=config_hash(runner.cfg.pretty_text),
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
        device=next(model.parameters()).device.type,
        autocast=_autocast_dtype(runner.optim_wrapper),
        losses={name: value.detach().cpu() for name, value in losses.items() if isinstance(value, Tensor)},
        index=batch.get('index'),
        batch=dict(batch),
        momentum_moved=encoder is not None and encoder.is_up_to_date(model.backbone, model.neck),
        state_dict=model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
    )
    if getattr(model, 'unmix', None) is not None:
        capture['mixing'] = _draw(model, batch)
    return capture


@torch.no_grad()
def _draw(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What the mixing draws in this step: its key (seed, iteration, number of the step in it), the exact shares."""
    inputs = model.data_preprocessor(dict(batch), True)['inputs']
    _, lam = model.mix(model.views([inputs] if isinstance(inputs, Tensor) else inputs))
    return dict(key=list(model.step_key), lam=lam.tolist() if isinstance(lam, Tensor) else lam)


def _autocast_dtype(wrapper: Any) -> str | None:
    """Name of the type that the wrapper's forward pass computes in, or None."""
    name = type(wrapper).__name__
    if name == 'AutocastOptimWrapper':
        return 'bfloat16'
    return str(wrapper.cast_dtype or torch.float16).removeprefix('torch.') if name == 'AmpOptimWrapper' else None


def write_capture(capture: dict[str, Any], work_dir: str | Path) -> Path:
    """Write a capture to ``captures/iter_N_rank_R.pth``, whole or not at all, and return the path.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(work_dir, 'captures', f'iter_{capture["clock"]["iteration"] + 1}_rank_{capture["rank"]}.pth')
    save_checkpoint(capture, str(path), allow_nonfinite=True)
    return path


def read_capture(path: str | Path) -> dict[str, Any]:
    """Read a capture, without executing what it pickles.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or no capture, or names types that are not registered.
    """
    capture = load_from_local(str(path), map_location='cpu')
    if not isinstance(capture, dict) or capture.get('format') != FORMAT or 'clock' not in capture:
        raise ValueError(
            f'{path} is no capture of format {FORMAT}; give a file that FiniteLossHook has written to captures/ in '
            'the work dir, with the same version of unmix.'
        )
    refuse_unregistered(capture['config'], str(path))
    return capture


def replay(capture: Mapping[str, Any], device: str, anomaly: bool = False) -> dict[str, Tensor]:
    """Run the forward and backward pass of a captured step again; return its loss terms on the CPU.

    Args:
        capture: Of this process's rank.
        device: Where to.
        anomaly: Let autograd name the operation whose gradient is NaN first.

    Raises:
        ValueError: If the capture holds no config of a model.
        RuntimeError: With ``anomaly``, from autograd, at such an operation.
    """
    cfg = Config(capture['config'])
    if not isinstance(cfg.get('model'), dict):
        raise ValueError('The captured run was given a model, not the config of one, so there is nothing to build.')
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model: Any = MODELS.build(cfg.model).to(device).train()
    # Any wrapper will do: heads ask for the optimiser's momentum, and nothing is stepped.
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper | dict(type='OptimWrapper'))
    wrapper.optimizer.load_state_dict(_optimizer_state(capture['optimizer']))
    model.load_state_dict(capture['state_dict'])
    follow = getattr(getattr(model, 'head', None), 'follow', None)
    if follow is not None:
        follow(wrapper.optimizer)
    if capture['momentum_moved']:
        model.momentum_encoder.mark_up_to_date(model.backbone, model.neck)
    set_clock(Clock(**capture['clock']))
    reseed_step(capture['clock']['seed'], capture['clock']['iteration'], capture['rank'])
    dtype = capture['autocast']
    autocast: Any = torch.autocast(torch.device(device).type, getattr(torch, dtype)) if dtype else nullcontext()
    with torch.autograd.set_detect_anomaly(anomaly):
        with autocast, watching() as reasons:
            losses = model(**model.data_preprocessor(dict(capture['batch']), True), mode='loss')
        for reason in reasons:
            print_log(reason, 'current', logging.WARNING)
        total, terms = model.parse_losses(losses)
        total.backward()
    return {name: value.detach().cpu() for name, value in terms.items()}


def compare(captured: Mapping[str, Tensor], replayed: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return for each loss term whether it has the same value; all NaN are the same."""
    return {
        name: name in captured and torch.allclose(captured[name], value, rtol=0, atol=0, equal_nan=True)
        for name, value in replayed.items()
    }


def _optimizer_state(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: state[name] for name in ('state', 'param_groups')}


def set_clock(clock: Clock) -> None:
    """Let :func:`unmix.utils.read_clock` read ``clock``, as it would in a Runner."""
    hub = MessageHub.get_current_instance()
    keys = dict(seed=clock.seed, iter=clock.iteration, epoch=clock.epoch)
    for name, value in (keys | dict(max_iters=clock.max_iterations, max_epochs=clock.max_epochs)).items():
        hub.update_info(name, value)
