"""Train what a table of results lacks, and write the table: Markdown, CSV, a figure, and ``results/TABLE.json``.

    python tools/reproduce.py tune                    # learning rates, chosen on writers that are not tested on
    python tools/reproduce.py methods --seeds 5       # all methods without and with Un-Mix, on the digits
    python tools/reproduce.py tune-vit                # likewise on a small ViT
    python tools/reproduce.py vit --seeds 3           # the newer methods on a small ViT
    python tools/reproduce.py cost --seeds 16         # cheaper forms of the mixture, on the digits
    python tools/reproduce.py fashion-mnist --seeds 5

Finished runs, in --work-dir or recorded in --results, are not repeated, interrupted ones are resumed, and tables share
runs. A run is known by what determines its result (model, data, optimiser, schedules, evaluation): after a change of a
recipe it is another run. To repeat all, give an empty folder as --results. The order is by seed, so that an interrupted
table has all rows with fewer seeds. Each call writes all runs of the table that are there, and prints those that are
missing; with --no-train it does only that. Then ``python tools/results.py`` puts the numbers into the pages.

Give one --work-dir to one process at a time. Results depend on --threads.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.flop_counter import FlopCounterMode

from unmix.apis import load_config
from unmix.models.algorithms import DeepClusterV2
from unmix.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools.benchmarks.measure import visible  # noqa: E402
from tools.results import METRICS, draw, to_csv, to_json, to_markdown  # noqa: E402

OLD = ['moco', 'moco-align-uniform', 'simclr', 'byol', 'wmse', 'swav', 'deepclusterv2', 'instdisc', 'pic', 'cmc']
NEW = ['vicreg', 'barlow-twins', 'moco-v3', 'nnclr', 'dino', 'lejepa', 'simsiam']
# Learning rates before the search, which was fixed before it ran. Twice and half of it are tried; for methods whose
# rate was a guess also four times or a quarter, if twice or half was the best.
RATES = {'moco': 0.05, 'moco-align-uniform': 0.05, 'simclr': 0.1, 'byol': 0.1, 'wmse': 0.003, 'swav': 0.6,
         'deepclusterv2': 0.05, 'instdisc': 0.05, 'pic': 0.05, 'cmc': 0.05, 'vicreg': 0.002, 'barlow-twins': 0.002,
         'moco-v3': 0.1, 'nnclr': 0.1, 'dino': 0.002, 'lejepa': 0.002, 'simsiam': 0.1}  # fmt: skip
FACTORS = (1.0, 0.5, 2.0)
# On the small ViT; where the best is at an edge, also twice or half of it. 0.001 was a guess: at that rate two seeds of
# each method had run before, and single runs at others.
VIT_RATES = (0.001, 0.004, 0.016)
VIT, VAL = 'unmix::_base_/vit_digits.py', 'unmix::_base_/digits_val.py'
SIZES = (0.75, 0.5, 0.875)  # of mixtures at lower resolution; chosen for MoCo, used for all
# What else is searched: whether with Un-Mix, further changes, and the values of each key. MoCo's values are used for
# all methods. DINO's were tried before its rates, since without BatchNorm it collapsed at all of them.
FURTHER: dict[str, tuple[bool, dict[str, Any], dict[str, tuple[float, ...]]]] = {
    'moco': (True, {}, {'model.unmix.mixing.prob': (0.0, 0.5, 1.0), 'model.unmix.size': SIZES}),
    'dino': (False, {'optim_wrapper.optimizer.lr': 0.001, 'model.neck.norm': True},
             {'model.neck.norm': (False, True), 'model.head.teacher_temperature': (0.04, 0.02)}),
}  # fmt: skip
# Forms of Un-Mix that cost less, as changes of its config; besides mixtures at the best of SIZES.
CHEAPER: dict[str, dict[str, Any]] = {
    'once': {'model.unmix.pairs': 'once'},
    'every': {'model.unmix.every': 2},
    'replace': {'model.unmix.replace': True},
}
DECIDING = ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'num_threads',
            'test_dataloader', 'test_cfg', 'test_evaluator')  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """A cell of a table: a config with changes, trained once for each seed.

    Attributes:
        row: Method.
        column: What is done to it.
        config: Name of the config.
        options: Changes, as ``--cfg-options`` takes them.
        planned: Number of seeds that the table is to have.
    """

    row: str
    column: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    planned: int = 1


@cache
def deciding(arm: Arm, threads: int) -> dict[str, Any]:
    """Return the parts of a config that determine a result, apart from the seed."""
    cfg = load_config(arm.config, dict(arm.options, num_threads=threads)).to_dict()
    return {key: cfg.get(key) for key in DECIDING}


def digest(arm: Arm, threads: int) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of what determines a result, apart from seed and code."""
    text = json.dumps(deciding(arm, threads), sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digits(method: str, mixed: bool = False) -> str:
    """Return the config of a method on the digits, without or with Un-Mix."""
    return f'unmix::quickstart/{"unmix-" if mixed else ""}{method}_digits.py'


@cache
def recipe(method: str) -> Any:
    """Return the config of a plain method on the digits."""
    return load_config(digits(method))


def tune(score: Callable[[Arm], float | None]) -> Iterator[Arm]:
    """Learning rates of the plain methods, and what is in ``FURTHER``, on the validation writers.

    Nothing is tuned for Un-Mix but the probability of global mixtures, and the size where mixtures are smaller. It
    takes the learning rate of the plain method.
    """
    for method in NEW + OLD:

        def rated(factor: float, method: str = method) -> Arm:
            rate = RATES[method] * factor
            return on_val(f'lr {rate:g}', method, False, {'optim_wrapper.optimizer.lr': rate})

        found = {factor: rated(factor) for factor in FACTORS}
        yield from found.values()
        best = best_of({factor: score(arm) for factor, arm in found.items()})
        if method in NEW and best in (0.5, 2.0):
            yield rated(best * best)
        mixed, options, tried = FURTHER.get(method, (False, {}, {}))
        for key, values in tried.items():
            for value in values:
                yield on_val(f'{key.rpartition(".")[2]} {value:g}', method, mixed, options | {key: value})


def on_val(column: str, method: str, mixed: bool, options: Mapping[str, Any]) -> Arm:
    """Return a method that is trained and evaluated on other writers than those of the tables."""
    cfg = recipe(method)
    given = {'_base_': VAL, 'train_cfg.val_interval': cfg.train_cfg.max_epochs}
    if 'num_instances' in cfg.model.head:
        given['model.head.num_instances'] = 776
    return Arm(method, column, digits(method, mixed), given | dict(options))


def best_of(scores: Mapping[Any, float | None]) -> Any:
    """Return the key of the highest score, the first of several; None if a score is missing."""
    known = [value for value in scores.values() if value is not None]
    return next(key for key in scores if scores[key] == max(known)) if len(known) == len(scores) else None


def methods() -> Iterator[Arm]:
    """All methods without and with Un-Mix."""
    for method in OLD + NEW:
        planned = 3 if method in NEW else 5
        yield Arm(method, 'plain', digits(method), planned=planned)
        yield Arm(method, 'full', digits(method, True), planned=planned)


def rated_vit(method: str, rate: float) -> Arm:
    """Return a plain method on the small ViT with a learning rate, on the validation writers."""
    options = {'_base_': [VIT, VAL], 'optim_wrapper.optimizer.lr': rate}
    return on_val(f'vit-lr {rate:g}', method, False, options)


def tune_vit(score: Callable[[Arm], float | None]) -> Iterator[Arm]:
    """Learning rates of the seven methods of today on a small ViT, without Un-Mix, on the validation writers."""
    for method in NEW:
        arms = {rate: rated_vit(method, rate) for rate in VIT_RATES}
        yield from arms.values()
        best = best_of({rate: score(arm) for rate, arm in arms.items()})
        if best in (VIT_RATES[0], VIT_RATES[-1]):
            yield rated_vit(method, best / 2 if best == VIT_RATES[0] else best * 2)


def vit(score: Callable[[Arm], float | None]) -> Iterator[Arm]:
    """The seven methods of today on a small ViT, with the rates that :func:`tune_vit` has found, once it has."""
    found: dict[str, dict[float, float | None]] = {}
    for arm in tune_vit(score):
        found.setdefault(arm.row, {})[arm.options['optim_wrapper.optimizer.lr']] = score(arm)
    for method in NEW:
        rate = best_of(found[method])
        options = {'_base_': VIT} | ({} if rate is None else {'optim_wrapper.optimizer.lr': rate})
        for column, mixed in (('plain', False), ('full', True)):
            yield Arm(method, column, digits(method, mixed), options, 3)


def cost(score: Callable[[Arm], float | None]) -> Iterator[Arm]:
    """Un-Mix and its cheaper forms, and the plain method with as much computation as with Un-Mix."""
    size = best_of({size: score(on_val(f'size {size:g}', 'moco', True, {'model.unmix.size': size})) for size in SIZES})
    cheaper = CHEAPER if size is None else CHEAPER | {'size': {'model.unmix.size': size}}
    for method in ('moco', 'simclr', 'byol'):
        yield Arm(method, 'plain', digits(method), planned=16)
        yield equal_compute(method, digits(method), digits(method, True), 16)
        yield Arm(method, 'full', digits(method, True), planned=16)
        for name, options in cheaper.items():
            yield Arm(method, name, digits(method, True), options, planned=16)


def fashion() -> Iterator[Arm]:
    """10,000 images of Fashion-MNIST, MoCo."""
    plain, mixed = (f'unmix::quickstart/{prefix}moco_fashion-mnist.py' for prefix in ('', 'unmix-'))
    yield equal_compute('moco', plain, mixed, 5)
    yield Arm('moco', 'full', mixed, planned=5)
    yield Arm('moco', 'once', mixed, CHEAPER['once'], planned=5)


def equal_compute(method: str, plain: str, mixed: str, planned: int) -> Arm:
    """Return the plain method with more epochs, so that it computes as much as with Un-Mix."""
    epochs = round(load_config(plain).train_cfg.max_epochs * operations(mixed) / operations(plain))
    return Arm(method, 'equal', plain, {'train_cfg.max_epochs': epochs}, planned)


TABLES: dict[str, Callable[..., Iterator[Arm]]] = {
    'tune': tune,
    'tune-vit': tune_vit,
    'methods': methods,
    'vit': vit,
    'cost': cost,
    'fashion-mnist': fashion,
}


def planned_comparisons(table: str, arms: list[Arm]) -> list[tuple[str, str, str]]:
    """Return row, column and minus which column of all comparisons that the table is made for."""
    found = []
    for arm in arms:
        if table in ('methods', 'vit') and arm.column == 'full':
            found.append((arm.row, 'full', 'plain'))
        if table in ('cost', 'fashion-mnist') and arm.column not in ('plain', 'equal'):
            found.append((arm.row, arm.column, 'equal'))
            if arm.column != 'full':
                found.append((arm.row, arm.column, 'full'))
    return found


@cache
def operations(config: str) -> int:
    """Return the floating-point operations of one training step, forward and backward."""
    cfg = load_config(config)
    init_default_scope('unmix')
    model = MODELS.build(cfg.model)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    if isinstance(model, DeepClusterV2):  # its step needs clusters
        for batch in loader:
            data = model.data_preprocessor(batch, True)
            model.remember(data['inputs'], data['index'])
        model.cluster(0)
    batch = next(iter(loader))
    with FlopCounterMode(display=False) as counter:
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        torch.autograd.backward(torch.stack([loss.sum() for loss in losses.values()]).sum())
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        environment: Commit, versions, machine and device.
        seconds: Time that it took.
        top1: Accuracies, by metric.
        raw_pixels: Accuracies of raw pixels.
        random_init: Accuracies of the untrained network.
    """

    environment: Mapping[str, Any]
    seconds: int
    top1: Mapping[str, float]
    raw_pixels: Mapping[str, float]
    random_init: Mapping[str, float]


@dataclass(frozen=True)
class Place:
    """Where runs are, and how they are trained.

    Attributes:
        folder: Of the work directories of all runs.
        threads: Of each run.
        device: Where it trains.
        recorded: Runs of earlier calls, which may have no work directory any more, by digest and seed.
    """

    folder: Path
    threads: int
    device: str
    recorded: Mapping[tuple[str, int], Run] = field(default_factory=dict)

    def of(self, arm: Arm, seed: int) -> Path:
        """Return the work directory of a run."""
        stem = Path(arm.config.partition('::')[2]).stem
        device = '' if self.device == 'cpu' else f'_{self.device.replace(":", "")}'
        return self.folder / f'{stem}_{digest(arm, self.threads)}{device}_s{seed}'

    def run(self, arm: Arm, seed: int) -> Run | None:
        """Return a run; None if it is not finished."""
        file = self.of(arm, seed) / 'results.json'
        if not file.is_file():
            return self.recorded.get((digest(arm, self.threads), seed))
        found = json.loads(file.read_text(encoding='utf-8'))
        starts = json.loads(file.with_name('report.json').read_text(encoding='utf-8'))['starts']

        def accuracies(key: str) -> dict[str, float]:
            return {metric: found[metric][key] for metric in METRICS if key in found.get(metric, {})}

        return Run(
            {key: starts[-1][key] for key in ('commit', 'versions', 'machine')} | dict(device=self.device),
            round(sum(start['seconds'] for start in starts)),
            accuracies('top1'),
            accuracies('raw_pixels_top1'),
            accuracies('random_init_top1'),
        )

    def score(self, arm: Arm) -> float | None:
        """Return kNN of seed 0."""
        run = self.run(arm, 0)
        return None if run is None else run.top1['knn']


def recorded(folder: Path, threads: int, device: str) -> dict[tuple[str, int], Run]:
    """Return the runs that the tables in a folder hold, of so many threads on a device, by digest and seed."""
    runs: dict[tuple[str, int], Run] = {}
    for file in (folder / f'{table}.json' for table in TABLES):
        content = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
        for cell in content.get('arms', []) if content.get('threads') == threads else []:
            for number, seed in enumerate(cell['seeds']):
                environment = content['environments'][cell['environment'][number]]
                top1, random_init = (
                    {metric: values[number] for metric, values in cell[key].items()} for key in ('top1', 'random_init')
                )
                run = Run(environment, cell['seconds'][number], top1, cell['raw_pixels'], random_init)
                if environment['device'] == device:
                    runs[cell['digest'], seed] = run
    return runs


def train(arm: Arm, seed: int, place: Place) -> bool:
    """Train and evaluate; return whether it ended well."""
    folder = place.of(arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    given = dict(arm.options) | {'randomness.seed': seed, 'num_threads': place.threads}
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), arm.config, '--work-dir', str(folder), '--resume']
    command += ['--cfg-options', *(f'{key}={value}' for key, value in given.items())]
    environment = dict(os.environ, OMP_NUM_THREADS=str(place.threads)) | visible(place.device)
    log = folder / 'log.txt'
    with log.open('a', encoding='utf-8') as output:
        status = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    print(
        f'{arm.row}, {arm.column}, seed {seed}: ' + ('done' if not status else f'status {status}, see {log}'),
        flush=True,
    )
    return not status


def missing(arms: list[Arm], seeds: int | None, place: Place) -> list[tuple[Arm, int]]:
    """Return the runs without results, by seed; each once, though several arms need it."""
    runs = {}
    for seed in range(seeds or max(arm.planned for arm in arms)):
        for arm in arms:
            if seed < (seeds or arm.planned):
                runs[place.of(arm, seed)] = arm, seed
    return [(arm, seed) for arm, seed in runs.values() if place.run(arm, seed) is None]


def collect(table: str, arms: list[Arm], place: Place) -> dict[str, Any]:
    """Return the content of ``results/TABLE.json``: all runs of the table that are finished."""
    environments: list[Mapping[str, Any]] = []
    cells = []
    for arm in arms:
        cell: dict[str, Any] = dict(
            row=arm.row, column=arm.column, config=arm.config.partition('::')[2], options=dict(arm.options),
            digest=digest(arm, place.threads), epochs=deciding(arm, place.threads)['train_cfg']['max_epochs'],
            planned=arm.planned, seeds=[], environment=[], seconds=[], top1={}, raw_pixels={}, random_init={},
        )  # fmt: skip
        for seed in range(max(arm.planned, 64)):
            run = place.run(arm, seed)
            if run is None:
                continue
            if run.environment not in environments:
                environments.append(run.environment)
            cell['seeds'].append(seed)
            cell['environment'].append(environments.index(run.environment))
            cell['seconds'].append(run.seconds)
            for metric, value in run.top1.items():
                cell['top1'].setdefault(metric, []).append(value)
            for metric, value in run.random_init.items():
                cell['random_init'].setdefault(metric, []).append(value)
            cell['raw_pixels'].update(run.raw_pixels)
        cells.append(cell)
    content = dict(table=table, threads=place.threads, environments=environments,
                   comparisons=planned_comparisons(table, arms), arms=cells)  # fmt: skip
    return content | (dict(choices=choices_of(arms, place)) if table.startswith('tune') else {})


def choices_of(arms: list[Arm], place: Place) -> dict[str, Any]:
    """Return what the search has chosen: the value with the highest kNN, of several the one tried first."""
    before: dict[str, dict[str, float]] = {
        'lr': RATES, 'prob': dict(moco=0.0), 'size': dict(moco=1.0), 'norm': dict(dino=0),
        'teacher_temperature': dict(dino=0.04), 'vit-lr': dict.fromkeys(NEW, VIT_RATES[0]),
    }  # fmt: skip
    names = {
        'lr': 'learning rate', 'prob': 'share of global mixtures', 'size': 'size of smaller mixtures',
        'norm': 'BatchNorm in the neck (1) or none (0)', 'teacher_temperature': 'temperature of the teacher',
        'vit-lr': 'learning rate on the small ViT',
    }  # fmt: skip
    found: dict[str, Any] = {}
    for arm in arms:
        kind, value = arm.column.split()
        start = dict(name=names[kind], before=f'{before[kind][arm.row]:g}', scores={})
        entry = found.setdefault(f'{arm.row} {kind}', start)
        entry['scores'][value] = place.score(arm)
    for entry in found.values():
        entry['chosen'] = best_of(entry['scores'])
    return found


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('table', choices=TABLES)
    parser.add_argument('--seeds', type=int, help='train seeds 0 to N - 1 (default: as planned for the table)')
    parser.add_argument('--rows', nargs='+', help='train some of the rows of the table only: methods')
    parser.add_argument('--columns', nargs='+', help='train some of the columns of the table only')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'reproduce')
    parser.add_argument('--results', type=Path, default=ROOT / 'results', help='folder of TABLE.json')
    parser.add_argument('--jobs', type=int, default=1, help='runs at once')
    parser.add_argument('--threads', type=int, default=1, help='threads of each run; results depend on it')
    parser.add_argument('--device', default='cpu', help='where to train, as cuda (default cpu)')
    parser.add_argument('--no-train', action='store_true', help='print what is missing, and write what is there')
    args = parser.parse_args()
    place = Place(args.work_dir, args.threads, args.device, recorded(args.results, args.threads, args.device))
    failed: set[tuple[str, str, int]] = set()
    while True:  # the values that a search tries last depend on the first ones
        arms = list(TABLES[args.table](*[place.score][: args.table in ('tune', 'tune-vit', 'vit', 'cost')]))
        chosen = arms
        for key in ('row', 'column'):
            wanted, known = getattr(args, f'{key}s'), list(dict.fromkeys(getattr(arm, key) for arm in arms))
            if wrong := sorted(set(wanted or []) - set(known)):
                parser.error(f'--{key}s {" ".join(wrong)}: the table {args.table} has {", ".join(known)}.')
            chosen = [arm for arm in chosen if getattr(arm, key) in (wanted or known)]
        todo = [run for run in missing(chosen, args.seeds, place) if (run[0].row, run[0].column, run[1]) not in failed]
        for arm, seed in todo:
            print(f'missing: {arm.row}, {arm.column}, seed {seed}: {place.of(arm, seed).name}', flush=True)
        if args.no_train or not todo:
            break
        with ThreadPoolExecutor(args.jobs) as pool:
            ended = list(pool.map(lambda run: train(run[0], run[1], place), todo))
        failed |= {(arm.row, arm.column, seed) for (arm, seed), good in zip(todo, ended, strict=True) if not good}
    content = collect(args.table, arms, place)
    args.results.mkdir(parents=True, exist_ok=True)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    file = args.results / f'{args.table}.json'
    file.write_text(to_json(content), encoding='utf-8')
    (args.work_dir / f'{args.table}.csv').write_text(to_csv(content), encoding='utf-8')
    (args.work_dir / f'{args.table}.md').write_text(to_markdown(content), encoding='utf-8')
    draw(content, args.work_dir / f'{args.table}.png')
    print('\n' + to_markdown(content))
    print(f'Written: {file}, and {args.table}.csv, .md and .png in {args.work_dir}.')
    if failed:
        sys.exit(f'{len(failed)} runs failed: ' + '; '.join(f'{row}, {column}, seed {n}' for row, column, n in failed))


if __name__ == '__main__':
    main()
