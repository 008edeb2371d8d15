"""Train what a table of results lacks, and write the table: Markdown, CSV, a figure, and ``results/TABLE.json``.

    python tools/reproduce.py tune                    # learning rates, chosen on writers that are not tested on
    python tools/reproduce.py methods --seeds 5       # all methods without and with Un-Mix, on the digits
    python tools/reproduce.py cost --seeds 16         # cheaper forms of the mixture, on the digits
    python tools/reproduce.py fashion-mnist --seeds 5

Finished runs in --work-dir are not repeated, interrupted ones are resumed, and tables share runs. A run is known by what
determines its result (model, data, optimiser, schedules, evaluation): after a change of a recipe it is another run. The
order is by seed, so that an interrupted table has all rows with fewer seeds. --plan prints what is missing and trains
nothing. ``python tools/results.py`` then puts the numbers into the pages.

Give one --work-dir to one process at a time. Results depend on --threads.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
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
OLD = ['moco', 'moco-align-uniform', 'simclr', 'byol', 'wmse', 'swav', 'deepclusterv2', 'instdisc', 'pic', 'cmc']
NEW = ['vicreg', 'barlow-twins', 'moco-v3', 'nnclr', 'dino', 'lejepa', 'simsiam']
RATES = {method: (1.0, 0.5, 2.0) for method in OLD} | {method: (1.0, 0.5, 2.0, 0.25, 4.0) for method in NEW}
PROBS = (0.0, 0.5, 1.0)  # of the global mixture; chosen for MoCo, used for all
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
    """

    row: str
    column: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def digest(self, threads: int) -> str:
        """Return 12 hexadecimal digits of the SHA-256 of what determines a result, apart from seed and code."""
        cfg = load_config(self.config, dict(self.options, num_threads=threads)).to_dict()
        text = json.dumps({key: cfg.get(key) for key in DECIDING}, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def digits(method: str, mixed: bool = False) -> str:
    """Return the config of a method on the digits, without or with Un-Mix."""
    return f'unmix::quickstart/{"unmix-" if mixed else ""}{method}_digits.py'


def tune(methods: list[str]) -> Iterator[Arm]:
    """Learning rates of the plain methods, and MoCo's probability of global mixtures, on the validation writers.

    Nothing is tuned for Un-Mix but this probability; it takes the learning rate of the plain method.
    """
    for method in methods:
        cfg = load_config(digits(method))
        options = {'_base_': 'unmix::_base_/digits_val.py', 'train_cfg.val_interval': cfg.train_cfg.max_epochs}
        if 'num_instances' in cfg.model.head:
            options['model.head.num_instances'] = 776
        for factor in RATES[method]:
            rate = cfg.optim_wrapper.optimizer.lr * factor
            yield Arm(method, f'lr {rate:g}', digits(method), options | {'optim_wrapper.optimizer.lr': rate})
        if method == 'moco':
            for prob in PROBS:
                yield Arm(method, f'prob {prob:g}', digits(method, True), options | {'model.unmix.mixing.prob': prob})


def methods(methods: list[str]) -> Iterator[Arm]:
    """All methods without and with Un-Mix."""
    for method in methods:
        yield Arm(method, 'plain', digits(method))
        yield Arm(method, 'full', digits(method, True))


def cost(methods: list[str]) -> Iterator[Arm]:
    """Un-Mix and its cheaper forms, and the plain method with as much computation as with Un-Mix."""
    for method in methods:
        yield Arm(method, 'plain', digits(method))
        yield Arm(method, 'full', digits(method, True))
        yield equal_compute(method, digits(method), digits(method, True))


def fashion(methods: list[str]) -> Iterator[Arm]:
    """10,000 images of Fashion-MNIST."""
    config = 'unmix::quickstart/unmix-moco_fashion-mnist.py'
    options = dict(num_threads=1)
    yield Arm('moco', 'full', config, options)


def equal_compute(method: str, plain: str, mixed: str, **options: Any) -> Arm:
    """Return the plain method with more epochs, so that it computes as much as with Un-Mix."""
    epochs = load_config(plain, options).train_cfg.max_epochs
    longer = round(epochs * operations(mixed) / operations(plain))
    return Arm(method, 'equal', plain, options | {'train_cfg.max_epochs': longer})


TABLES = {'tune': tune, 'methods': methods, 'cost': cost, 'fashion-mnist': fashion}
METHODS = {'tune': NEW + OLD, 'methods': OLD + NEW, 'cost': ['moco', 'simclr', 'byol'], 'fashion-mnist': ['moco']}


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


def directory(arm: Arm, seed: int, args: argparse.Namespace) -> Path:
    """Return the work directory of a run."""
    stem = Path(arm.config.partition('::')[2]).stem
    device = '' if args.device == 'cpu' else f'_{args.device.replace(":", "")}'
    return Path(args.work_dir, f'{stem}_{arm.digest(args.threads)}{device}_s{seed}')


def train(arm: Arm, seed: int, args: argparse.Namespace) -> str | None:
    """Train and evaluate; return what went wrong."""
    place = directory(arm, seed, args)
    place.mkdir(parents=True, exist_ok=True)
    given = dict(arm.options) | {'randomness.seed': seed, 'num_threads': args.threads}
    options = [f'{key}={value}' for key, value in given.items()]
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), arm.config, '--work-dir', str(place), '--resume']
    environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    if ':' in args.device:
        environment['CUDA_VISIBLE_DEVICES'] = args.device.partition(':')[2]
    elif args.device == 'cpu':
        environment['CUDA_VISIBLE_DEVICES'] = ''
    log = place / 'log.txt'
    with log.open('a', encoding='utf-8') as output:
        status = subprocess.run(
            [*command, '--cfg-options', *options], stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    name = f'{arm.row}, {arm.column}, seed {seed}'
    print(f'{name}: ' + ('done' if status == 0 else f'ended with status {status}, see {log}'), flush=True)
    return None if status == 0 else name


def missing(arms: list[Arm], args: argparse.Namespace) -> list[tuple[Arm, int]]:
    """Return the runs that have no results yet, by seed; each once, though several arms need it."""
    runs = {directory(arm, seed, args): (arm, seed) for seed in range(args.seeds) for arm in arms}
    return [run for place, run in runs.items() if not (place / 'results.json').is_file()]


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('table', choices=TABLES)
    parser.add_argument('--seeds', type=int, default=1, help='seeds 0 to N - 1')
    parser.add_argument('--methods', nargs='+', help='some of the methods of the table')
    parser.add_argument('--columns', nargs='+', help='some of the columns of the table')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'reproduce')
    parser.add_argument('--jobs', type=int, default=1, help='runs at once')
    parser.add_argument('--threads', type=int, default=1, help='threads of each run; results depend on it')
    parser.add_argument('--device', default='cpu', help='where to train, as cuda (default cpu)')
    parser.add_argument('--plan', action='store_true', help='print what is missing, and train nothing')
    args = parser.parse_args()
    known = METHODS[args.table]
    if wrong := sorted(set(args.methods or []) - set(known)):
        parser.error(f'--methods {" ".join(wrong)}: the table {args.table} has {", ".join(known)}.')
    arms = list(TABLES[args.table](args.methods or known))
    if wrong := sorted(set(args.columns or []) - {arm.column for arm in arms}):
        parser.error(f'--columns {" ".join(wrong)}: the table has {", ".join(dict.fromkeys(a.column for a in arms))}.')
    todo = missing([arm for arm in arms if not args.columns or arm.column in args.columns], args)
    for arm, seed in todo:
        print(f'missing: {arm.row}, {arm.column}, seed {seed}: {directory(arm, seed, args).name}', flush=True)
    if args.plan:
        return
    with ThreadPoolExecutor(args.jobs) as pool:
        failed = [name for name in pool.map(lambda run: train(*run, args), todo) if name]
    if failed:
        sys.exit(f'{len(failed)} runs failed: ' + '; '.join(failed))


if __name__ == '__main__':
    main()
