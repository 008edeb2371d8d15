"""Programs that show a training: TensorBoard, Weights & Biases, MLflow; they are backends of MMEngine's visualizer."""

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.visualization import (
    LocalVisBackend,
    MLflowVisBackend,
    TensorboardVisBackend,
    Visualizer,
    WandbVisBackend,
)
from PIL import Image

from unmix.config.combinations import check_combinations
from unmix.utils.run_files import leaves

PROJECT = 'unmix'  # of W&B and MLflow
LOGGERS = ('tensorboard', 'wandb', 'mlflow')
_HYPER = ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'randomness')  # of a config
_ARTIFACTS = ('results.json', '.py', '.png', 'report.html')  # endings of the files that MLflow gets at the end

_open: list[Callable[[], None]] = []


def add_loggers(cfg: Config, names: Sequence[str]) -> None:
    """Add backends to ``visualizer.vis_backends`` of a config, after those that it has.

    * ``'tensorboard'``: below the work dir;
    * ``'wandb'``: project ``unmix``, name of the work dir; its variables such as ``WANDB_MODE=offline`` count;
    * ``'mlflow'``: experiment ``unmix``, at ``MLFLOW_TRACKING_URI``, or else in ``mlflow.db`` and ``mlruns`` of the
      current directory.

    Raises:
        ValueError: If a package is missing; it has the command that installs it.
    """
    name = Path(cfg.work_dir).name
    address = os.environ.get('MLFLOW_TRACKING_URI') or 'sqlite:///mlflow.db'
    backends: dict[str, dict[str, Any]] = dict(
        tensorboard=dict(type='TensorboardVisBackend'),
        wandb=dict(type='WandbVisBackend', init_kwargs=dict(project=PROJECT, name=name)),
        mlflow=dict(
            type='MLflowVisBackend', exp_name=PROJECT, run_name=name, tracking_uri=address, artifact_suffix=_ARTIFACTS
        ),
    )
    visualizer = dict(cfg.get('visualizer') or dict(type='Visualizer', vis_backends=[dict(type='PatientVisBackend')]))
    own = list(visualizer.get('vis_backends') or [])
    types = {backend.get('type') for backend in own}
    new = [backends[name] for name in dict.fromkeys(names) if backends[name]['type'] not in types]
    cfg.visualizer = dict(visualizer, vis_backends=[*own, *new])
    check_combinations(cfg)


def log_results(visualizer: Visualizer, metrics: Mapping[str, float], step: int) -> None:
    """Give the results of a test, as ``test/NAME``, to the backends other than the local one."""
    for backend in _others(visualizer):
        backend.add_scalars({f'test/{name}': float(value) for name, value in metrics.items()}, step=step)


def log_hyper_parameters(visualizer: Visualizer, cfg: Config) -> None:
    """Give the values of a config that a training depends on to TensorBoard's HParams; other backends have the config.

    Without a list of metrics of its own a run has all its scalars there.
    """
    backends = [one for one in visualizer._vis_backends.values() if isinstance(one, TensorboardVisBackend)]
    if backends:
        from torch.utils.tensorboard.summary import hparams  # an optional package

        parts = {key: cfg[key] for key in _HYPER if cfg.get(key) is not None}
        values = {key: one if isinstance(one, bool | int | float) else str(one) for key, one in leaves(parts)}
        for backend in backends:
            backend.experiment.file_writer.add_summary(hparams(values, {})[1])


def log_picture(visualizer: Visualizer, path: Path, step: int) -> None:
    """Give a picture of the work dir to the backends that show pictures; the local one has the file."""
    if backends := _others(visualizer):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert('RGB'))
        for backend in backends:
            backend.add_image(path.name, pixels, step=step)


def _others(visualizer: Visualizer) -> list[Any]:
    return [backend for backend in visualizer._vis_backends.values() if not isinstance(backend, LocalVisBackend)]


def close_late(visualizer: Visualizer) -> None:
    """Let W&B and MLflow, which cannot be opened again, stay open after the training, for the results of the test.

    They have one run at a time. So they are closed when the process ends, or when the next Runner builds its
    visualizer; MMEngine closes them at the end of the training.
    """
    while _open:
        _open.pop()()
    for backend in visualizer._vis_backends.values():
        if isinstance(backend, MLflowVisBackend | WandbVisBackend):
            backend.close = partial(_keep_open, backend.close)


def _keep_open(close: Callable[[], None]) -> None:
    if close not in _open:
        _open.append(close)
        atexit.register(_close_all)  # now, since what is registered last is called first: before their own ends


def _close_all() -> None:
    while _open:
        _open.pop()()
