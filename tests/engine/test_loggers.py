"""TensorBoard, W&B and MLflow by ``--log``."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_toy import toy_runner
from mmengine.config import Config
from mmengine.visualization import MLflowVisBackend, Visualizer
from PIL import Image

from unmix.config import load_config
from unmix.engine import loggers
from unmix.engine.loggers import LOGGERS, add_loggers, close_late, log_hyper_parameters, log_picture, log_results


def types(cfg: Config) -> list[str]:
    return [backend['type'] for backend in cfg.visualizer.vis_backends]


def test_loggers_come_after_those_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)  # as if all were installed
    cfg = load_config('moco_digits')
    cfg.work_dir = 'work_dirs/NAME_2'
    add_loggers(cfg, [*LOGGERS, 'wandb'])
    names = ['TensorboardVisBackend', 'WandbVisBackend', 'MLflowVisBackend']
    assert types(cfg) == ['PatientVisBackend', *names]
    assert cfg.visualizer.vis_backends[2].init_kwargs == dict(project='unmix', name='NAME_2')
    add_loggers(cfg, ['tensorboard'])
    assert types(cfg) == ['PatientVisBackend', *names]
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://host')
    cfg = Config(dict(work_dir='x'))
    add_loggers(cfg, ['mlflow'])
    assert cfg.visualizer.vis_backends[1].tracking_uri == 'http://host'


@pytest.mark.parametrize('name', LOGGERS)
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(ValueError, match=f'needs the package {name}: pip install .unmix.{name}.'):
        add_loggers(Config(dict(work_dir='x')), [name])


@pytest.mark.slow
def test_tensorboard_has_scalars_pictures_and_the_config(tmp_path: Path) -> None:
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    backends = [dict(type='PatientVisBackend'), dict(type='TensorboardVisBackend')]
    runner = toy_runner(tmp_path, visualizer__vis_backends=backends, train_cfg__max_epochs=1)
    runner.train()
    Image.fromarray(np.full((4, 6, 3), (9, 99, 199), np.uint8)).save(tmp_path / 'views.png')
    log_picture(runner.visualizer, tmp_path / 'views.png', 3)
    log_results(runner.visualizer, {'knn/top1': 50.0}, 6)
    log_hyper_parameters(runner.visualizer, runner.cfg)
    runner.visualizer.close()
    (file,) = tmp_path.rglob('events.out.tfevents*.0')
    found = events.EventAccumulator(str(file.parent)).Reload()
    assert [(one.step, one.value) for one in found.Scalars('test/knn/top1')] == [(6, 50.0)]
    tags: dict[str, Any] = found.Tags()
    assert {'loss', 'loss_base', 'lr'} <= set(tags['scalars'])
    assert tags['images'] == ['views.png']
    (image,) = found.Images('views.png')
    assert (image.step, image.width, image.height) == (3, 6, 4)
    events_of_all = (event for one in tmp_path.rglob('events.out.*') for event in EventFileLoader(str(one)).Load())
    summaries = (value for event in events_of_all for value in event.summary.value)
    plugins = (value.metadata.plugin_data for value in summaries)
    plugin = next(plugin.content for plugin in plugins if plugin.plugin_name == 'hparams')
    chosen = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert chosen['optim_wrapper.optimizer.lr'].number_value == 0.05
    assert chosen['model.type'].string_value
    text = found.Tensors('config/text_summary')[0].tensor_proto.string_val[0].decode()
    assert 'lr=0.05' in text
    assert not list(tmp_path.rglob('vis_image'))  # the local backend keeps no second copy


def test_runs_of_wandb_and_mlflow_stay_open_until_all_is_logged() -> None:
    closed: list[str] = []

    class Backend(MLflowVisBackend):
        def __init__(self, name: str) -> None:
            self.close = lambda: closed.append(name)

    def visualizer(name: str) -> Visualizer:
        made = Visualizer.__new__(Visualizer)
        made._vis_backends = dict(one=Backend(name))
        close_late(made)
        return made

    first = visualizer('first')
    first.close()  # of the training
    first.close()  # of the test
    assert closed == []
    second = visualizer('second')
    assert closed == ['first']
    second.close()
    loggers._close_all()
    loggers._close_all()
    assert closed == ['first', 'second']
