"""Train quickstart configs with and without Un-Mix over several seeds, and print a table in Markdown.

    python tools/benchmarks/quickstart_table.py --methods moco --seeds 5         # the table of README.md
    python tools/benchmarks/quickstart_table.py --seeds 3 --no-equal-compute     # that of configs/quickstart/README.md

Three runs a seed: the method, the method with more epochs so that it computes as much as with Un-Mix (floating-point
operations of a step are counted), and the method with Un-Mix. Rows are means with 95 % t-intervals over the seeds. The
last row of a method is Un-Mix minus the row before it, paired by seed. Finished runs in --work-dir are not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import torch
from measure import visible
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from unmix.apis import load_config
from unmix.models.algorithms import DeepClusterV2
from unmix.registry import MODELS

METHODS = ['moco', 'moco-align-uniform', 'simclr', 'byol', 'wmse', 'swav', 'deepclusterv2', 'instdisc', 'pic', 'cmc']
METHODS += ['simsiam', 'vicreg', 'barlow-twins', 'moco-v3', 'nnclr', 'dino', 'lejepa']
COLUMNS = {'knn': 'kNN', 'linear': 'linear', 'linear_10_per_class': 'linear, 10 labels a class'}
CONTROLS = {'raw_pixels_top1': 'raw pixels', 'random_init_top1': 'random initialisation'}
TRAIN = Path(__file__).resolve().parents[1] / 'train.py'
Results = dict[str, dict[str, float]]  # of a metric, by name


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
        torch.autograd.backward(torch.stack([loss.sum() for loss in losses.values()]).sum())
    return int(counter.get_total_flops())


def plan(method: str, args: argparse.Namespace) -> dict[str, tuple[str, int]]:
    """Return config and number of epochs of each row of a method."""
    plain, mixed = (f'unmix::quickstart/{prefix}{method}_digits.py' for prefix in ('', 'unmix-'))
    epochs = load_config(plain).train_cfg.max_epochs
    rows = {f'{method}, {epochs} epochs': (plain, epochs)}
    if not args.no_equal_compute:
        longer = round(epochs * flops_of_a_step(mixed) / flops_of_a_step(plain))
        rows[f'{method}, {longer} epochs (equal compute)'] = (plain, longer)
    return rows | {f'{method} + Un-Mix, {epochs} epochs': (mixed, epochs)}


def run(config: str, epochs: int, seed: int, args: argparse.Namespace) -> Results:
    """Train, unless the run has been made before, and return its results."""
    stem = Path(config.partition('::')[2]).stem
    device = '' if args.device == 'cpu' else f'_{args.device.replace(":", "")}'
    directory = args.work_dir / f'{stem}_{epochs}e_t{args.threads}{device}_s{seed}'
    results, log = directory / 'results.json', directory / 'log.txt'
    if not results.is_file():
        options = [f'randomness.seed={seed}', f'train_cfg.max_epochs={epochs}', f'num_threads={args.threads}']
        command = [sys.executable, str(TRAIN), config, '--work-dir', str(directory), '--cfg-options', *options]
        environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads)) | visible(args.device)
        directory.mkdir(parents=True, exist_ok=True)
        with log.open('w', encoding='utf-8') as output:
            status = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
            ).returncode
        if status:
            raise RuntimeError(f'{" ".join(command)} ended with status {status}; see {log}.')
    return cast(Results, json.loads(results.read_text(encoding='utf-8')))


def columns(results: list[Results], key: str) -> dict[str, np.ndarray]:
    """Return one number of each run, by column."""
    return {column: np.array([result[column][key] for result in results]) for column in COLUMNS}


def print_row(name: str, values: Mapping[str, np.ndarray]) -> None:
    """Print means and half-widths of the 95 % t-intervals."""
    cells = []
    for x in (values[column] for column in COLUMNS):
        half = stats.t.ppf(0.975, len(x) - 1) * stats.sem(x) if len(x) > 1 else None
        cells.append(f'{x.mean():.1f}' + ('' if half is None else f' ± {half:.1f}'))
    print(f'| {name} |', ' | '.join(cells), '|', flush=True)


def main() -> None:
    """Train what has not been trained, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=5, help='seeds 0 to N - 1')
    parser.add_argument('--methods', nargs='+', default=METHODS)
    parser.add_argument('--no-equal-compute', action='store_true', help='only the method and the method with Un-Mix')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart_table'))
    parser.add_argument('--jobs', type=int, default=max((os.cpu_count() or 2) // 2, 1), help='runs at once')
    parser.add_argument('--threads', type=int, default=1, help='threads of each run; results depend on it')
    parser.add_argument('--device', default='cpu', help='where to train, as cuda (default cpu)')
    parser.add_argument('--json', type=Path, help='write all numbers to this file')
    args = parser.parse_args()
    runs = f'n = {args.seeds} seeds; {args.threads} thread a run, on {args.device}'
    print(f'Top-1 accuracy in percent, mean ± 95 % t-interval over {runs}.\n')
    print('| |', ' | '.join(COLUMNS.values()), '|')
    print('|---' * (len(COLUMNS) + 1) + '|')
    report: dict[str, dict[str, dict[str, list[float]]]] = {}
    for method in args.methods:
        rows = plan(method, args)
        with ThreadPoolExecutor(args.jobs) as pool:
            futures = {row: [pool.submit(run, *job, n, args) for n in range(args.seeds)] for row, job in rows.items()}
        results = {row: [future.result() for future in found] for row, found in futures.items()}
        if not report:
            for key, name in CONTROLS.items():
                print_row(name, columns(next(iter(results.values())), key))
        tables = {row: columns(found, 'top1') for row, found in results.items()}
        for row, table in tables.items():
            print_row(row, table)
        *_, before, mixed = tables.values()
        print_row('difference, paired by seed', {column: mixed[column] - before[column] for column in COLUMNS})
        report[method] = {row: {name: x.tolist() for name, x in table.items()} for row, table in tables.items()}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
