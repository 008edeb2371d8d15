"""Networks of timm and torchvision as backbones."""

import copy
import importlib.util
import sys

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, get_model

from unmix.models import Classifier, TIMMBackbone, TorchVisionBackbone
from unmix.models.algorithms.momentum import MomentumEncoder
from unmix.models.backbones.library import LibraryBackbone, sine_positions
from unmix.models.pretrained import check_backbone
from unmix.registry import MODELS

needs_timm = pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
VIT = dict(
    type='TorchVisionBackbone', model_name='VisionTransformer', img_size=16,
    model_args=dict(patch_size=4, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64),
)  # fmt: skip
TIMM_VIT = dict(
    type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=16,
    model_args=dict(patch_size=4, depth=2, num_heads=2, embed_dim=32),
)  # fmt: skip
VITS = pytest.mark.parametrize('vit', [VIT, pytest.param(TIMM_VIT, marks=needs_timm)], ids=['torchvision', 'timm'])
TINY_RESNET = dict(type='TIMMBackbone', model_name='resnet10t')


def build(cfg: dict, **changes: object) -> LibraryBackbone:
    torch.manual_seed(0)
    backbone = MODELS.build(cfg | changes)
    assert isinstance(backbone, LibraryBackbone)
    return backbone


@VITS
def test_vit_without_drop_path_commutes_with_reversing_the_batch(vit: dict) -> None:
    """encode(flip(m)) = flip(encode(m)) in training mode, to rounding."""
    backbone, x = build(vit).train(), torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(backbone(x.flip(0)), backbone(x).flip(0), rtol=1e-5, atol=1e-6)


@VITS
def test_vit_with_drop_path_commutes_in_distribution(vit: dict) -> None:
    """Each draw differs; mean and variance over many draws of both sides are those of one distribution."""
    backbone, x = build(vit, drop_path=0.5).train(), torch.randn(2, 3, 16, 16)
    n = 400
    with torch.no_grad():
        one = backbone(x.repeat(n, 1, 1, 1).flip(0)).view(n, 2, -1)
        other = backbone(x.repeat(n, 1, 1, 1)).flip(0).view(n, 2, -1)
    assert not torch.equal(one, other)
    spread = one.std(0) + other.std(0)
    assert ((one.mean(0) - other.mean(0)).abs() < 5 * spread / n**0.5 + 1e-5).all()
    torch.testing.assert_close(one.std(0), other.std(0), rtol=0.35, atol=1e-3)
    assert spread.max() > 0.1  # the test can fail: drop path is there
    assert torch.equal(backbone.eval()(x), backbone(x))


@VITS
def test_features_of_patches_lie_beside_the_pooled_ones(vit: dict) -> None:
    x = torch.randn(2, 3, 16, 16)
    own, mean = build(vit), build(vit, pool='mean')
    token, patches = own.with_patches(x)
    assert token.shape == (2, own.out_dim)
    assert patches.shape == (2, 32, 4, 4)
    assert own.layer_dims == (32, 32)
    torch.testing.assert_close(mean(x), patches.mean((2, 3)))
    torch.testing.assert_close(own(x), token)
    assert own(x, layer=1).shape == (2, 32, 4, 4)
    shifted = torch.zeros_like(x)
    shifted[:, :, :4, 8:12] = 1  # the patch of row 0, column 2
    with torch.no_grad():
        moved = (own(shifted, layer=1) - own(torch.zeros_like(x), layer=1)).abs().sum((0, 1))
    assert moved.flatten().argmax() == 2


@VITS
def test_dynamic_size_and_frozen_parts(vit: dict) -> None:
    fixed, free = build(vit), build(vit, dynamic_img_size=True)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(free(x), fixed(x))
    assert free(torch.randn(2, 3, 8, 12)).shape == (2, 32)
    frozen = build(vit, freeze_patch_embed=True, fixed_positions=True)
    still = {name for name, p in frozen.named_parameters() if not p.requires_grad}
    assert len(still) == 3, still  # weight and bias of the patches, positions
    before = {name: p.detach().clone() for name, p in frozen.named_parameters()}
    frozen.init_weights()  # as a Runner does
    assert all(torch.equal(p, before[name]) for name, p in frozen.named_parameters())
    assert len({*frozen.unregularised()} & {name.removeprefix('network.') for name in before}) == 2


def test_torchvision_vit_is_that_of_torchvision() -> None:
    backbone = build(VIT)
    torch.manual_seed(0)
    theirs = VisionTransformer(image_size=16, **VIT['model_args'])
    state = {f'network.{name}': x for name, x in theirs.state_dict().items() if not name.startswith('heads.')}
    backbone.load_state_dict(state)
    theirs.heads = nn.Identity()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(backbone(x), theirs(x))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'shufflenet_v2_x0_5'])
def test_torchvision_networks_give_the_input_of_their_classifier(name: str) -> None:
    backbone = build(dict(type='TorchVisionBackbone', model_name=name)).eval()
    theirs = get_model(name).eval()
    theirs.load_state_dict({k.removeprefix('network.'): v for k, v in backbone.state_dict().items()}, strict=False)
    last = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(2, 3, 64, 64)
    theirs(x)
    torch.testing.assert_close(backbone(x), seen[0])
    assert backbone(x, layer=backbone.num_layers).shape[1] == backbone.layer_dims[-1]


@needs_timm
def test_timm_network_gives_what_timm_gives() -> None:
    import timm

    for cfg in (TINY_RESNET, TIMM_VIT):
        backbone = build(cfg).eval()
        args = dict(cfg.get('model_args', {})) | ({'img_size': 16} if 'img_size' in cfg else {})
        theirs = timm.create_model(cfg['model_name'], num_classes=0, **args).eval()
        theirs.load_state_dict({k.removeprefix('network.'): v for k, v in backbone.state_dict().items()})
        x = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(backbone(x), theirs(x))
    grey = build(TINY_RESNET, in_channels=1)
    assert grey(torch.randn(2, 1, 32, 32)).shape == (2, grey.out_dim)


@needs_timm
def test_parameters_that_features_do_not_use_do_not_learn() -> None:
    backbone = build(dict(type='TIMMBackbone', model_name='convnext_atto', pool='mean'))
    assert {n for n, p in backbone.named_parameters() if not p.requires_grad} == {
        'network.head.norm.weight',
        'network.head.norm.bias',
    }


def test_sine_positions_are_those_of_the_formula() -> None:
    found = sine_positions(9, 8, extra=1)[0]
    assert found[0].abs().sum() == 0
    row, column = 2, 1
    omega = [1.0, 10000 ** (-1 / 2)]
    expected = [f(torch.tensor(p * w)) for p in (row, column) for f in (torch.sin, torch.cos) for w in omega]
    torch.testing.assert_close(found[1 + row * 3 + column], torch.stack(expected))


@VITS
def test_the_momentum_encoder_drops_nothing(vit: dict) -> None:
    backbone = build(vit, drop_path=0.5)
    teacher = MomentumEncoder(backbone, nn.Identity(), 0.99).train()
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(teacher.project(x), teacher.project(x))
    assert not torch.equal(backbone.train()(x), backbone(x))
    assert torch.equal(copy.deepcopy(backbone).eval()(x), teacher.project(x))


def test_classifier_takes_a_layer_of_a_vit() -> None:
    model = Classifier(VIT, head=dict(type='ClassificationHead', num_classes=3), layer=2, pool=2)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 3)


def test_settings_of_the_training_do_not_tell_networks_apart() -> None:
    checkpoint = dict(meta=dict(model=dict(backbone=dict(VIT, drop_path=0.1, freeze_patch_embed=True))))
    check_backbone(dict(VIT, drop_path=0.0, freeze_patch_embed=False), checkpoint, 'it')
    checkpoint['meta']['model']['backbone']['pool'] = None
    with pytest.raises(ValueError, match=r'backbone\.pool is None there and mean here'):
        check_backbone(dict(VIT, pool='mean'), checkpoint, 'it')


SMALL = VIT | dict(model_args=dict(patch_size=8, num_layers=1, hidden_dim=24, mlp_dim=8))  # num_heads: 6
TIMM_SMALL = TIMM_VIT | dict(model_args=dict(patch_size=8, depth=1, embed_dim=24))  # num_heads: 3
OURS = dict(type='ResNet', depth=8)
BRANCHES = dict(type='TwoBranch', branch=OURS)


def arguments(cfg: dict, **changes: object) -> dict:
    return cfg | dict(model_args=cfg['model_args'] | changes)


@pytest.mark.parametrize(('one', 'other', 'key'), [
    (SMALL, SMALL | dict(pool=None), ''),
    (SMALL, SMALL | dict(pool='token'), ''),
    (SMALL, SMALL | dict(pool='mean'), 'pool'),
    (SMALL, arguments(SMALL, num_heads=6), ''),
    (SMALL, arguments(SMALL, num_heads=3), 'model_args'),
    (SMALL, arguments(SMALL, dropout=0.1), ''),
    (SMALL | dict(type='unmix.TorchVisionBackbone', drop_path=0.1, init_cfg=dict(type='Pretrained')), SMALL, ''),
    pytest.param(TIMM_SMALL, TIMM_SMALL | dict(pool='mean'), 'pool', marks=needs_timm),
    pytest.param(TIMM_SMALL, arguments(TIMM_SMALL, num_heads=3), '', marks=needs_timm),
    pytest.param(TIMM_SMALL, arguments(TIMM_SMALL, num_heads=6), 'model_args', marks=needs_timm),
    (OURS, OURS | dict(stem='imagenet', width=64, stem_width=64), ''),
    (OURS, OURS | dict(stem=dict(kernel_size=7, stride=2, padding=3, maxpool=True)), ''),
    (OURS, OURS | dict(stem=dict(kernel_size=7, stride=1, padding=3, maxpool=True)), 'stem'),
    (OURS | dict(stem='cifar'), OURS | dict(stem=dict(kernel_size=3, padding=1)), ''),
    (OURS | dict(stem='cifar'), OURS | dict(stem='cifar-pool'), 'stem'),
    (OURS, OURS | dict(depth=18), 'depth'),
    (BRANCHES, BRANCHES | dict(branch=OURS | dict(stem='imagenet'), channels=[1, 2]), ''),
    (BRANCHES, BRANCHES | dict(branch=OURS | dict(stem='cifar')), 'branch'),
])  # fmt: skip
def test_what_a_config_omits_has_its_default_in_the_guard(one: dict, other: dict, key: str) -> None:
    """Two configs are of one model if, with the same weights, they give the same features; then neither is refused."""
    for own, written in ((one, other), (other, one)):
        checkpoint = dict(meta=dict(model=dict(backbone=written)))
        if not key:
            check_backbone(own, checkpoint, 'it')
            continue
        with pytest.raises(ValueError, match=rf'another model: backbone\.{key} is '):
            check_backbone(own, checkpoint, 'it')


def test_the_guard_names_the_default() -> None:
    checkpoint = dict(meta=dict(model=dict(backbone=SMALL | dict(pool='mean'))))
    with pytest.raises(ValueError, match=r'backbone\.pool is mean there and None \(the default\) here\. Give'):
        check_backbone(SMALL, checkpoint, 'it')


@pytest.mark.parametrize('written', [
    OURS | dict(type='tests.models.test_library_backbones.call'),
    OURS | dict(stem=dict(type='tests.models.test_library_backbones.call', kernel_size=7)),
    OURS | dict(branch=dict(type='tests.models.test_library_backbones.call')),
])  # fmt: skip
def test_the_guard_builds_nothing_that_a_checkpoint_names(written: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(type(MODELS), 'build', lambda self, cfg: built.append(cfg['type']) or nn.Identity())
    with pytest.raises(ValueError, match='another model'):
        check_backbone(OURS, dict(meta=dict(model=dict(backbone=written))), 'it')
    assert built == []


RESNET = dict(type='TorchVisionBackbone', model_name='resnet18')
TORCHVISION_VIT = dict(type='TorchVisionBackbone', model_name='vit_b_32')


@pytest.mark.parametrize(('cfg', 'message'), [
    (VIT | dict(img_size=18), 'backbone.img_size is 18.*patches.*4 px.*16 or 20'),
    (TORCHVISION_VIT | dict(img_size=100), 'backbone.img_size is 100.*32 px.*96 or 128'),
    (RESNET | dict(model_name='resnt18'), "'resnt18'; torchvision has no such network. Did you mean resnet18"),
    (RESNET | dict(model_name='qqq'), r'All names: torchvision.models.list_models'),
    (RESNET | dict(model_name='squeezenet1_1'), 'no pooled features.*pool=.mean'),
    (RESNET | dict(img_size=32), 'backbone.img_size is given, but resnet18 .* no such argument. Leave it out'),
    (RESNET | dict(dynamic_img_size=True), 'backbone.dynamic_img_size is given'),
    (RESNET | dict(drop_path=0.1), 'backbone.drop_path is given'),
    (RESNET | dict(pool='token'), "backbone.pool is 'token', but resnet18 has no class token. Use 'mean'"),
    (RESNET | dict(freeze_patch_embed=True), 'freeze_patch_embed is True, but resnet18 is no ViT'),
    (RESNET | dict(fixed_positions=True), 'fixed_positions is True, but resnet18 is no ViT'),
    (RESNET | dict(model_args=dict(depth=3)), 'backbone.model_args.depth is given, but resnet18'),
    (RESNET | dict(model_args=dict(num_classes=3)), 'model_args.num_classes is 3; set backbone.pool instead'),
    (VIT | dict(pool='cls'), "backbone.pool is 'cls'; it is one of None, 'token', 'mean'"),
    (VIT | dict(drop_path=1.0), 'backbone.drop_path is 1.0; it is a rate from 0'),
    pytest.param(TIMM_VIT | dict(img_size=18), 'backbone.img_size is 18.*16 or 20', marks=needs_timm),
    pytest.param(TINY_RESNET | dict(img_size=32), 'img_size is given, but resnet10t of timm', marks=needs_timm),
    pytest.param(TINY_RESNET | dict(model_name='vit_tny_patch16_224'), 'Did you mean vit_tiny', marks=needs_timm),
])  # fmt: skip
def test_bad_arguments_get_one_message(cfg: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


@VITS
def test_bad_images_get_one_message(vit: dict) -> None:
    backbone = build(vit)
    with pytest.raises(ValueError, match=r'8x8 px.*takes 16x16 .*backbone.img_size=8, or.*dynamic_img_size=True'):
        backbone(torch.zeros(1, 3, 8, 8))
    build(vit, dynamic_img_size=True)(torch.zeros(1, 3, 8, 8))  # the advice works
    build(vit, img_size=8)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r'images have 1 channels, model\.backbone\.in_channels is 3'):
        backbone(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match=r'18x18 px.*4 px.*16 or 20'):
        build(vit, dynamic_img_size=True)(torch.zeros(1, 3, 18, 18))


def test_without_timm_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[timm\]'.*TorchVisionBackbone"):
        TIMMBackbone('vit_tiny_patch16_224')
    assert TorchVisionBackbone(**{k: v for k, v in VIT.items() if k != 'type'}).out_dim == 32
