"""Small trainings with a record of their batches, for ``check_resume.py``."""

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from compare_checkpoints import leaves
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from small_forms import dataset_of

from unmix.apis import build_runner, load_config
from unmix.config import use_amp
from unmix.datasets import Digits
from unmix.registry import DATASETS, HOOKS

FEW, BATCH, EPOCHS, INTERVAL = 80, 16, 3, 3
DIGITS = {
    'train_dataloader.batch_size': BATCH,
    'train_dataloader.dataset.type': 'FewDigits',
    'val_dataloader.dataset.type': 'FewDigits',
    'val_cfg.bank_dataloader.dataset.type': 'FewDigits',
    'train_cfg.max_epochs': EPOCHS,
    'train_cfg.val_interval': 1,
    'default_hooks.checkpoint.save_best': 'knn/top1',
    'default_hooks.checkpoint.rule': 'greater',
}
# Changes for the small data, and short ramps, by the method's name.
METHODS: dict[str, dict[str, Any]] = {
    'deepclusterv2': {'model.head.num_prototypes': 8},
    'moco': {'model.head.queue_size': 48},
    'moco-align-uniform': {'model.head.queue_size': 48},
    'pic': {
        'model.head.num_recent': 40,
        'train_dataloader.sampler.window': 64,
        'train_dataloader.sampler.stride': 24,
    },
    'swav': {
        'param_scheduler.0.warmup': 1,
        'model.head.freeze_steps': 4,
        'model.head.queue_size': 32,
        'model.head.queue_start': 1,
    },
    'wmse': {'model.neck.out_dim': 4, 'model.head.sub_batch': 8},
}


@DATASETS.register_module(force=True)
class FewDigits(Digits):
    """The first ``FEW`` digits."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        assert self.labels is not None
        self.images, self.labels = self.images[:FEW], self.labels[:FEW]


@HOOKS.register_module(force=True)
class BatchLogHook(Hook):
    """Writes a line for each iteration: its number, and the hash of its batch."""

    priority = 'VERY_HIGH'

    def __init__(self, path: str) -> None:
        self.file = open(path, 'a', encoding='utf-8', buffering=1)  # noqa: SIM115 - line-buffered: SIGKILL comes

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Write the line."""
        self.file.write(f'{runner.iter} {digest(data_batch)}\n')


def digest(batch: Any) -> str:
    """Return a hash of all values of a batch."""
    bits = blake2b(digest_size=16)
    for _, value in leaves(batch):
        bits.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return bits.hexdigest()


class Case(NamedTuple):
    """A config and its options; ``data`` is one of ``small_forms.FORMS``, or '' for the data of the config."""

    config: str
    workers: int
    accumulate: int
    amp: bool
    deterministic: bool = False
    data: str = ''

    def __str__(self) -> str:
        options = f'workers={self.workers} accumulate={self.accumulate}' + (' amp' if self.amp else '')
        options += f' data={self.data}' if self.data else ''
        return f'{Path(self.config).stem:32} {options:30}'


def method(case: Case) -> str:
    """Return the method's name: the first word of the config's name, without ``unmix-``."""
    return Path(case.config).stem.removeprefix('unmix-').partition('_')[0]


def train(case: Case, work_dir: str, resume: bool) -> None:
    """Train in this process as ``tools/train.py CONFIG --work-dir DIR [--amp] [--resume]`` does."""
    with open(f'{work_dir}/output.txt', 'a', encoding='utf-8') as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    options: dict[str, Any] = {
        'work_dir': work_dir,
        'train_dataloader.num_workers': case.workers,
        'train_dataloader.persistent_workers': case.workers > 0,
        'randomness.deterministic': case.deterministic,
        'optim_wrapper.accumulative_counts': case.accumulate,
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': INTERVAL,
    }
    if load_config(case.config).train_dataloader.dataset.type == 'Digits':
        options |= DIGITS | METHODS.get(method(case), {})
    if method(case) == 'pic' and case.accumulate > 1:
        options['model.head.num_recent'] = None  # recent classes do not work with accumulation
    cfg = load_config(case.config, options)
    if case.data:
        cfg.train_dataloader.dataset = dataset_of(case.data, Path(work_dir).parent / 'data')
        cfg.model.backbone.in_channels = 3
        cfg.default_hooks.checkpoint.save_best = None
        for key in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'val_{key}'] = cfg[f'test_{key}'] = None
    cfg.default_hooks.batch_log = dict(type='BatchLogHook', path=f'{work_dir}/batches.txt')
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'ReportHook']  # draws pictures
    if case.amp:
        use_amp(cfg)
    cfg.resume = resume
    # Each checkpoint holds the text of the config. To format it takes longer than these trainings.
    build_runner(Config(cfg._cfg_dict, filename=cfg.filename, format_python_code=False)).train()
