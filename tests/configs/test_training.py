"""Each family of pre-training configs in the real Runner, two iterations, plain and with Un-Mix, on random images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from unmix.apis import build_runner, load_config
from unmix.config import config_root
from unmix.datasets import ArrayDataset
from unmix.models.algorithms import MultiCropAlgorithm
from unmix.registry import DATASETS
from unmix.utils.rng import seeded

pytestmark = pytest.mark.slow

BATCH, STEPS, QUEUE = 8, 2, 40


@DATASETS.register_module(force=True)
class RandomImages(ArrayDataset):
    """Random images of four classes, the same for the same number."""

    def __init__(self, num: int, shape: tuple[int, int, int], pipeline: Any = None) -> None:
        with seeded('images', num):
            images = torch.randint(256, (num, *shape), dtype=torch.uint8)
        super().__init__(images, torch.arange(num) % 4, pipeline)


DEEP = {'model.backbone.depth': 26}
NARROW = DEEP | {'model.neck.hidden_dim': 16, 'model.neck.out_dim': 16}
SMALL_DINO = {'model.neck.hidden_dim': 16, 'model.neck.out_dim': 16, 'model.head.dim': 16, 'model.freeze_epochs': 0}
SMALL_WMSE = {'model.neck.out_dim': 2, 'model.head.sub_batch': 4}
WARM_UP = (1 / 500, 2 / 500)  # the rates of the two iterations, as shares of the full one
HALVED = (1, 1 / 2)  # half a cosine over two iterations
# Not below 32: of a strided 3x3 convolution over one pixel, oneDNN 3.13 returns garbage as gradient of the outer taps.
CROP = 'train_dataloader.dataset.pipeline.crops'
CROPS = {f'{CROP}.{i}.transforms.0.size': size for i, size in enumerate((40, 32))}
NO_RAMP = {'param_scheduler.0.warmup': 0}
CLUSTERS = {'model.head.num_prototypes': 4, 'model.head.num_instances': BATCH * STEPS + 3}
BANK = {'model.head.num_instances': BATCH * STEPS + 3}
BRANCHES = BANK | {'model.backbone.branch.stem_width': 8, 'model.backbone.branch.depth': 26}
SLIDING = {'train_dataloader.sampler.window': BATCH * STEPS, 'train_dataloader.sampler.stride': BATCH}
RECENT = {'model.head.num_recent': BATCH + 3}
SLOW_START = {which: (0.01, 0.01 + 0.99 / steps) for which, steps in (('pic', 49 * 512), ('mlp', 5 * 5004))}
TO_A_THOUSANDTH = (1, 0.001 + 0.999 / 2)

# Config; image shape that its data set would have; what makes it small; rates of the two iterations.
FAMILIES: dict[str, tuple[tuple[int, int, int], dict, tuple[float, float]]] = {
    'moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10': ((3, 32, 32), {}, (0, 0)),  # the last epoch's, counted from 1
    'moco/moco-asym_resnet18_1xb512-coslr-1000e_cifar100': ((3, 32, 32), {}, (0, 0)),
    'moco/mocov1_resnet50_8xb32-steplr-200e_in1k': ((3, 80, 60), DEEP, (1, 1)),
    'moco/mocov2_resnet50_4xb32-coslr-200e_in100': ((3, 80, 60), DEEP, (1, 1)),
    'moco-align-uniform/moco-align-uniform_resnet50_4xb32-steplr-200e_in100': ((3, 80, 60), DEEP, (1, 1)),
    'moco-align-uniform/moco-align-uniform_resnet50_8xb32-coslr-200e_in1k': ((3, 80, 60), DEEP, (1, 1)),
    'simclr/simclr_resnet18_1xb512-steplr-1000e_cifar10': ((3, 32, 32), {}, WARM_UP),
    'simclr/simclr_resnet50_4xb64-coslr-200e_in1k': ((3, 80, 60), DEEP, (0.01, 0.01 + 0.99 / (5 * 5004))),
    'byol/byol_resnet18_1xb512-steplr-1000e_cifar100': ((3, 32, 32), {}, WARM_UP),
    'byol/byol_resnet18_1xb512-steplr-2000e_stl10': ((3, 96, 96), {}, WARM_UP),
    'simsiam/simsiam_resnet50_8xb64-coslr-100e_in1k': ((3, 80, 60), NARROW | {'model.head.dim': 16}, (1, 1)),
    'vicreg/vicreg_resnet50_32xb64-coslr-1000e_in1k': ((3, 80, 60), NARROW | CROPS | NO_RAMP, TO_A_THOUSANDTH),
    'barlow-twins/barlow-twins_resnet50_32xb64-coslr-1000e_in1k': (
        (3, 80, 60),
        NARROW | CROPS | NO_RAMP,
        TO_A_THOUSANDTH,
    ),
    'moco-v3/moco-v3_resnet50_16xb256-coslr-100e_in1k': (
        (3, 80, 60),
        NARROW | CROPS | NO_RAMP | {'model.predictor.hidden_dim': 16, 'model.predictor.out_dim': 16},
        HALVED,
    ),
    'nnclr/nnclr_resnet50_32xb128-coslr-1000e_in1k': (
        (3, 80, 60),
        NARROW | CROPS | NO_RAMP | {'model.head.dim': 16, 'model.head.hidden_dim': 16},
        HALVED,
    ),
    'dino/dino_resnet50_8xb64-mcrop-coslr-100e_in1k': (
        (3, 80, 60),
        DEEP | CROPS | {f'{CROP}.2.transforms.0.size': 32} | NO_RAMP | SMALL_DINO,
        (1, 0.5 + 1e-6 / 0.12),
    ),
    'lejepa/lejepa_resnet50_8xb64-mcrop-coslr-100e_in1k': ((3, 80, 60), NARROW | CROPS | NO_RAMP, TO_A_THOUSANDTH),
    'wmse/wmse2_resnet18_1xb512-steplr-1000e_tiny-imagenet': ((3, 64, 64), SMALL_WMSE, WARM_UP),
    'wmse/wmse4_resnet18_1xb256-steplr-240e_in100': ((3, 80, 60), SMALL_WMSE, WARM_UP),
    'swav/swav_resnet26_1xb128-coslr-400e_cifar10': ((3, 32, 32), NO_RAMP, TO_A_THOUSANDTH),
    'swav/swav_resnet50_4xb64-mcrop-coslr-200e_in1k': ((3, 80, 60), DEEP | CROPS, TO_A_THOUSANDTH),
    'deepclusterv2/deepclusterv2_resnet50_64xb64-mcrop-coslr-400e_in1k': (
        (3, 80, 60),
        DEEP | CROPS | NO_RAMP | CLUSTERS,
        TO_A_THOUSANDTH,
    ),
    'relatives/imix-mocov2_resnet50_8xb32-coslr-800e_in1k': ((3, 80, 60), DEEP, (1, 1)),
    'relatives/mocomix_resnet50_8xb32-coslr-200e_in1k': ((3, 80, 60), DEEP, (1, 1)),
    'relatives/mixed-barlow-twins_resnet18_1xb256-coslr-2000e_cifar10': ((3, 32, 32), NO_RAMP, TO_A_THOUSANDTH),
    'image-mixture/moco-im_resnet50_4xb32-steplr-600e_in100': ((3, 80, 60), DEEP, (1, 1)),
    'instdisc/instdisc-softmax16384_resnet50_4xb32-steplr-240e_in100': ((3, 80, 60), DEEP | BANK, (1, 1)),
    'instdisc/instdisc-nce_resnet50_4xb32-steplr-200e_in1k': ((3, 80, 60), DEEP | BANK, (1, 1)),
    'instdisc/instdisc-mlp_resnet50_4xb64-coslr-200e_in1k': ((3, 80, 60), DEEP | BANK, SLOW_START['mlp']),
    'cmc/cmc-ycbcr_resnet50-half_4xb32-steplr-240e_in100': ((3, 80, 60), BRANCHES, (1, 1)),
    'cmc/cmc-lab_resnet50-half_4xb32-steplr-200e_in1k': ((3, 80, 60), BRANCHES, (1, 1)),
    'cmc/moco-cmc_resnet50_4xb32-steplr-200e_in1k': ((3, 80, 60), DEEP, (1, 1)),
    'pic/pic_resnet50_4xb64-mcrop-coslr-1955e_in1k': ((3, 80, 60), DEEP | CROPS | BANK | SLIDING, SLOW_START['pic']),
    'pic/pic-recent_resnet50_4xb64-mcrop-coslr-1955e_in1k': (
        (3, 80, 60),
        DEEP | CROPS | BANK | SLIDING | RECENT,
        SLOW_START['pic'],
    ),
    'quickstart/instdisc_digits': ((1, 16, 16), BANK, HALVED),
    'quickstart/cmc_digits': ((1, 16, 16), BANK, HALVED),
    'quickstart/pic_digits': ((1, 16, 16), BANK | SLIDING | RECENT, HALVED),
    'quickstart/swav_digits': ((1, 16, 16), NO_RAMP, (1, 0.5 + 0.5 * 0.0006 / 1.2)),
    'quickstart/deepclusterv2_digits': ((1, 16, 16), CLUSTERS, HALVED),
    'quickstart/moco_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/moco-align-uniform_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/simclr_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/byol_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/simsiam_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/vicreg_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/barlow-twins_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/moco-v3_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/nnclr_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/dino_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/lejepa_digits': ((1, 16, 16), {}, HALVED),
    'quickstart/wmse_digits': ((1, 16, 16), SMALL_WMSE, HALVED),
    'quickstart/moco_fashion-mnist': ((1, 28, 28), {}, HALVED),
}
# Recipes that are without Un-Mix, and have a version with it.
TWINS = [name for name in FAMILIES if not name.startswith(('image-mixture', 'relatives')) and 'unmix-' not in name]


def small(name: str, work_dir: Path, **options: Any) -> Config:
    """The config with random images, small batches and a narrow network."""
    shape, changes, _ = FAMILIES[name.replace('/unmix-', '/') if name not in FAMILIES else name]
    width = 8
    cfg = load_config(f'unmix::{name}.py', changes)
    encoder, neck = cfg.model.backbone.get('branch', cfg.model.backbone), cfg.model.neck.get('neck', cfg.model.neck)
    encoder.width = width
    if 'queue_size' in cfg.model.head:
        cfg.model.head.queue_size = QUEUE
    if 'predictor' in cfg.model:
        cfg.model.predictor.in_dim = cfg.model.neck.out_dim
    cfg.pop('sync_bn', None)  # on GPUs only
    neck.in_dim = width * {18: 8, 26: 32}.get(encoder.depth, 4)
    cfg.merge_from_dict(options)
    loaders = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]
    loaders += [cfg.val_cfg.bank_dataloader, cfg.test_cfg.bank_dataloader]
    for loader in loaders:
        loader.batch_size, loader.num_workers = BATCH, 0
        loader.pop('persistent_workers', None)
        dataset = loader.dataset
        while 'dataset' in dataset:  # one around the other
            dataset = dataset.dataset
        pipeline = dataset.get('pipeline')
        dataset.clear()
        dataset.update(type='RandomImages', num=BATCH * STEPS + 3, shape=shape, pipeline=pipeline)
    cfg.train_dataloader.drop_last = True  # two batches; the recipes of the CMC repository keep the rest
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    # The pictures have tests of their own.
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'ReportHook']
    return cfg


def train(cfg: Config) -> tuple[Runner, dict[str, list[float]]]:
    """Train; return the Runner and what it logged in each iteration."""
    runner = build_runner(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    keys = [key for key in ('lr', 'loss_base') if f'train/{key}' in scalars]
    return runner, {key: scalars[f'train/{key}'].data[0].tolist() for key in keys}


@pytest.fixture(scope='module', autouse=True)
def _one_thread() -> Iterator[None]:
    """Trainings are compared bit by bit over several tests: the sums of W-MSE depend on the number of threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize('name', FAMILIES)
def test_two_iterations(name: str, tmp_path: Path) -> None:
    """The drop-last epoch has two batches; state moves as it should; validation runs by the config's protocol.

    Un-Mix adds a term and changes nothing else: the first step's clean loss is the same, bit by bit, unless BatchNorm
    sees crops and mixtures jointly.
    """
    runner, log = train(small(name, tmp_path / 'plain'))
    cfg = runner.cfg
    assert runner.iter == STEPS
    if hasattr(runner.model.head, 'queue'):
        keys_a_step = BATCH * len(runner.model.pairs)
        assert int(runner.model.head.queue.pointer) == STEPS * keys_a_step % QUEUE
    expected = [cfg.optim_wrapper.optimizer.lr * share for share in FAMILIES[name][2]]
    assert log['lr'] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert 0 <= runner.message_hub.log_scalars['val/knn/top1'].current() <= 100
    state = torch.load(Path(runner.work_dir) / 'epoch_1.pth', weights_only=False)['state_dict']
    assert state.keys() == runner.model.state_dict().keys()
    assert not any('unmix' in key for key in state)
    if name in TWINS:
        assert 'train/loss_unmix' not in runner.message_hub.log_scalars
        folder, stem = name.split('/')
        twin, twin_log = train(small(f'{folder}/unmix-{stem}', tmp_path / 'twin', **{'train_cfg.val_begin': 2}))
        if not isinstance(runner.model, MultiCropAlgorithm):
            assert twin_log['loss_base'][0] == log['loss_base'][0]
        assert len(twin.message_hub.log_scalars['train/loss_unmix'].data[0]) == STEPS
        assert runner.model.state_dict().keys() == twin.model.state_dict().keys()


@pytest.mark.parametrize('labelled', [True, False])
def test_folder_of_images(labelled: bool, tmp_path: Path) -> None:
    """The config for a user's folder needs nothing but the folder: sizes and modes differ, labels or none."""
    from PIL import Image

    for i in range(BATCH * STEPS):
        folder = tmp_path / 'images' / (f'class{i % 2}' if labelled else '')
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('L' if i % 3 else 'RGB', (40 + i, 90 - i), 5 * i).save(folder / f'{i}.png')
    options = {
        'data_root': str(tmp_path / 'images'),
        'train_dataloader.batch_size': BATCH,
        'model.head.queue_size': QUEUE,
        'train_cfg.max_epochs': 1,
    }
    cfg = load_config('unmix::quickstart/unmix-moco_folder.py', options)
    cfg.work_dir, cfg.launcher = str(tmp_path / 'work'), 'none'
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == STEPS
    assert (runner.train_dataloader.dataset.num_classes or 0) == (2 if labelled else 0)
    assert int(runner.model.head.queue.pointer) == STEPS * BATCH % QUEUE
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()


def test_every_family_is_trained() -> None:
    """A new method's folder needs a row here."""
    folders = {path.parent.name for path in config_root().rglob('*.py') if '_base_' not in path.parts}
    assert folders == {name.split('/')[0] for name in FAMILIES} | {'benchmarks'}
