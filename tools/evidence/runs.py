"""Runs of a table of results: how they are known, where they are, training them, and what they add up to."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tools.benchmarks.measure import visible
from tools.evidence.plan import NEW, RATES, TABLES, VIT_RATES, Arm, best_of, planned_comparisons
from tools.evidence.tables import METRICS
from unmix.apis import load_config

ROOT = Path(__file__).resolve().parents[2]
DECIDING = ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'num_threads',
            'test_dataloader', 'test_cfg', 'test_evaluator')  # fmt: skip


@cache
def deciding(arm: Arm, threads: int) -> dict[str, Any]:
    """Return the parts of a config that determine a result, apart from the seed."""
    cfg = load_config(arm.config, dict(arm.options, num_threads=threads)).to_dict()
    return {key: cfg.get(key) for key in DECIDING}


def digest(arm: Arm, threads: int) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of what determines a result, apart from seed and code."""
    text = json.dumps(deciding(arm, threads), sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
