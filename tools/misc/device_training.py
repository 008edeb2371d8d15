"""Cases of ``check_device.py``: steps of every method on the device, of the quickstart configs, by ``TrainStep``."""

import copy
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from device_cases import Case, Options, Outcome, judged
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

import unmix.apis  # noqa: F401  registers all parts
from unmix.config import config_root, load_config
from unmix.engine.step import TrainStep
from unmix.models import BaseAlgorithm
from unmix.models.algorithms import DeepClusterV2
from unmix.registry import MODELS
from unmix.testing import rounding

WRAPPERS = dict(fp32='OptimWrapper', bf16='AutocastOptimWrapper', amp='AmpOptimWrapper')


def methods() -> list[str]:
    """Return the names of the quickstart configs of the digits: every method, plain and with Un-Mix."""
    return sorted(path.stem.removesuffix('_digits') for path in config_root().glob('quickstart/*_digits.py'))


def training_cases(options: Options) -> list[Case]:
    """Return the cases."""
    names = methods()
    agree = [Case('agreement', name, partial(agreement, name, options)) for name in names]
    kinds = list(WRAPPERS) if options.device != 'cpu' else ['fp32', 'bf16']
    steps = [
        Case('training', f'{name} {kind}', partial(training, name, kind, options)) for kind in kinds for name in names
    ]
    if not options.device.startswith('cuda'):
        lacking = Outcome('SKIP', 'PyTorch tells where it waits for CUDA only')
        return [*agree, *steps, Case('waits', 'all methods', lambda: lacking)]
    return agree + steps + [Case('waits', name, partial(waits, name, options)) for name in names]


class Setup:
    """Model, optimiser and batches of a quickstart config.

    Args:
        name: Name of the method, as ``unmix-moco``.
        kind: Key of ``WRAPPERS``.
        device: Where the model is.
    """

    def __init__(self, name: str, kind: str, device: str) -> None:
        cfg = load_config(f'unmix::quickstart/{name}_digits.py')
        MMLogger.get_current_instance().setLevel('WARNING')  # it tells how each parameter is initialised
        torch.manual_seed(0)
        self.model: BaseAlgorithm = MODELS.build(cfg.model)
        self.model.init_weights()
        self.model.to(device).train()
        cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
        self.loader: DataLoader[Any] = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        if isinstance(self.model, DeepClusterV2):
            for batch in self.loader:
                data = self.model.data_preprocessor(batch, True)
                self.model.remember(data['inputs'], data['index'])
            self.model.cluster(0)
        self.wrapper: OptimWrapper = build_optim_wrapper(self.model, dict(cfg.optim_wrapper, type=WRAPPERS[kind]))
        self.wrapper.initialize_count_status(self.model, 0, 10**6)
        self.model.head.follow(self.wrapper.optimizer)
        self.step = TrainStep(self.model, self.wrapper)
        self.step.start_watching()

    def batches(self) -> Iterator[dict[str, Any]]:
        """Batches of one epoch after the other."""
        epoch = 0
        while True:
            self.loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            yield from self.loader
            epoch += 1


def agreement(name: str, options: Options) -> Outcome:
    """A step on the device gives the losses, weights and state of one on the CPU.

    In float64, to the rounding of a sum over batch and pixels. In float32 the device is at most ten times as far from
    the CPU's float64 as the CPU's float32 is. The optimiser is SGD with a learning rate of 1, so that weights move by
    their gradients.
    """
    setup = Setup(name, 'fp32', 'cpu')
    batch = next(setup.batches())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def result(device: str, dtype: torch.dtype) -> dict[str, Tensor]:
        model = copy.deepcopy(setup.model).to(device, dtype)
        optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1.0)
        model.head.follow(optimizer)
        views = [view.to(dtype) for view in batch['inputs']]
        terms = TrainStep(model, OptimWrapper(optimizer)).run(dict(batch, inputs=views))
        tensors = terms | {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
        return {key: value.detach().cpu().double() for key, value in tensors.items()}

    exact = result('cpu', torch.float64)
    double, single = (furthest(result(options.device, dtype), exact) for dtype in (torch.float64, torch.float32))
    of_cpu = furthest(result('cpu', torch.float32), exact)
    size = batch['inputs'][0].shape
    bound = rounding(size[0] * size[-2] * size[-1], condition=100)
    good = double <= bound and single <= 10 * max(of_cpu, torch.finfo(torch.float32).eps)
    return judged(
        good, f'float64 off by {double:.1e} (at most {bound:.1e}), float32 by {single:.1e} (the CPU by {of_cpu:.1e})',
        float64=double, bound=bound, float32=single, float32_of_cpu=of_cpu,
    )  # fmt: skip


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference, relative to the largest number of its tensor, or 1 if that is less."""
    if found.keys() != expected.keys():
        raise ValueError(f'{sorted(found.keys() ^ expected.keys())} are on one side only.')
    distances = [
        ((found[key] - tensor).abs().max() / tensor.abs().max().clamp(min=1)).item()
        for key, tensor in expected.items()
        if tensor.numel()
    ]
    return max(distances) if all(distance == distance for distance in distances) else float('nan')


def training(name: str, kind: str, options: Options) -> Outcome:
    """Losses and gradients are finite, and all tensors are on the device.

    The scaler of AMP leaves out steps whose gradients overflow, which it judges itself.
    """
    setup, losses = Setup(name, kind, options.device), []
    batches = setup.batches()
    failed = 0
    for _ in range(5 if options.quick else 50):
        losses.append(setup.step.run(next(batches))['loss'].detach().float())
        failed += setup.step.failed is not None
    values = torch.stack(losses).tolist()
    tensors = [*setup.model.parameters(), *setup.model.buffers()]
    tensors += [value for state in setup.wrapper.optimizer.state.values() for value in state.values()]
    where = {str(x.device.type) for x in tensors if isinstance(x, Tensor) and x.dim()}
    good = not failed and where == {torch.device(options.device).type}
    text = f'loss {values[0]:.3f} -> {sum(values[-5:]) / 5:.3f}'
    text += (f', {failed} steps not finite' if failed else '') + f', on {" and ".join(sorted(where))}'
    return judged(good, text, losses=values)


def waits(name: str, options: Options) -> Outcome:
    """A step waits for the device once, where ``TrainStep`` reads whether losses and gradients are finite.

    PyTorch's synchronisation debug mode tells; it does not see a program's own ``synchronize``.
    """
    setup, places = Setup(name, 'fp32', options.device), Counter[str]()
    batches = setup.batches()
    pinned = [{key: pin(value) for key, value in next(batches).items()} for _ in range(6)]
    for batch in pinned[:3]:
        setup.step.run(batch)

    def note(message: Any, _: Any, filename: str, lineno: int, *__: Any, **___: Any) -> None:
        if 'synchronizing' in str(message) and 'prototype' not in str(message):
            lines = [f'{frame.filename}:{frame.lineno}' for frame in traceback.extract_stack()]
            own = [line for line in lines if '/unmix/' in line] or [f'{filename}:{lineno}']
            places[own[-1].rpartition('/unmix/')[2]] += 1

    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = note  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode('warn')
        try:
            for batch in pinned[3:]:
                setup.step.run(batch)
        finally:
            torch.cuda.set_sync_debug_mode('default')
    text = ', '.join(f'{place} {count / 3:g} times' for place, count in places.items())
    good = sum(places.values()) <= 3 and all(place.startswith('engine/step.py') for place in places)
    return judged(good, f'{sum(places.values()) / 3:g} a step: {text}', places=dict(places))


def pin(value: Any) -> Any:
    """Move tensors to pinned memory."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    return [pin(item) for item in value] if isinstance(value, list) else value
