"""Protocol card: everything that a result depends on, saved beside it."""

import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
import torchvision
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.runner import Runner
from pooch import file_hash

import unmix
from unmix.engine.loops.feature_loop import FeatureLoop
from unmix.models.algorithms import Classifier
from unmix.utils.clock import is_trained
from unmix.utils.files import atomic_path
from unmix.version import __version__

RANDOM = 'random_init_top1'


def protocol_card(runner: Runner, model: Any, meta: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that distinguishes an evaluation from others, in plain containers.

    Args:
        runner: The Runner after a test.
        model: Its model.
        meta: Of the checkpoint tested, if any.
        results: Accuracies by metric; the random-initialisation control is taken from them.

    Returns:
        ``data`` and ``transform`` of the images tested and of those learned from, ``layer``, ``bn_mode``, ``metrics``
        (k, temperature, penalty, ...), of a trained classifier ``training`` (optimiser with learning rate, schedule,
        epochs, batch size), ``seed``, ``code``, ``checkpoint`` (file, SHA-256, epoch) and ``random_init``: top-1 of
        the same protocol on random weights, None where it was not measured.
    """
    cfg = runner.cfg
    classifier = isinstance(model, Classifier) and model.head is not None
    loader = cfg.get('train_dataloader') if classifier else (cfg.get('test_cfg') or {}).get('bank_dataloader')
    sets = {'test': _dataset(cfg.get('test_dataloader')), 'train' if classifier else 'bank': _dataset(loader)}
    layer, loop = model.layer if isinstance(model, Classifier) else None, runner._test_loop
    stage = loop.stage if isinstance(loop, FeatureLoop) else 'backbone'
    card: dict[str, Any] = dict(
        data={name: _without(dataset, 'pipeline', 'data_root') for name, dataset in sets.items()},
        transform={name: _innermost(dataset).get('pipeline') for name, dataset in sets.items()},
        normalize=_without(cfg.get('model', {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}),
        layer=stage if layer is None else f'{layer}, pooled to {model.pool}',
        bn_mode='eval' if not classifier else model.bn_mode if model.freeze else 'train',
        metrics=cfg.get('test_evaluator'),
    )
    if classifier:
        wrapper, epochs = cfg.get('optim_wrapper') or {}, (cfg.get('train_cfg') or {}).get('max_epochs')
        card['training'] = dict(
            frozen=model.freeze,
            optimizer=wrapper.get('optimizer'),
            paramwise=wrapper.get('paramwise_cfg'),
            schedule=cfg.get('param_scheduler'),
            epochs=epochs,
            batch_size=(loader or {}).get('batch_size', 0) * get_world_size(),
        )
    random = {name: values[RANDOM] for name, values in results.items() if RANDOM in values}
    card |= dict(
        seed=runner.seed, code=dict(unmix=__version__, commit=commit()), checkpoint=_checkpoint(runner, model, meta)
    )
    return json.loads(json.dumps(card | dict(random_init=random or None), default=str))


def write_results(path: Path, results: Mapping[str, Any], run: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Write ``results.json``; results of other protocols on the same checkpoint are kept.

    The top level has the newest results by metric and the circumstances of the newest run; ``protocols`` maps a config
    to its results with their card.
    """
    entry = dict(card, results=results)
    protocols: dict[str, Any] = {}
    with suppress(FileNotFoundError, ValueError, AttributeError):  # none, or not ours
        protocols = json.loads(path.read_text(encoding='utf-8')).get('protocols', {})
    same = [
        name for name, other in protocols.items() if _digest(other) is not None and _digest(other) == _digest(entry)
    ]
    protocols = {name: protocols[name] for name in same if name != run['config']} | {run['config']: entry}
    merged: dict[str, Any] = {}
    for protocol in protocols.values():
        merged |= protocol['results']
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(merged | dict(run) | {'protocols': protocols}, indent=2) + '\n', encoding='utf-8'
        )


def add_to_results(path: Path, values: Mapping[str, Any]) -> None:
    """Add values to the top level of ``results.json``; it is made if there is none."""
    content: dict[str, Any] = {}
    with suppress(FileNotFoundError, ValueError):  # none, or not ours
        content = dict(json.loads(path.read_text(encoding='utf-8')))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content | dict(values), indent=2) + '\n', encoding='utf-8')


def is_reported(runner: Runner) -> bool:
    """Return whether ``results.json`` has the results of this config on the weights of the run, and say so.

    Rank 0 decides; all ranks call it.
    """
    reported = [False]
    if is_main_process():
        path, filename = Path(runner.work_dir, 'results.json'), runner.cfg.filename
        config = Path(filename).name if filename else runner.experiment_name
        own = _checkpoint(runner, None, {})
        with suppress(OSError, ValueError, KeyError, TypeError):  # none, or not ours
            entry = json.loads(path.read_text(encoding='utf-8'))['protocols'][config]
            reported = [own is not None and own['sha256'] is not None and own['sha256'] == _digest(entry)]
        if own is not None and reported[0]:
            runner.logger.info(f'{path} has the results of {own["file"]}; they are not computed again')
    broadcast_object_list(reported)
    return reported[0]


def versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on."""
    packages = (torch, torchvision, mmengine, np)
    return {'unmix': __version__} | {package.__name__: package.__version__ for package in packages}


def commit() -> str | None:
    """Return the commit of this checkout, with ``-dirty`` if files are changed; None for an installed package."""
    root = Path(unmix.__file__).resolve().parents[1]
    if not (root / '.git').exists():
        return None
    command = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _checkpoint(runner: Runner, model: Any, meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return file, digest and epoch of the weights tested, and file and digest of a classifier's pretrained weights."""
    if is_trained(runner):
        pointer = Path(runner.work_dir, 'last_checkpoint')
        text = pointer.read_text(encoding='utf-8', errors='surrogateescape').strip() if pointer.is_file() else ''
        last = Path(text) if text else None
        names = {f'epoch_{runner.epoch}.pth', f'iter_{runner.iter}.pth'}
        file, epoch = (last if last is not None and last.name in names else None), runner.epoch
    else:
        file, epoch = Path(str(runner._load_from or '')), meta.get('epoch')
    found = _file(file) | {'epoch': epoch}
    pretrained = model.pretrained if isinstance(model, Classifier) else None
    return found if pretrained is None else found | {'pretrained': _file(Path(pretrained))}


def _file(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return dict(file=None if path is None or str(path) == '.' else path.name, sha256=None)
    return dict(file=path.name, sha256=file_hash(path))


def _dataset(loader: Any) -> dict[str, Any]:
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None if loader is None else loader.dataset
    return dict(dataset) if isinstance(dataset, Mapping) else dict(type=type(dataset).__name__)


def _innermost(dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    while isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    return dataset


def _without(cfg: Any, *keys: str) -> Any:
    """Copy without some keys, at any depth."""
    if isinstance(cfg, Mapping):
        return {key: _without(value, *keys) for key, value in cfg.items() if key not in keys}
    return cfg


def _digest(entry: Mapping[str, Any]) -> str | None:
    return (entry.get('checkpoint') or {}).get('sha256')
