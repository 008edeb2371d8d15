"""Training of ViTs: groups of AdamW, schedules in closed form, and a run that is resumed bit for bit."""

import importlib.util
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from unmix.apis import build_runner, load_config
from unmix.config import config_root
from unmix.datasets import ArrayDataset
from unmix.engine.runner import _for_console
from unmix.engine.schedulers import CosineWeightDecay
from unmix.models import Classifier
from unmix.registry import DATASETS, MODELS
from unmix.utils.rng import seeded

VIT = dict(
    type='TorchVisionBackbone', model_name='VisionTransformer', img_size=16,
    model_args=dict(patch_size=4, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=16),
)  # fmt: skip
TIMM_VIT = dict(
    type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=16,
    model_args=dict(patch_size=4, depth=3, num_heads=2, embed_dim=16, mlp_ratio=1),
)  # fmt: skip
needs_timm = pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
VITS = pytest.mark.parametrize('vit', [VIT, pytest.param(TIMM_VIT, marks=needs_timm)], ids=['torchvision', 'timm'])
LR, DECAY = 0.01, 0.05


def settings(model: nn.Module, **paramwise: Any) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter, by name."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
            paramwise_cfg=paramwise,
            constructor='unmix.DefaultOptimWrapperConstructor',
        ),
    )
    names = {p: name for name, p in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    assert len({(group['lr'], group['weight_decay']) for group in groups}) == len(groups), 'groups are merged'
    return {names[p]: (group['lr'], group['weight_decay']) for group in groups for p in group['params']}


@VITS
def test_norms_biases_tokens_and_positions_do_not_decay(vit: dict) -> None:
    model = Classifier(vit, dict(type='ClassificationHead', num_classes=3), freeze=False)
    found = settings(model, no_decay=True)
    expected = {
        name: 0.0 if p.ndim == 1 or name.endswith(('_token', 'pos_embed', 'pos_embedding')) else DECAY
        for name, p in model.named_parameters()
    }
    assert {name: decay for name, (_, decay) in found.items()} == expected
    assert 0 < sum(decay == 0 for decay in expected.values()) < len(expected)


@VITS
def test_rates_fall_from_layer_to_layer(vit: dict) -> None:
    """Three blocks: the head has the full rate, block i the factor 0.5^(3 - i), what comes before it 0.5^4."""
    model = Classifier(vit, dict(type='ClassificationHead', num_classes=3), freeze=False)
    found = settings(model, layer_decay=0.5, no_decay=True)
    for name, (lr, _) in found.items():
        parts = name.split('.')
        number = next((int(part.removeprefix('encoder_layer_')) for part in parts if part[-1].isdigit()), None)
        power = 0 if name.startswith('head.') else 3 - number if number is not None else 4
        power = 1 if name.endswith(('ln.weight', 'ln.bias', 'network.norm.weight', 'network.norm.bias')) else power
        assert lr == pytest.approx(LR * 0.5**power, rel=1e-12), name


def test_layers_of_a_resnet() -> None:
    resnet = dict(type='ResNet', depth=8, width=4, stem='cifar')
    model = Classifier(resnet, dict(type='ClassificationHead', num_classes=3), freeze=False)
    found = settings(model, layer_decay=0.5)
    for name, (lr, _) in found.items():
        power = 4 - int(name[14]) if '.layer' in name else 0 if name.startswith('head') else 4
        assert lr == pytest.approx(LR * 0.5**power, rel=1e-12), name


def test_bad_settings_get_one_message() -> None:
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r'layer_decay needs a backbone that tells its layers.*Linear'):
        settings(model, layer_decay=0.5)
    with pytest.raises(ValueError, match=r'layer_decay is 1.5; it is a factor above 0 and at most 1'):
        settings(model, layer_decay=1.5)
    name = 'unmix::quickstart/dino_digits.py'
    for key, message in (
        ('layerdecay', r'paramwise_cfg\.layerdecay: the config has no such key. Did you mean layer_decay'),
        ('no_deca', r'paramwise_cfg\.no_deca: .* Did you mean no_decay'),
    ):
        with pytest.raises(ValueError, match=message):
            load_config(name, {f'optim_wrapper.paramwise_cfg.{key}': 0.5})


def test_weight_decay_is_a_closed_form_of_the_step() -> None:
    """DINO's: 0.04 to 0.4 along half a cosine; a group without decay stays without; a resumed one goes on exactly."""
    parameters = [dict(params=[nn.Parameter(torch.ones(1))], weight_decay=w) for w in (0.04, 0.0)]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    schedule = CosineWeightDecay(optimizer, end_factor=10.0, end=20, by_epoch=False)
    seen = []
    for step in range(20):
        seen.append([group['weight_decay'] for group in optimizer.param_groups])
        if step == 7:
            saved, groups = schedule.state_dict(), optimizer.state_dict()
        optimizer.step()
        schedule.step()
    for step, (decay, none) in enumerate(seen):
        assert decay == pytest.approx(0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * step / 20)), rel=1e-12)
        assert none == 0
    assert all(group['lr'] == 0.1 for group in optimizer.param_groups)
    again = torch.optim.AdamW([dict(params=[nn.Parameter(torch.ones(1))], weight_decay=w) for w in (0.04, 0.0)], lr=0.1)
    resumed = CosineWeightDecay(again, end_factor=10.0, end=20, by_epoch=False)
    again.load_state_dict(groups)
    resumed.load_state_dict(saved)
    again.step()
    resumed.step()
    assert again.param_groups[0]['weight_decay'] == seen[8][0]


@pytest.mark.parametrize(('optimizer', 'network', 'warned'), [
    ('LARS', 'VisionTransformer', True), ('LARC', 'vit_b_16', True), ('AdamW', 'VisionTransformer', False),
    ('LARS', 'convnext_tiny', False),
])  # fmt: skip
def test_lars_on_a_vit_is_a_warning(optimizer: str, network: str, warned: bool) -> None:
    vit = dict(_delete_=True, type='TorchVisionBackbone', model_name=network)
    options = {'model.backbone': vit, 'optim_wrapper.optimizer': dict(_delete_=True, type=optimizer, lr=0.1)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        load_config('unmix::quickstart/simclr_digits.py', options)
    assert any('usually collapse. Take AdamW' in str(w.message) for w in caught) is warned


@DATASETS.register_module(force=True)
class FewRandomImages(ArrayDataset):
    """24 random images of 20 x 20 px."""

    def __init__(self, pipeline: Any = None) -> None:
        with seeded('images', 24):
            images = torch.randint(256, (24, 3, 20, 20), dtype=torch.uint8)
        super().__init__(images, torch.arange(24) % 4, pipeline)


def run(work_dir: Path, vit: dict, resume: str | None = None) -> Runner:
    """DINO with Un-Mix on crops of 16 and 8 px, drop path, bfloat16, clipping, schedules; 2 epochs of 3 steps."""
    cfg = load_config('unmix::quickstart/unmix-dino_digits.py')
    cfg.model.backbone = dict(vit, drop_path=0.5, dynamic_img_size=True)
    cfg.model.neck = dict(type='DINONeck', in_dim=16, hidden_dim=16, bottleneck_dim=8, out_dim=12)
    cfg.model.update(num_views=3, freeze_epochs=1)
    cfg.model.head = dict(type='DINOHead', dim=12, warmup_epochs=2, warmup_temperature=0.02)
    cfg.model.data_preprocessor = dict(type='DataPreprocessor', mean=[120.0] * 3, std=[70.0] * 3)
    crops = [
        dict(num_views=n, transforms=[dict(type='RandomResizedCrop', size=size, scale=(0.3, 1.0))])
        for n, size in ((2, 16), (1, 8))
    ]
    cfg.train_dataloader.batch_size = 8
    cfg.train_dataloader.pop('dataset')
    cfg.train_dataloader.dataset = dict(type='FewRandomImages', pipeline=dict(type='MultiCrop', crops=crops))
    cfg.optim_wrapper = dict(
        type='AutocastOptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.04),
        paramwise_cfg=dict(no_decay=True),
        clip_grad=dict(max_norm=0.3),
    )
    cfg.param_scheduler = [
        dict(type='RampCosineLR', warmup=1, convert_to_iter_based=True),
        dict(type='CosineWeightDecay', convert_to_iter_based=True),
    ]
    cfg.train_cfg = dict(type='TrainLoop', max_epochs=2)
    for key in ('val', 'test'):
        cfg[f'{key}_dataloader'] = cfg[f'{key}_cfg'] = cfg[f'{key}_evaluator'] = None
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1, max_keep_ckpts=10)
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'ReportHook']
    cfg.update(work_dir=str(work_dir), load_from=resume, resume=resume is not None, launcher='none')
    runner = build_runner(cfg)
    runner.train()
    return runner


@pytest.mark.slow
@VITS
def test_a_resumed_run_is_the_uninterrupted_one(vit: dict, tmp_path: Path) -> None:
    whole = run(tmp_path / 'whole', vit)
    parts = run(tmp_path / 'parts', vit, resume=str(tmp_path / 'whole' / 'iter_2.pth'))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, parts.model.state_dict()[name]), name
    groups = [runner.optim_wrapper.optimizer.param_groups for runner in (whole, parts)]
    for ours, theirs in zip(*groups, strict=True):
        assert (ours['lr'], ours['weight_decay']) == (theirs['lr'], theirs['weight_decay'])
    assert len(groups[0]) == 2  # with decay and without
    start = MODELS.build(whole.cfg.model)
    assert any(not torch.equal(p, q.cpu()) for p, q in zip(start.parameters(), whole.model.parameters(), strict=True))
    assert whole.message_hub.log_scalars['train/grad_norm'].data[0].max() > 0.3  # so clipping is at work


def test_the_terminal_has_no_line_of_each_parameter() -> None:
    lines = ['paramwise_options -- neck.bias:lr=0.1', 'momentum_encoder.x is skipped since its requires_grad=False']
    for line in [*lines, 'another one']:
        record = logging.LogRecord('mmengine', logging.WARNING, 'x', 1, line, None, None)
        assert _for_console(record) is (line not in lines)


DIGITS = sorted(path.stem for path in config_root().glob('quickstart/*_digits.py'))


@pytest.mark.slow
def test_the_small_vit_takes_the_place_of_the_resnet() -> None:
    """The dimension of the necks fits; the option and a file with two bases give one config."""
    for name in DIGITS:
        if 'cmc' in name or 'pic' in name:
            continue
        cfg = load_config(f'quickstart/{name}', {'_base_': 'unmix::_base_/vit_digits.py'})
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        assert model.backbone.out_dim == 64, name
        assert model.backbone.model_name == 'VisionTransformer'
        assert cfg.model.neck.in_dim == 64, name
        assert cfg.optim_wrapper.optimizer.type == 'AdamW'
        assert 'overlay' not in cfg
