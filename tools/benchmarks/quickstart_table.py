"""Train quickstart configs with and without Un-Mix over several seeds, and print a table in Markdown.

    python tools/benchmarks/quickstart_table.py --methods moco --seeds 5         # the table of README.md
    python tools/benchmarks/quickstart_table.py --seeds 3 --no-equal-compute     # that of configs/quickstart/README.md

Three runs a seed: the method, the method with as much more epochs as Un-Mix computes more a step (floating-point
operations of one step, counted), and the method with Un-Mix. Rows are means with 95 % t-intervals over the seeds; the
last row of a method is Un-Mix minus the row before it, paired by seed. Finished runs in --work-dir are not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from unmix.apis import load_config
from unmix.models.algorithms import DeepClusterV2
from unmix.registry import MODELS

METHODS = ['moco', 'moco-align-uniform', 'simclr', 'byol', 'wmse', 'swav', 'deepclusterv2', 'instdisc', 'pic', 'cmc']
COLUMNS = {'knn': 'kNN', 'linear': 'linear', 'linear_10_per_class': 'linear, 10 labels a class'}
TRAIN = Path(__file__).resolve().parents[1] / 'train.py'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=5, help='seeds 0 to N - 1')
    parser.add_argument('--methods', nargs='+', default=METHODS)
    parser.add_argument('--no-equal-compute', action='store_true', help='only the method and the method with Un-Mix')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart_table'))
    parser.add_argument('--jobs', type=int, default=max((os.cpu_count() or 2) // 2, 1), help='runs at once')
    parser.add_argument('--threads', type=int, default=1, help='threads of each run; results depend on it')
    parser.add_argument('--json', type=Path, help='write all numbers to this file')
    return parser.parse_args()


def flops_of_a_step(config: str) -> int:
    """Floating-point operations of one training step, forward and backward."""
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
        torch.stack([loss.sum() for loss in losses.values()]).sum().backward()
    return counter.get_total_flops()


def plan(method: str, args: argparse.Namespace) -> dict[str, list[tuple[Path, list[str]]]]:
    """Return the runs (work dir, command) of each row of a method."""
    plain, mixed = (f'unmix::quickstart/{prefix}{method}_digits.py' for prefix in ('', 'unmix-'))
    epochs = load_config(plain).train_cfg.max_epochs
    rows = {f'{method}, {epochs} epochs': (plain, epochs)}
    if not args.no_equal_compute:
        longer = round(epochs * flops_of_a_step(mixed) / flops_of_a_step(plain))
        rows[f'{method}, {longer} epochs (equal compute)'] = (plain, longer)
    rows[f'{method} + Un-Mix, {epochs} epochs'] = (mixed, epochs)
    runs = {}
    for row, (config, num) in rows.items():
        runs[row] = []
        for seed in range(args.seeds):
            directory = args.work_dir / f'{Path(config.partition("::")[2]).stem}_{num}e_t{args.threads}_s{seed}'
            options = [f'randomness.seed={seed}', f'train_cfg.max_epochs={num}', f'num_threads={args.threads}']
            command = [sys.executable, str(TRAIN), config, '--work-dir', str(directory), '--cfg-options', *options]
            runs[row].append((directory, command))
    return runs


def run(directory: Path, command: list[str], threads: int) -> dict:
    """Return the results of a run, training it if that has not been done."""
    results = directory / 'results.json'
    if not results.is_file():
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / 'log.txt', 'w') as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
        if status:
            raise RuntimeError(f'{" ".join(command)} ended with status {status}; see {directory / "log.txt"}.')
    return json.loads(results.read_text())


def interval(values: np.ndarray) -> str:
    """Mean and half-width of the 95 % t-interval."""
    if len(values) < 2:
        return f'{values.mean():.1f}'
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f'{values.mean():.1f} ± {half:.1f}'


def add_row(name: str, columns: dict[str, np.ndarray]) -> None:
    print(f'| {name} |', ' | '.join(interval(columns[column]) for column in COLUMNS), '|', flush=True)


def main() -> None:
    args = parse_args()
    report: dict[str, dict] = {}
    print(
        f'Top-1 accuracy in percent, mean ± 95 % t-interval over n = {args.seeds} seeds; {args.threads} thread a run.\n'
    )
    print('| |', ' | '.join(COLUMNS.values()), '|')
    print('|---' * (len(COLUMNS) + 1) + '|')
    for method in args.methods:
        runs = plan(method, args)
        jobs = [(row, *job) for row, todo in runs.items() for job in todo]
        with ThreadPoolExecutor(args.jobs) as pool:
            outcomes = list(pool.map(lambda job: run(job[1], job[2], args.threads), jobs))
        rows: dict[str, list[dict]] = {row: [] for row in runs}
        for (row, *_), outcome in zip(jobs, outcomes, strict=True):
            rows[row].append(outcome)
        numbers = {
            row: {column: np.array([result[column]['top1'] for result in results]) for column in COLUMNS}
            for row, results in rows.items()
        }
        first = next(iter(rows.values()))
        for control, name in (('raw_pixels_top1', 'raw pixels'), ('random_init_top1', 'random initialisation')):
            if not report:
                add_row(name, {column: np.array([result[column][control] for result in first]) for column in COLUMNS})
        for row, columns in numbers.items():
            add_row(row, columns)
        *_, before, mixed = numbers.values()
        add_row('difference, paired by seed', {column: mixed[column] - before[column] for column in COLUMNS})
        report[method] = {row: {c: list(map(float, v)) for c, v in columns.items()} for row, columns in numbers.items()}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == '__main__':
    main()
