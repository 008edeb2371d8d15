"""Whole trainings, loader workers beside the steps, against lightly's documented loops of MoCo and SimCLR.

``pip install lightly pytorch-lightning`` has the peers: the loop in plain PyTorch and the one in Lightning, with the
transforms, the loss, the memory bank and the momentum update of lightly. Images, network (backbone and projection,
plain BatchNorm), batch, optimiser and number of workers are ours. Two settings: ``32``, images in memory, a ResNet-18
of width 16, batch 128; ``224``, JPEG files of 110 kB, the same network with ImageNet's stem, batch 64. ``--depth``,
``--width`` and ``--batch-size`` choose others.

The training process has the threads that PyTorch takes, one a core, as people run it; workers share the cores with it.
With ``--threads 1`` on two cores a core is free for the worker. With ``--device cuda`` ours copies a batch ahead, as
its training loop does; lightly's loops copy as documented.

A turn of a variant starts its loader, takes two steps that do not count, and then ``--steps`` steps. All times are wall
times, so they mean something on a machine that does nothing else; ``cpu ms`` is of all processes. Un-Mix encodes more,
and its goal is the ratio of the counted encoder passes, 4 over 7 for MoCo and 6 over 9 for SimCLR. Its cheaper forms
have goals against lightly's plain MoCo.

The last lines are ``GOAL <name> <ratio> <target> PASS|FAIL``: images a second of ours over those of lightly.
"""

import argparse
import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
import views
from dataloader import cpu_seconds
from measure import Goal, print_goals
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from twins import recipe

from unmix.apis.command import run_tool
from unmix.engine.loader import build_dataloader
from unmix.engine.prefetch import Prefetcher
from unmix.engine.step import TrainStep
from unmix.registry import MODELS

WARM = 2
METHODS = dict(moco=('moco_asym', 4 / 7), simclr=('simclr', 6 / 9))
TARGETS = dict(fp32=1.25, bf16=1.15)
# Ours, with the keys of its Un-Mix; None is the plain method.
FORMS: dict[str, dict[str, Any] | None] = {
    'ours': None, 'ours with Un-Mix': {}, 'ours, once': dict(pairs='once'), 'ours, replace': dict(replace=True)
}  # fmt: skip
SUFFIXES = dict(zip(FORMS, ('', '_unmix', '_once', '_replace'), strict=True))
CHEAPER = {  # images a second over those of lightly's plain MoCo
    'ours, once': 0.95,
    'ours, replace': 1.15,
}
Turn = Callable[[int], tuple[float, float]]


def clocks() -> tuple[float, float]:
    """Return wall time, and CPU time of this process and its workers."""
    return time.perf_counter(), time.process_time() + sum(cpu_seconds(child.pid or 0) for child in active_children())


class Pictures(Dataset[tuple[Any, int]]):
    """Images in memory, as torchvision's data sets give them; lightly sets ``transform``."""

    transform: Any = None

    def __init__(self, images: list[Any]) -> None:
        self.images = [Image.fromarray(image) for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), 0


class Setting:
    """Images, the network for them, and the loaders of both sides."""

    def __init__(self, size: int, folder: Path, args: argparse.Namespace) -> None:
        self.size, self.folder, self.workers, self.device = size, folder, args.workers, args.device
        self.depth, self.width = args.depth, args.width
        self.batch = args.batch_size or (128 if size == 32 else 64)
        number = self.batch * (args.steps + WARM + 1)
        self.images = views.crops(min(number, 2048), 32, 32, 0) if size == 32 else []
        self.repeat = -(-number // len(self.images)) if self.images else 1
        if size == 224:
            files = views.write_jpegs(folder, 0)
            for index in range(len(files), number):
                (folder / f'{index}.jpg').write_bytes(files[index % len(files)].read_bytes())

    def cfg(self, method: str, unmix: dict[str, Any] | None, bf16: bool) -> Any:
        """Return our recipe, without groups in BatchNorm, which lightly has not; ``unmix`` are keys of its Un-Mix."""
        cfg = recipe(METHODS[method][0], self.width, True, bf16)
        cfg.model.backbone.update(depth=self.depth, num_splits=1)
        cfg.model.neck['in_dim'] = self.width * (32 if self.depth > 34 else 8)
        if self.size == 224:
            cfg.model.backbone.pop('stem', None)
        if unmix is None:
            cfg.model.pop('unmix', None)
        else:
            cfg.model.unmix.update(unmix)
        return cfg

    def ours(self) -> DataLoader[Any]:
        """Return our loader, by MoCo v2's views."""
        pipeline = views.recipe(self.size, self.size == 224)
        if self.size == 32:
            tensors = torch.stack([torch.tensor(image).permute(2, 0, 1) for image in self.images])
            dataset: dict[str, Any] = dict(
                type='ArrayDataset', images=tensors.repeat(self.repeat, 1, 1, 1).numpy(), pipeline=pipeline
            )
        else:
            dataset = dict(type='ImageFolder', data_root=str(self.folder), labelled=False, pipeline=pipeline)
        return build_dataloader(
            dict(
                dataset=dataset, batch_size=self.batch, num_workers=self.workers, drop_last=True,
                sampler=dict(type='EpochSampler', shuffle=True), collate_fn=dict(type='collate'),
            ), seed=0,
        )  # fmt: skip

    def peers(self) -> DataLoader[Any]:
        """Return lightly's loader."""
        from lightly.data import LightlyDataset
        from lightly.transforms.moco_transform import MoCoV2Transform

        transform = MoCoV2Transform(input_size=self.size, gaussian_blur=0.5 if self.size == 224 else 0.0)
        if self.size == 32:
            dataset = LightlyDataset.from_torch_dataset(Pictures(self.images * self.repeat), transform=transform)
        else:
            dataset = LightlyDataset(input_dir=str(self.folder), transform=transform)
        return DataLoader(dataset, self.batch, shuffle=True, drop_last=True, num_workers=self.workers)


class Lightly(nn.Module):
    """lightly's documented model and training step of MoCo or SimCLR."""

    def __init__(self, cfg: Any, method: str) -> None:
        from lightly.loss import NTXentLoss

        super().__init__()
        self.settings = dict(cfg.optim_wrapper.optimizer)
        network = dict(cfg.model.backbone, channels_last=False)
        self.encoder = nn.Sequential(MODELS.build(network), MODELS.build(dict(cfg.model.neck)))
        self.momentum = copy.deepcopy(self.encoder).requires_grad_(False) if method == 'moco' else None
        head = cfg.model.head
        bank = (head['queue_size'], cfg.model.neck['out_dim']) if method == 'moco' else 0
        self.criterion = NTXentLoss(temperature=head['temperature'], memory_bank_size=bank)

    def forward(self, batch: Any) -> Tensor:
        """Return the loss of a batch; the momentum encoder moves first."""
        from lightly.models.utils import update_momentum

        query, key = batch[0][:2]
        if self.momentum is None:
            loss: Tensor = self.criterion(self.encoder(query), self.encoder(key))
            return loss
        update_momentum(self.encoder, self.momentum, m=0.99)
        with torch.no_grad():
            target = self.momentum(key)
        loss = self.criterion(self.encoder(query), target)
        return loss

    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimiser of our recipe."""
        settings = dict(self.settings)
        kind: Any = getattr(torch.optim, settings.pop('type'))
        optimizer: torch.optim.Optimizer = kind(self.encoder.parameters(), **settings)
        return optimizer


def run(batches: Iterator[Any], step: Callable[[Any], object], steps: int, device: str) -> tuple[float, float]:
    """Take steps; return wall and CPU time of those after the first :data:`WARM`, until the device has finished."""
    finish: Callable[[], object] = (lambda: None) if device == 'cpu' else torch.accelerator.synchronize
    for _ in range(WARM):
        step(next(batches))
    finish()
    begin = clocks()
    for _ in range(steps):
        step(next(batches))
    finish()
    end = clocks()
    return end[0] - begin[0], end[1] - begin[1]


def unmix_turn(setting: Setting, method: str, unmix: dict[str, Any] | None, bf16: bool) -> Turn:
    """Return a turn of ours: the training step with its checks."""
    cfg, loader = setting.cfg(method, unmix, bf16), setting.ours()
    model: Any = MODELS.build(cfg.model).train().to(setting.device)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.initialize_count_status(model, 0, 1 << 30)

    def copied(batches: Iterator[Any]) -> Iterator[Any]:
        ahead = Prefetcher(batches, model.data_preprocessor)
        return (ahead.on_device() for _ in ahead)

    def turn(steps: int) -> tuple[float, float]:
        step = TrainStep(model, wrapper)
        step.start_watching()
        try:
            batches = iter(loader) if setting.device == 'cpu' else copied(iter(loader))
            return run(batches, step.run, steps, setting.device)
        finally:
            step.close()

    return turn


def plain_turn(setting: Setting, method: str, bf16: bool) -> Turn:
    """Return a turn of lightly's loop in plain PyTorch."""
    loader, model = setting.peers(), Lightly(setting.cfg(method, None, bf16), method).to(setting.device)
    optimizer = model.optimizer()

    def step(batch: Any) -> None:
        views = [view.to(setting.device) for view in batch[0]]
        with torch.autocast(torch.device(setting.device).type, torch.bfloat16, enabled=bf16):
            loss = model([views])
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return lambda steps: run(iter(loader), step, steps, setting.device)


def lightning_turn(setting: Setting, method: str, bf16: bool) -> Turn:
    """Return a turn of lightly's loop in Lightning."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = Lightly(setting.cfg(method, None, bf16), method)

        def training_step(self, batch: Any, batch_index: int) -> Tensor:
            loss: Tensor = self.model(batch)
            self.log('train_loss', loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.model.optimizer()

    class Watch(pl.Callback):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.times: list[tuple[float, float]] = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if index + 1 in (WARM, trainer.max_steps):
                if setting.device != 'cpu':
                    torch.accelerator.synchronize()
                self.times.append(clocks())

    loader, module, kind = setting.peers(), Module(), 'cpu' if setting.device == 'cpu' else 'gpu'

    def turn(steps: int) -> tuple[float, float]:
        watch = Watch()
        trainer = pl.Trainer(
            max_steps=WARM + steps, accelerator=kind, devices=1, precision='bf16-mixed' if bf16 else '32-true',
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[watch],
        )  # fmt: skip
        trainer.fit(module, loader)
        begin, end = watch.times
        return end[0] - begin[0], end[1] - begin[1]

    return turn


def variants(setting: Setting, method: str, bf16: bool, peers: list[str]) -> dict[str, Turn]:
    """Return the turns by name; peers that are not installed are named and left out."""
    turns = {name: unmix_turn(setting, method, form, bf16) for name, form in FORMS.items()}
    for name in peers:
        try:
            make = plain_turn if name == 'lightly' else lightning_turn
            turns[name] = make(setting, method, bf16)
        except ImportError as error:
            print(f'{name} is left out ({error}); pip install lightly pytorch-lightning')
    return turns


def main() -> None:
    """Measure, print the tables and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', choices=[32, 224], default=[32, 224])
    parser.add_argument('--methods', nargs='+', choices=list(METHODS), default=list(METHODS))
    parser.add_argument('--precisions', nargs='+', choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument('--peers', nargs='+', choices=['lightly', 'lightning'], default=['lightly', 'lightning'])
    parser.add_argument('--rounds', type=int, default=5, help='turns of each variant (default 5)')
    parser.add_argument('--steps', type=int, default=20, help='steps of a turn that count (default 20)')
    parser.add_argument('--workers', type=int, default=1, help='data workers (default 1)')
    parser.add_argument(
        '--threads', type=int, default=torch.get_num_threads(), help="of the training process (default: PyTorch's own)"
    )
    parser.add_argument('--batch-size', type=int, help='(default: 128 at 32 px, 64 at 224 px)')
    parser.add_argument('--depth', type=int, choices=[18, 34, 50, 101], default=18, help='of the ResNet (default 18)')
    parser.add_argument('--width', type=int, default=16, help='of the ResNet (default 16; published networks have 64)')
    parser.add_argument('--device', default='cpu', help='where to train, as cuda (default cpu)')
    parser.add_argument('--json', help='write goals, all seconds and the machine to this file, too')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('unmix')
    goals: list[Goal] = []
    report: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(size, Path(folder), args)
            for method in args.methods:
                for precision in args.precisions:
                    title = f'{method}_{size}_{precision}'
                    report[title] = measure(variants(setting, method, precision == 'bf16', args.peers), args)
                    goals += show(title, report[title], args.steps * setting.batch, METHODS[method][1], precision)
    print_goals(goals, args.json, seconds=report, arguments=vars(args))


def measure(turns: dict[str, Turn], args: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Give each variant a turn in each round, in shuffled order; return wall and CPU seconds."""
    order = random.Random(0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for _ in range(args.rounds):
        for name in order.sample(list(turns), len(turns)):
            found[name].append(turns[name](args.steps))
    return found


def show(
    title: str, found: dict[str, list[tuple[float, float]]], images: int, work: float, precision: str
) -> Iterator[Goal]:
    """Print a table; yield the goals."""
    print(f'\n{title:24s}{"images/s":>10s}{"cpu ms/image":>14s}')
    for name, rows in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f'{name:24s}{images / wall:10.1f}{1e3 * cpu / images:14.3f}', flush=True)
    for peer in ('lightly', 'lightning'):
        targets = {'ours': TARGETS[precision], 'ours with Un-Mix': work}
        for name, target in (targets | (CHEAPER if title.startswith('moco') else {})).items():
            if peer in found:
                pairs = list(zip(found[peer], found[name], strict=True))
                wall = statistics.median(a[0] / b[0] for a, b in pairs)
                cpu = statistics.median(a[1] / b[1] for a, b in pairs)
                print(f'{name} over {peer}: {wall:.2f} in wall time, {cpu:.2f} in CPU time')
                yield Goal(f'e2e_{title}_{peer}{SUFFIXES[name]}', wall, target)


if __name__ == '__main__':
    run_tool(main)
