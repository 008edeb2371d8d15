"""Training that starts from weights: what it starts from, and what it has made of them."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.runner import FlexibleRunner, Runner
from PIL import Image
from rich.console import Console
from rich.table import Table

from unmix.checkpoint.of_run import checkpoint_of
from unmix.converters.containers import read
from unmix.converters.fit import write_start
from unmix.converters.start import is_library, read_start
from unmix.engine.feature_pictures import draw_seen, look_at_training
from unmix.registry import MODELS
from unmix.utils.dist import agreed, unwrap
from unmix.utils.feature_statistics import effective_rank
from unmix.utils.files import atomic_path
from unmix.utils.rng import seeded
from unmix.visualization.results import CONTROLS
from unmix.zoo.preparation import image_transform

FILE = Path('start', 'backbone.pth')  # in the work dir, where no checkpoint of the run is looked for


def start_path(work_dir: str) -> Path:
    """Return the file of the weights that a training in a work dir starts from."""
    return Path(work_dir, FILE)


def init_cfg(work_dir: str) -> dict[str, Any]:
    """Return the ``init_cfg`` of a backbone that starts from the file in the work dir."""
    return dict(type='Pretrained', checkpoint=str(start_path(work_dir)), prefix='backbone')


def named_start(cfg: Config) -> str | None:
    """Return the library's network that ``init_cfg`` of a backbone names, if it does."""
    found = ((cfg.get('model') or {}).get('backbone') or {}).get('init_cfg') or {}
    name = found.get('checkpoint') if isinstance(found, Mapping) else None
    return name if isinstance(name, str) and is_library(name) and '://' not in name else None


def set_start(cfg: Config) -> None:
    """Let the backbone of a config start from the file in its work dir.

    Raises:
        ValueError: If the model is no method with a backbone, or starts from other weights already.
    """
    if cfg.model.get('pretrained') is not None or cfg.get('load_from') is not None:
        raise ValueError('--from, and model.pretrained or load_from: give one of them.')
    cfg.model.backbone.init_cfg = init_cfg(cfg.work_dir)


def prepare_start(cfg: Config, source: str) -> None:
    """Write the weights that a training starts from into its work dir, on rank 0; all processes call it.

    Raises:
        ConnectionError, FileNotFoundError, ImportError, ValueError: As for ``read_start`` and ``write_start``.
    """
    with agreed():
        if is_main_process():
            start = read_start(source)
            write_start(start, cfg.model.backbone.to_dict(), start_path(cfg.work_dir))
            for proof in start.proofs:
                print(proof, flush=True)
    barrier()


def compare_with_start(runner: Runner | FlexibleRunner) -> None:
    """Compare the features of a training with those that it started from, by what needs no labels.

    Prints the effective ranks (RankMe) of the features of at most 500 images of the training, of raw pixels, of random
    weights, of the weights at the start and of those at the end; writes them to ``start.json`` in the work dir, and the
    nearest neighbours at the start to ``neighbours_start.png``. Rank 0 alone does so.
    """
    model, cfg = unwrap(runner.model), copy.deepcopy(runner.cfg.model)
    start = (cfg.backbone.get('init_cfg') or {}).get('checkpoint')
    if start is None or not Path(start).is_file() or not is_main_process():
        return
    dataset = runner.train_dataloader.dataset
    view = image_transform(runner.cfg)(Image.new('RGB', (512, 512)))[None].to(torch.uint8)  # for its shape
    ranks: dict[str, float] = {}

    def build(without: bool) -> Any:
        part = copy.deepcopy(cfg)
        if without:
            part.backbone.pop('init_cfg')
        with seeded('random_init', runner.seed):
            built = MODELS.build(part)
            built.init_weights()
        return built.to(next(model.parameters()).device)

    def trained() -> Any:
        if not isinstance(runner, FlexibleRunner):
            return model
        whole = build(True)  # the ranks have a part of the model each; their checkpoints are whole
        whole.load_state_dict(read(checkpoint_of(runner.work_dir))['state_dict'])
        return whole

    builders: dict[str, Callable[[], Any]] = {
        'random_init': lambda: build(True),
        'start': lambda: build(False),
        'trained': trained,
    }
    for name, builder in builders.items():
        seen = look_at_training(builder(), dataset, view)
        if seen is None:
            return
        ranks[name] = float(effective_rank(seen.features))
        if name == 'start':
            with atomic_path(Path(runner.work_dir, 'neighbours_start.png')) as path:
                draw_seen(seen, path, 'the weights at the start')
    labels = CONTROLS | {'trained': 'this training'}
    table = Table(title='effective rank of the features (RankMe)')
    table.add_column('features')
    table.add_column('rank', justify='right')
    for name, rank in ranks.items():
        table.add_row(labels[name], f'{rank:.1f}')
    Console().print(table)
    with atomic_path(Path(runner.work_dir, 'start.json')) as path:
        path.write_text(json.dumps(dict(source=_source(start), effective_rank=ranks), indent=2), encoding='utf-8')


def _source(path: str) -> str:
    content = torch.load(path, map_location='cpu', weights_only=True)
    return str(content['meta']['source'])
