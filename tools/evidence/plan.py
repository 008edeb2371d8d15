"""Which runs each table of results is to have."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.flop_counter import FlopCounterMode

from unmix.apis import load_config
from unmix.models.algorithms import DeepClusterV2
from unmix.registry import MODELS

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
