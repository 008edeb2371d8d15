"""Training on a folder of images: the plan of ``unmix train --data DIR``, and what can be done with its features."""

import argparse
import datetime
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import FlexibleRunner, Runner
from rich.console import Console
from rich.table import Table

from unmix.apis.places import is_used, place_of
from unmix.apis.start import init_cfg, start_path
from unmix.config import config_root, find_config, load_config
from unmix.converters.fit import Start, write_start
from unmix.converters.library_networks import library_of
from unmix.converters.start import read_start
from unmix.datasets.survey import Facts, divided, survey
from unmix.engine.launch import begun_by_this_job, init_distributed, set_rendezvous
from unmix.engine.pace import measure_pace
from unmix.engine.plan import Machine, Plan, Wishes
from unmix.engine.planner import METHODS, MIXTURES, default_method, make_plan, recipe_name
from unmix.utils.names import shown

ENDING = '_folder.py'
DATASET, FOREIGN = 'train_dataloader.dataset', ('type', 'data_root', 'map_file', 'backend_args')  # keys of other images
OPTIONS = ('method', 'mixture', 'backbone', 'minutes', 'start')  # of the plan
WIDTH = 150  # of the table where the output is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a training on a folder."""
    group = parser.add_argument_group('a folder of images, without a config')
    group.add_argument('--data', metavar='DIR', help='images at any depth, labelled by class folders or not')
    group.add_argument('--method', help=f'{", ".join(METHODS)} (default: simclr on a CPU, moco on a GPU)')
    group.add_argument('--mixture', help=f'{", ".join(MIXTURES)} (default: both; none is the method without Un-Mix)')
    group.add_argument(
        '--backbone',
        metavar='NAME',
        help='resnet18, timm:NAME[,KEY=VALUE], ... (default: by the plan)',
    )
    group.add_argument('--minutes', type=float, help='time that the whole run may take')
    group.add_argument('--overwrite', action='store_true', help='begin anew in a work dir that a run has used')
    group.add_argument('--dry-run', action='store_true', help='print the plan and the config, and do nothing else')


class Request(NamedTuple):
    """A training on a folder.

    Attributes:
        folder: The folder.
        wishes: What the user wants of it.
        work_dir: Where it goes.
        start: Weights that it starts from, by their name; None: random ones.
    """

    folder: str
    wishes: Wishes
    work_dir: str
    start: str | None = None


def read_request(args: argparse.Namespace) -> Request | None:
    """Return the training on a folder that the arguments ask for; None if they name a config to train by.

    The recipe of a folder with ``--cfg-options data_root=DIR`` is one too. Where such a run is resumed, ``args.config``
    becomes its config.

    Raises:
        ValueError: If arguments contradict each other, or the work dir was used.
    """
    options = dict(args.cfg_options or {})
    own = None if args.config is None else _own_recipe(args.config)
    folder = args.data if args.data is not None else options.get('data_root') if own else None
    asked = [f'--{name}'.replace('start', 'from') for name in OPTIONS if getattr(args, name) is not None]
    asked += ['--overwrite'] * args.overwrite + ['--dry-run'] * args.dry_run
    if folder is None:
        asked = [name for name in asked if name != '--from']
        if asked:
            raise ValueError(f'{" and ".join(asked)}: only for a training on a folder. Give --data DIR too.')
        return None
    if args.config is not None and own is None:
        raise ValueError(
            f'--data goes with --method, or with the recipe of a folder, such as unmix-moco{ENDING}. To train by '
            f'{args.config}, set its train_dataloader.dataset.data_root by --cfg-options.'
        )
    if args.minutes is not None and not 0 < args.minutes < math.inf:
        raise ValueError(f'--minutes is {args.minutes:g}; expected a time above 0.')
    foreign = [f'{DATASET}.{key}' for key in FOREIGN if f'{DATASET}.{key}' in options]
    if foreign:
        raise ValueError(
            f'{" and ".join(foreign)}: the plan is of the images below --data. Leave it out, or train by a config of '
            'your own, as docs/custom_data.md shows.'
        )
    if own is not None:
        if args.method not in (None, own.method):
            raise ValueError(f'{args.config} is the recipe of {own.method}: leave out --method {args.method}.')
        method, mixture = own.method, args.mixture or own.mixture
    else:
        method, mixture = args.method or default_method(accelerators())[0], args.mixture or 'both'
    recipe = recipe_name(method, mixture)
    base = os.path.join('work_dirs', Path(recipe).stem)
    work_dir = args.work_dir or (base if args.overwrite else place_of(base, args.resume))
    options.pop('data_root', None)
    # With --resume alone, a work dir that no run has used is that of a new one.
    if args.resume not in (None, 'auto') or (args.resume and is_used(work_dir)) or begun_by_this_job(work_dir):
        _resume(args, work_dir, asked)
        return None
    _refuse_used(work_dir, args.overwrite or args.dry_run)
    if args.amp:
        options['optim_wrapper.type'] = 'AmpOptimWrapper' if torch.cuda.is_available() else 'AutocastOptimWrapper'
    wanted = args.method if own is None else method
    wishes = Wishes(wanted, mixture, args.backbone, args.minutes, options)
    return Request(str(folder), wishes, work_dir, args.start)


class _Recipe(NamedTuple):
    method: str
    mixture: str


def _own_recipe(config: str) -> _Recipe | None:
    """Return the method and mixture of a recipe of this project for a folder; None for other configs."""
    path = find_config(config).resolve()
    if path.parent != config_root() / 'quickstart' or not path.name.endswith(ENDING):
        return None
    name = path.name.removesuffix(ENDING)
    method = name.removeprefix('unmix-')
    return _Recipe(method, 'none' if method == name else 'both')


def _refuse_used(work_dir: str, overwrite: bool) -> None:
    if is_used(work_dir) and not overwrite:
        raise ValueError(
            f'A run was begun in {shown(work_dir)} before. Go on with it by --resume, begin anew there by --overwrite, '
            'which replaces its files, or give another place by --out.'
        )


def _resume(args: argparse.Namespace, work_dir: str, asked: Sequence[str]) -> None:
    """Let the arguments name the config that a run on a folder has left in its work dir, or beside its checkpoint.

    Its images are those below ``--data``, if that is given: they may have been moved. Where there is no config, a
    recipe that was named is resumed as it stands, with the options given.

    Raises:
        ValueError: If there is neither, or the arguments ask for another plan.
    """
    if asked and args.resume is not None:
        raise ValueError(f'--resume goes on with the plan of the run: leave out {" and ".join(asked)}.')
    args.work_dir = work_dir
    places = [work_dir, *([] if args.resume in (None, 'auto') else [os.path.dirname(args.resume)])]
    found = [sorted(Path(place).glob(f'*{ENDING}'), key=lambda path: path.stat().st_mtime) for place in places]
    configs = next(filter(None, found), [])
    if configs:
        args.config = str(configs[-1])
        options = dict(args.cfg_options or {})
        named = options.pop('data_root', None)
        folder = args.data if args.data is not None else named
        args.cfg_options = options if folder is None else options | _at(folder, load_config(args.config))
    elif args.config is None:
        raise ValueError(f'--resume: {shown(work_dir)} holds no config of a run on a folder. Give its place by --out.')
    elif args.data is not None:
        args.cfg_options = dict(args.cfg_options or {}, data_root=args.data)


def _at(folder: str, cfg: Config) -> dict[str, str]:
    """Return the options with which the config of a run reads its images below ``folder``.

    They may have been moved there. When the run is resumed, a warning says if they are others.
    """

    def innermost(data: Any) -> Any:
        return innermost(data['dataset']) if 'dataset' in data else data

    train, tested, _ = divided(folder)
    moved = {innermost(cfg.train_dataloader.dataset)['data_root']: train}
    if cfg.get('val_dataloader'):
        moved.setdefault(innermost(cfg.val_dataloader.dataset)['data_root'], tested or folder)
    found: dict[str, str] = {}

    def walk(node: Any, place: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f'{place}{key}.')
            elif key in ('data_root', 'class_list') and moved.get(value, value) != value:
                found[f'{place}{key}'] = moved[value]

    for name in ('train_dataloader', 'val_dataloader', 'val_cfg', 'test_dataloader', 'test_cfg'):
        walk({name: cfg.get(name) or {}}, '')
    return found


def plan_training(request: Request, launcher: str, dry_run: bool = False) -> Config | None:
    """Look at the folder and the machine, print the plan, and return the config; all processes get the same.

    The first process plans and measures alone, before the processes are connected.

    Args:
        request: The training.
        launcher: Of the processes.
        dry_run: Print the config too, and return None.

    Raises:
        ValueError: If the images cannot be trained on.
    """
    if several := launcher != 'none':
        set_rendezvous(launcher, None)
    rank, world = (int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])) if several else (0, 1)
    plans: list[Any] = [_plan(request, world, dry_run) if rank == 0 else None]
    start = Config(dict(launcher=launcher, env_cfg=load_config('_base_/default_runtime.py').env_cfg))
    init_distributed(start)
    broadcast_object_list(plans)
    plan: Plan = plans[0]
    cfg = plan.config()
    cfg.work_dir, cfg.launcher = request.work_dir, launcher
    if dry_run and rank == 0:
        print(cfg.pretty_text)
    return None if dry_run else cfg


def _plan(request: Request, world: int, dry_run: bool) -> Plan:
    wishes, machine = request.wishes, this_machine(world)
    labelled, class_list = (wishes.given.get(f'{DATASET}.{key}') for key in ('labelled', 'class_list'))
    facts = survey(request.folder, labelled, class_list)
    start = None if request.start is None else read_start(request.start, wishes.backbone)
    wishes = replace(wishes, start=start)
    speed, steps = measure_pace(make_plan(facts, machine, wishes).config())
    plan = make_plan(facts, replace(machine, speed=speed), wishes)
    if start is not None:
        plan = _with_start(plan, start, request.work_dir, dry_run)
    how = f'measured on {steps} steps' + (' of one process' if world > 1 else '')
    print_plan(plan, f'{how} of batch {plan.batch // world}, by what else runs here now')
    return plan


def _with_start(plan: Plan, start: Start, work_dir: str, dry_run: bool) -> Plan:
    """Write the weights that a training starts from, and return its plan without them."""
    model = plan.config().model
    if not dry_run:
        write_start(start, model.backbone.to_dict(), start_path(work_dir))
    options = plan.options | {f'model.backbone.init_cfg.{k}': v for k, v in init_cfg(work_dir).items()}
    notes = (*(f'{proof}.' for proof in start.proofs), *plan.notes)
    return replace(plan, options=options, notes=notes)


def accelerators() -> int:
    """Return the number of accelerators of this machine."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def this_machine(world: int) -> Machine:
    """Return what ``world`` processes of a training run on, of which those of this machine share its cores."""
    local = int(os.environ.get('LOCAL_WORLD_SIZE', world))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return Machine(world, accelerators(), max(cores // local, 1), memory)


def print_plan(plan: Plan, how: str) -> None:
    """Print a plan as a table, and what follows from it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    facts = plan.facts
    table = Table(title=f'Plan for {shown(facts.root)}: {describe(facts)}', title_justify='left')
    for name in ('', 'value', 'because', 'to change it'):
        table.add_column(name, overflow='fold')
    for row in plan.rows:
        table.add_row(row.name, str(row.value), row.reason, row.key)
    console.print(table)
    left = f'{plan.left_out} images of each epoch left out, others each time' if plan.left_out else 'no image left out'
    took = datetime.timedelta(seconds=round(plan.seconds))
    print(
        f'{plan.images} images, {plan.steps_per_epoch} steps an epoch, {left}; {plan.epochs} epochs, {plan.steps} '
        f'steps; about {took} of {plan.minutes:g} minutes ({how}).'
    )
    for note in plan.notes:
        print(f'Note: {note}')
    print(flush=True)


def describe(facts: Facts) -> str:
    """Return what a folder holds, in a line."""
    labels = f'{len(facts.classes)} classes' if facts.classes else 'no labels'
    modes = ', '.join(f'{number} {mode}' for mode, number in facts.modes)
    return (
        f'{facts.images} images, {labels}; sides of {facts.smallest} to {facts.largest} px; of those looked at {modes}'
    )


def print_uses(runner: Runner | FlexibleRunner, folder: str) -> None:
    """Print the health of the features at the end of a training, and the commands that use them."""
    if not is_main_process():
        return
    scalars, health = runner.message_hub.log_scalars, runner.message_hub.get_info('health') or {}
    values = {
        name: scalars[f'train/health/{name}'].current()
        for name in ('effective_rank', 'uniformity', 'alignment')
        if f'train/health/{name}' in scalars
    }
    signs = ', '.join(health.get('ill') or ())
    words = ', '.join(f'{name.replace("_", " ")} {value:.3g}' for name, value in values.items())
    print(f'Health of the features: {words}; {f"signs of a collapse: {signs}" if signs else "no sign of a collapse"}.')
    data = runner.cfg.train_dataloader.dataset
    while 'dataset' in data:
        data = data['dataset']
    size = '' if runner.cfg.get('test_cfg') else f' --size {data["pipeline"]["transforms"][0]["size"]}'
    print(
        'They serve to search for similar images, to cluster them, and to train a classifier on few labels:\n'
        f'  unmix features {runner.work_dir} {shown(folder)}{size} --out features.npz'
    )
    backbone = runner.cfg.model.backbone
    stock = dict(type='ResNet', in_channels=3, width=64, stem='imagenet')
    if all(backbone.get(key, value) == value for key, value in stock.items()) and backbone.depth not in (8, 26):
        print(f'The network for torchvision (timm: --to timm):\n  unmix export {runner.work_dir} --to torchvision')
    elif (library := library_of(backbone)) is not None:
        print(f'The network for {library}:\n  unmix export {runner.work_dir} --to {library}')
