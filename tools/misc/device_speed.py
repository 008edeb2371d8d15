"""Cases of ``check_device.py``: the project's benchmarks on the device, and the loader's throughput."""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import literal
import loss
import pic
import step
import torch
import views
from device_cases import Case, Options, Outcome, judged
from measure import extra_bytes, interleave
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import functional as F
from twins import Ours

from unmix.config import load_config
from unmix.engine.device import set_matmul_precision
from unmix.registry import MODELS

IMAGENET = 'unmix::moco/unmix-mocov2_resnet50_8xb32-coslr-200e_in1k.py'
LOADED = 'unmix::moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py'
Steps = Mapping[str, Callable[[], object]]


def speed_cases(options: Options) -> list[Case]:
    """Return the cases."""
    names = [name for name, case in step.CASES.items() if case.goals and not case.loads]
    small = [Case('speed', f'{name}, 32 px', partial(cifar_step, name, options)) for name in names]
    large = Case('speed', 'MoCo v2, ResNet-50, 224 px', partial(imagenet_step, options))
    losses = [
        Case('losses', f'{"symmetric " if symmetric else ""}MoCo, K=65,536', partial(moco_loss, symmetric, options))
        for symmetric in (False, True)
    ]
    losses.append(Case('losses', 'uniformity, NT-Xent, InstDisc', partial(other_losses, options)))
    losses += [
        Case('losses', f'PIC, 1.28 million, batch {batch}', partial(pic_loss, batch, options)) for batch in (256, 64)
    ]
    return [*small, large, *losses, Case('loader', 'MoCo v2, two views of 224 px', partial(loader, options))]


def compared(forms: Steps, baseline: str, options: Options) -> Outcome:
    """Time the forms in turns. The best of ours takes at most the time of the baseline; on a CPU any time is good."""
    ratios = interleave(forms, 1 if options.quick else 10, (1,), device=options.device)
    ratios.print(baseline)
    clocks = ratios.seconds[1]
    rows: dict[str, dict[str, float]] = {}
    for name, form in forms.items():
        rows[name] = {f'{clock}_ms': 1e3 * statistics.median(times[name]) for clock, times in clocks.items()}
        rows[name] |= dict(extra_mb=extra_bytes(form, options.device) / 1e6, ratio=ratios.ratio(baseline, name).median)
    first = f'{ratios.clocks[0]}_ms'
    text = '; '.join(
        f'{name} {row[first]:.1f} ms, {row["extra_mb"]:.0f} MB' + ('' if name == baseline else f', x{row["ratio"]:.2f}')
        for name, row in rows.items()
    )
    best = max(row['ratio'] for name, row in rows.items() if name.startswith('ours'))
    return judged(best >= 1 or options.device == 'cpu', text, rows=rows)


def cifar_step(name: str, options: Options) -> Outcome:
    """A step of a recipe for CIFAR takes at most the time of the literal form, in the precision of its first goal.

    Ours is in the memory format that suits an accelerator, see ``docs/speed.md``.
    """
    case = step.CASES[name]._replace(batch_size=8 if options.quick else 256)
    if options.device != 'cpu':
        splits = load_config(step.RECIPES[case.method]).model.backbone.get('num_splits', 1)
        case = case._replace(channels_last=splits == 1)
    if options.quick:
        case = case._replace(width=4)
    forms = step.variants(case, 0, options.device)
    slow, fast, _ = next(iter(case.goals.values()))
    kept = {key: forms[key] for key in dict.fromkeys([slow, fast, f'{case.forms[0]} bf16', 'ours bf16'])}
    return compared(kept, slow, options)


def imagenet_step(options: Options) -> Outcome:
    """A step of MoCo v2 with Un-Mix on ResNet-50, likewise."""
    cfg = load_config(IMAGENET)
    cfg.model.pop('data_preprocessor', None)
    size, batch = (32, 4) if options.quick else (224, 128)
    if options.quick:
        cfg.model.backbone.depth, cfg.model.neck.in_dim, cfg.model.head.queue_size = 18, 512, 64
    images = [torch.randn(batch, 3, size, size).to(options.device) for _ in range(2)]
    head = cfg.model.head

    def theirs(bf16: bool) -> Callable[[], None]:
        encoder = nn.Sequential(MODELS.build(cfg.model.backbone), MODELS.build(cfg.model.neck))
        module: Any = literal.MoCo(
            encoder, 'script', False, head.dim, head.queue_size, head.temperature, cfg.model.momentum
        ).to(options.device)
        optimizer = torch.optim.SGD(module.encoder_q.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)

        def run() -> None:
            with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=bf16):
                loss: Tensor = module(*images)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

        return run

    forms: dict[str, Callable[[], None]] = {'literal': theirs(False), 'literal bf16': theirs(True)}
    for suffix, wrapper in (('', 'OptimWrapper'), (' bf16', 'AutocastOptimWrapper')):
        for form, last in (('ours', False), ('ours channels-last', True)):
            cfg.model.backbone.channels_last = last
            cfg.optim_wrapper.type = wrapper
            model = Ours(cfg, options.device)
            forms[form + suffix] = partial(model.train, dict(inputs=images))
    cfg.optim_wrapper.type = 'OptimWrapper'
    forms['accelerator.py'] = partial(tuned, partial(Ours(cfg, options.device).train, dict(inputs=images)))
    few = {name: form for name, form in forms.items() if not (options.quick and 'bf16' in name)}
    return compared(few, 'literal', options)


def tuned(form: Callable[[], None]) -> None:
    """Call a form with the settings of configs/_base_/accelerator.py that are the process's."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    set_matmul_precision('high')
    torch.backends.cudnn.benchmark = True
    try:
        form()
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


def moco_loss(symmetric: bool, options: Options) -> Outcome:
    """The loss takes at most the time of the literal form."""
    args = argparse.Namespace(seed=0, batch=256, dim=128, device=options.device)
    return compared(loss.moco(args, 1024 if options.quick else 65536, torch.float32, symmetric), 'literal', options)


def other_losses(options: Options) -> Outcome:
    """Each of the losses takes at most the time of the literal form."""
    queue = 1024 if options.quick else 65536
    args = argparse.Namespace(seed=0, batch=256, dim=128, queue=queue, device=options.device)
    parts = {name: compared(forms, 'literal', options) for name, forms in loss.others(args, torch.float32).items()}
    text = ' | '.join(f'{name}: {part.value}' for name, part in parts.items())
    rows = {name: part.details for name, part in parts.items()}
    return judged(all(part.status == 'PASS' for part in parts.values()), text, **rows)


def pic_loss(batch: int, options: Options) -> Outcome:
    """A step over all classes, or of 65,536 recent ones, takes at most the time of the literal form."""
    num, recent = (4000, 1000) if options.quick else (1_281_167, 65_536)
    torch.manual_seed(0)
    query = F.normalize(torch.randn(min(batch, num // 8), 128), dim=1).to(options.device)
    full = pic.Ours(num, 128, device=options.device)
    forms = {
        'literal': pic.on_new_ids(pic.Literal(full.head.weight.detach()), num, query),
        'ours': pic.on_new_ids(full, num, query),
        'ours, recent': pic.on_new_ids(pic.Ours(num, 128, recent, device=options.device), num, query),
    }
    return compared(forms, 'literal', options)


def loader(options: Options) -> Outcome:
    """Told, not judged: how many images a second the data loader makes, by number of workers."""
    cores = len(os.sched_getaffinity(0))
    cfg = load_config(LOADED)
    rates: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = views.write_jpegs(Path(folder), 0)
        for number in range(1 if options.quick else 32):
            target = Path(folder, 'images', f'{number}')
            target.mkdir(parents=True)
            for file in files:
                shutil.copy(file, target)
        dataset = dict(type='ImageFolder', data_root=f'{folder}/images', pipeline=cfg.train_dataloader.dataset.pipeline)
        for workers in [1] if options.quick else sorted({1, 4, 8, max(cores - 1, 1)}):
            cfg.train_dataloader.dataset = dataset
            cfg.train_dataloader.update(
                batch_size=4 if options.quick else 64, num_workers=workers, persistent_workers=True,
                pin_memory=options.device != 'cpu',
            )  # fmt: skip
            rates[workers] = rate(Runner.build_dataloader(cfg.train_dataloader, seed=0), options)
    text = ', '.join(f'{workers} workers {images:.0f} images/s' for workers, images in rates.items())
    return judged(True, f'{cores} cores: {text}', rates=rates)


def rate(batches: Any, options: Options) -> float:
    """Return images a second until they are on the device; the first epoch starts the workers and is not counted."""
    seen, begin, epoch = 0, 0.0, 0
    seconds = 1 if options.quick else 8
    while not begin or time.perf_counter() - begin < seconds:
        batches.sampler.set_epoch(epoch)
        for batch in batches:
            images = [view.to(options.device, non_blocking=True) for view in batch['inputs']]
            seen += len(images[0]) if begin else 0
        if options.device != 'cpu':
            torch.accelerator.synchronize()
        begin = begin or time.perf_counter()
        epoch += 1
    return seen / (time.perf_counter() - begin)
