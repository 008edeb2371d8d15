"""How many images a second a config's data loader makes on this machine, what they cost, and what to change.

python tools/benchmarks/dataloader.py moco/mocov2_resnet50_8xb32-coslr-200e_in1k --device cuda
python tools/benchmarks/dataloader.py CONFIG --step-ms 110               # the time of a step is known
python tools/benchmarks/dataloader.py CONFIG --photographs 500           # without its data: JPEG files like ImageNet's

* Costs of an image, one thread in one process: decoding (the data set's ``load``), views (the pipeline), and the rest
  (collating, keys). Wall time far above CPU time means that files are waited for.
* By number of workers: images a second until a batch is in the main process (pinned, if the config pins), CPU time of
  all processes for an image, and memory: the proportional set size (PSS) of a worker and of all processes, where shared
  pages count once. Transport is the CPU time beyond that of one process. The first batches are not counted.
* Waiting: share of a training step in which it waits for its batch, in ``--steps`` steps of the config's model on
  ``--device``, with the config's number of workers. With ``--step-ms`` it is computed from that time instead.

* First batch: seconds from the building of the data set to its first batch, in a process that has imported torch.
* ``--threads 2``: so many threads of one process in place of workers, on the same batches, to compare with.

``GOAL loader_feeds <images a second over those that a step takes> 1 PASS|FAIL`` where the time of a step is known;
``GOAL loader_first_batch <seconds> 2``, and ``GOAL loader_memory <memory with 8 workers over that with 1> 1.3`` where
both are tried; both at most.
"""

import argparse
import gc
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import views
from measure import Goal, Stopwatch, print_goals
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from unmix.apis.command import argument_parser, run_tool
from unmix.config import load_config
from unmix.datasets.transforms import to_tensor
from unmix.engine.loader import build_dataloader
from unmix.engine.step import TrainStep
from unmix.registry import DATASETS, MODELS

Clocks = dict[str, float]
SLOW_FILES = 1.5  # wall time of decoding over its CPU time, from which on files are waited for
LARGE = 3  # sides of an image over those of its largest view, from which on decoding at half the size pays
SPARE = 1.1  # images a second that a loader should make, over those that are taken


def batch_size(batch: Any, loader: DataLoader[Any]) -> int:
    """Return the number of images of a batch."""
    return len(batch['index']) if isinstance(batch, dict) and 'index' in batch else loader.batch_size or 1


def endless(loader: DataLoader[Any], parts: Any) -> Iterator[Any]:
    """Yield the batches of a loader, or what else it is iterated by, of one epoch after the other."""
    for epoch in range(1 << 30):
        if hasattr(loader.sampler, 'set_epoch'):
            loader.sampler.set_epoch(epoch)
        yield from parts


def innermost(dataset: Any) -> Any:
    """Return the data set that loads the images, below those around it."""
    while 'dataset' in vars(dataset):
        dataset = dataset.dataset
    return dataset


def threaded(loader: DataLoader[Any], threads: int) -> Iterator[Any]:
    """Yield the batches of an epoch, made by threads of this process, two ahead for each."""
    dataset: Any = loader.dataset
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Any]] = deque()
        for keys in loader.batch_sampler or ():
            waiting.append(pool.submit(lambda keys: loader.collate_fn(dataset.__getitems__(keys)), keys))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Threads:
    """A loader whose batches are made by threads, an epoch at a time."""

    def __init__(self, loader: DataLoader[Any], threads: int) -> None:
        self.loader, self.threads = loader, threads

    def __iter__(self) -> Iterator[Any]:
        return threaded(self.loader, self.threads)


def stages(loader: DataLoader[Any], seconds: float) -> dict[str, Clocks]:
    """Return milliseconds of an image by stage and clock, on one thread of this process."""
    dataset: Any = loader.dataset
    source = innermost(dataset)
    pipeline, owners = getattr(source, 'pipeline', None), {}
    if hasattr(source, 'load'):
        owners[source, 'load'] = 'decode'
    if pipeline is not None and getattr(pipeline, 'fused', hasattr(pipeline, 'batch')):
        owners |= {(pipeline, name): 'views' for name in ('batch', 'defer') if hasattr(pipeline, name)}
    elif pipeline is not None:
        owners[source, 'pipeline'] = 'views'
    spent: dict[str, Clocks] = {stage: dict(cpu=0.0, wall=0.0) for stage in owners.values()} | {'batch': dict(cpu=0.0)}

    def timed(stage: str, call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            watch = Stopwatch('cpu')
            watch.start()
            result = call(*args, **kwargs)
            for clock, value in watch.stop().items():
                spent[stage][clock] = spent[stage].get(clock, 0.0) + value
            return result

        return run

    def make(keys: Any) -> Any:
        whole = getattr(dataset, '__getitems__', None)
        return loader.collate_fn([dataset[key] for key in keys] if whole is None else whole(keys))

    keys, images = endless(loader, loader.batch_sampler), 0
    make(next(keys))  # the first one compiles
    begin, measured = time.perf_counter(), timed('batch', make)
    with ExitStack() as stack:
        for (owner, name), stage in owners.items():
            stack.enter_context(patch.object(owner, name, timed(stage, getattr(owner, name))))
        while not images or time.perf_counter() - begin < seconds:
            asked = next(keys)
            measured(asked)
            images += len(asked)
    total = spent.pop('batch')
    spent['rest'] = {clock: value - sum(part[clock] for part in spent.values()) for clock, value in total.items()}
    return {stage: {clock: 1e3 * value / images for clock, value in part.items()} for stage, part in spent.items()}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def kilobytes(file: str, key: str) -> float:
    """Return a number of a file of /proc."""
    lines = Path(file).read_text(encoding='utf-8').splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f'{key}:'))


def throughput(loader: DataLoader[Any], seconds: float, threads: int = 0) -> dict[str, float]:
    """Return images a second, CPU time of an image over all processes, and memory; with threads instead of workers."""
    batches, images, batch = endless(loader, Threads(loader, threads) if threads else loader), 0, None
    for _ in range(
        2 * max(loader.num_workers, threads) + 1
    ):  # those that are waiting by now were made while workers started
        batch = next(batches)
    processes = [os.getpid(), *(child.pid or 0 for child in active_children())] if loader.num_workers else [os.getpid()]
    before, begin = sum(map(cpu_seconds, processes)), time.perf_counter()
    while not images or time.perf_counter() - begin < seconds:
        batch = next(batches)
        images += batch_size(batch, loader)
    wall, cpu = time.perf_counter() - begin, sum(map(cpu_seconds, processes)) - before
    pss = [kilobytes(f'/proc/{process}/smaps_rollup', 'Pss') / 1024 for process in processes]
    return dict(
        images_per_second=images / wall,
        cpu_ms=1e3 * cpu / images,
        worker_mb=sum(pss[1:]) / max(len(pss) - 1, 1),
        all_mb=sum(pss),
    )


def waiting(loader: DataLoader[Any], cfg: Any, device: str, steps: int) -> dict[str, float]:
    """Train; return the share of the time that steps wait for their batch, and the time of a step without it."""
    model = MODELS.build(cfg.model).to(device).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.initialize_count_status(model, 0, steps)
    model.head.follow(wrapper.optimizer)
    step, batches = TrainStep(model, wrapper), endless(loader, loader)
    step.start_watching()  # so that each step ends with the device's answer
    waited = ran = 0.0
    for number in range(-2, steps):
        begin = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        try:
            step.run(batch)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f'The model takes no step here ({error}). Give the time of a step: --step-ms.') from error
        if number >= 0:
            waited, ran = waited + got - begin, ran + time.perf_counter() - got
    step.close()
    return dict(share=waited / (waited + ran), step_ms=1e3 * ran / steps)


def photographs(number: int, folder: str, pipeline: Any) -> Any:
    """Return a data set of so many JPEG files, copies of 16 photographs."""
    files = views.write_jpegs(Path(folder), 0)
    target = Path(folder, 'images')
    target.mkdir()
    for index in range(number):
        shutil.copy(files[index % len(files)], target / f'{index}.jpg')
    return DATASETS.build(dict(type='ImageFolder', data_root=str(target), labelled=False, pipeline=pipeline))


def advice(
    loader: DataLoader[Any],
    now: int,
    costs: dict[str, Clocks],
    rates: dict[int, dict[str, float]],
    taken: float | None,
    device: str,
) -> list[str]:
    """Return what to change.

    Args:
        loader: Any loader of the data set.
        now: ``num_workers`` of the config.
        costs: From :func:`stages`.
        rates: From :func:`throughput`, by number of workers.
        taken: Images a second that steps take; None: unknown.
        device: Of the model.
    """
    found, source = [], innermost(loader.dataset)
    pipeline, key = getattr(source, 'pipeline', None), 'train_dataloader'
    wanted = SPARE * (taken or float('inf'))
    enough = [workers for workers, row in rates.items() if row['images_per_second'] >= wanted]
    best = min(enough, default=max(rates, key=lambda workers: rates[workers]['images_per_second']))
    if taken is not None and not enough:
        needed, cores = wanted * rates[best]['cpu_ms'] / 1e3, len(os.sched_getaffinity(0))
        found.append(
            f'No tried number of workers is enough; {key}.num_workers={best} makes most. {wanted:.0f} images a second '
            f'need {needed:.1f} free cores; this process may use {cores}, at a load of {os.getloadavg()[0]:.1f}.'
        )
        if device != 'cpu' and getattr(pipeline, 'deferred', None) is False:
            found.append(f"{key}.dataset.pipeline.backend='torch': the views are made on the device.")
    elif best != now:
        found.append(f'{key}.num_workers={best} {"is enough" if taken else "is the fastest"} (now {now}).')
    load, view = costs.get('decode'), costs.get('views')
    if load is not None and view is not None and load['cpu'] > view['cpu'] / 10:
        busy = max(view['wall'] / view['cpu'], 1.0) if view['cpu'] else 1.0  # how other processes delay this one
        if load['wall'] > SLOW_FILES * busy * load['cpu']:
            found.append('Files are waited for: copy them to a local disk, or let the system cache them in memory.')
        if find_spec('simplejpeg') is None:
            found.append('pip install simplejpeg: it decodes JPEG in less than half the time of PIL.')
        made: Any = source[0]['inputs']
        largest = max(max(x.shape[-2:]) for x in ([made] if isinstance(made, Tensor) else made))
        side = min(to_tensor(source.load(0)[0]).shape[-2:])
        if getattr(source, 'decode_size', 0) is None and side >= LARGE * largest:
            found.append(f'{key}.dataset.decode_size={2 * largest}: large JPEGs are decoded at a part of their size.')
    backends = {getattr(kind, 'backend', None) for kind in getattr(pipeline, 'kinds', [pipeline])}
    if backends & {'pil', 'torch'} and not getattr(pipeline, 'deferred', False):
        found.append('The views are not made by numba, which is several times as fast: docs/speed.md, Views.')
    if device != 'cpu' and not loader.pin_memory:
        found.append(f'{key}.pin_memory=False makes each copy to the device wait; leave it out.')
    return found or ['nothing']


def main() -> None:
    """Measure, print the tables, the advice and the goal."""
    parser = argument_parser(__doc__)
    parser.add_argument('--workers', type=int, nargs='+', help='numbers to try (default: 0, 1, 2, 4, ... cores)')
    parser.add_argument('--threads', type=int, nargs='+', default=[], help='numbers of threads to try (default: none)')
    parser.add_argument('--seconds', type=float, default=5.0, help='length of a measurement (default 5)')
    parser.add_argument('--steps', type=int, default=10, help="steps of the config's model (default 10; 0: none)")
    parser.add_argument('--step-ms', type=float, help='milliseconds of a step, if known; the model is not built')
    parser.add_argument('--device', default='cpu', help='where the model is (default cpu)')
    parser.add_argument(
        '--photographs', type=int, metavar='N', help="measure with N JPEG files instead of the config's data"
    )
    parser.add_argument('--json', help='write the tables, the goal and the machine to this file, too')
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    tried = args.workers or [0, *(1 << n for n in range(cores.bit_length()) if 1 << n < cores), cores]
    torch.set_num_threads(1)  # as in a worker
    init_default_scope('unmix')
    cfg = load_config(args.config, args.cfg_options)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args, cfg, tried, folder)
    goals = [Goal('loader_first_batch', report['first']['wall'], 2.0, at_most=True)]
    if {1, 8} <= report['workers'].keys():
        memory = [report['workers'][workers]['all_mb'] for workers in (8, 1)]
        goals.append(Goal('loader_memory', memory[0] / memory[1], 1.3, at_most=True))
    if report['taken'] is not None:
        best = max(row['images_per_second'] for row in report['workers'].values())
        goals.append(Goal('loader_feeds', best / report['taken'], 1.0))
    print_goals(goals, args.json, **report)


def measure(args: argparse.Namespace, cfg: Any, tried: list[int], folder: str) -> dict[str, Any]:
    """Measure and print; return what was found."""
    settings = cfg.train_dataloader.to_dict()
    if args.photographs:
        settings['dataset'] = photographs(args.photographs, folder, settings['dataset'].get('pipeline'))
        settings['sampler'] = dict(type='EpochSampler', shuffle=True)  # others are for a number of images

    def build(workers: int) -> DataLoader[Any]:
        loader = dict(settings, num_workers=workers, persistent_workers=workers > 0)
        if workers == 0:
            loader.pop('prefetch_factor', None)
        return build_dataloader(loader, seed=0)

    watch = Stopwatch('cpu')
    watch.start()
    loader = build(0)
    next(iter(loader))
    first = watch.stop()
    settings['dataset'] = loader.dataset
    stream = isinstance(loader.dataset, IterableDataset)
    costs = {} if stream else stages(loader, args.seconds)
    print(f'{args.config}: {type(innermost(loader.dataset)).__name__}, batch {loader.batch_size}, one process')
    print(f'{"ms an image":16s}{"CPU":>10s}{"wall":>10s}')
    for stage, row in costs.items():
        print(f'{stage:16s}{row["cpu"]:10.4f}{row["wall"]:10.4f}')
    print(f'the first batch came after {first["wall"]:.2f} s ({first["cpu"]:.2f} s of CPU time)')
    alone = sum(row['cpu'] for row in costs.values())
    print(
        f'\n{"workers":>8s}{"images/s":>10s}{"CPU ms/image":>14s}{"transport ms":>14s}'
        f'{"MB/worker":>11s}{"MB in all":>11s}'
    )
    rates: dict[int, dict[str, float]] = {}
    by_threads: dict[int, dict[str, float]] = {}
    for workers in tried:
        row = rates[workers] = throughput(build(workers), args.seconds)
        gc.collect()  # its workers end
        row['transport_ms'] = max(row['cpu_ms'] - alone, 0.0) if costs and workers else 0.0
        print(
            f'{workers:8d}{row["images_per_second"]:10.0f}{row["cpu_ms"]:14.4f}{row["transport_ms"]:14.4f}'
            f'{row["worker_mb"]:11.0f}{row["all_mb"]:11.0f}', flush=True,
        )  # fmt: skip
    for threads in args.threads:
        row = throughput(loader, args.seconds, threads)
        by_threads[threads] = row
        print(
            f'{threads:3d}, threads'[-12:].rjust(8)
            + f'{row["images_per_second"]:10.0f}{row["cpu_ms"]:14.4f}{"":25s}{row["all_mb"]:11.0f}', flush=True,
        )  # fmt: skip
    print(f'the machine has {kilobytes("/proc/meminfo", "MemAvailable") / 1024:.0f} MB left')
    now, step = cfg.train_dataloader.get('num_workers', 0), None
    batch = loader.batch_size or 1
    if args.step_ms is not None:
        made = max(row['images_per_second'] for workers, row in rates.items() if workers <= max(now, min(tried)))
        late = max(1e3 * batch / made - args.step_ms, 0.0)
        step = dict(share=late / (late + args.step_ms), step_ms=args.step_ms)
    elif args.steps:
        step = waiting(build(now), cfg, args.device, args.steps)
        gc.collect()
    taken = None if step is None else 1e3 * batch / step['step_ms']
    if step is not None:
        print(
            f'\na step takes {step["step_ms"]:.1f} ms, {taken:.0f} images a second; with num_workers={now} it waits '
            f'{100 * step["share"]:.0f} % of the time'
        )
    changes = advice(loader, now, costs, rates, taken, args.device)
    print('\nwhat to change:')
    for change in changes:
        print(f'* {change}')
    return dict(stages=costs, workers=rates, threads=by_threads, first=first, step=step, taken=taken, advice=changes)


if __name__ == '__main__':
    run_tool(main)
