"""Backbones of timm and torchvision: in their library after the export, and back from the files of others."""

import copy
import json
import re
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from mmengine.registry import DefaultScope
from torch import Tensor, nn

import unmix
from unmix.apis.export import SUFFIXES, export
from unmix.converters import interpret, start, without_heads, write_checkpoint
from unmix.converters.fetch import Fetched
from unmix.converters.fit import Start, check_network, fit, write_start
from unmix.converters.libraries import missing
from unmix.converters.library_networks import VIT as VIT_NAMES
from unmix.converters.library_networks import remove_classifier
from unmix.converters.rules import rename_in
from unmix.converters.start import read_start
from unmix.registry import MODELS

VIT = dict(patch_size=8, num_layers=2, num_heads=2, hidden_dim=128, mlp_dim=256)
TIMM = dict(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, mlp_ratio=2)
FOUR = dict(VIT, num_heads=4)  # 32 dimensions a head, so that a guess of 64 is seen
OURS = dict(type='TorchVisionBackbone', model_name='VisionTransformer', img_size=32, model_args=VIT)
BACKBONES = {
    'torchvision ViT': OURS,
    'timm ViT': dict(
        type='TIMMBackbone', model_name='vit_base_patch16_224', img_size=32, pool='mean',
        model_args={key: value for key, value in TIMM.items() if key != 'img_size'},
    ),
    'torchvision ViT, mean': OURS | dict(pool='mean', model_args=FOUR),
    'ResNet-18': dict(type='ResNet', depth=18, stem='imagenet'),
}  # fmt: skip
POOLED = ('timm ViT', 'torchvision ViT, mean')  # by the mean of the patches, which torchvision's ViT cannot


def randomised(network: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def checkpoint(config: dict[str, Any], path: Path) -> Any:
    """Write a checkpoint of a training with this backbone; return the backbone."""
    backbone = randomised(MODELS.build(dict(config)))
    state = {f'backbone.{name}': x for name, x in backbone.state_dict().items()}
    model = dict(backbone=config, data_preprocessor=dict(mean=[51.0] * 3, std=[102.0] * 3))
    torch.save(dict(state_dict=state | {'head.x': torch.zeros(1)}, meta=dict(model=model)), path)
    return backbone


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def timm_vit(**kwargs: Any) -> Any:
    if reason := missing('timm'):
        pytest.skip(reason)
    import timm

    return randomised(timm.create_model('vit_base_patch16_224', **(TIMM | kwargs)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'to'),
    [
        *product(BACKBONES, ['torchvision', 'timm', 'huggingface', 'safetensors']),
        *product(['torchvision ViT', 'torchvision ViT, mean'], ['onnx']),
    ],
)
def test_an_export_in_its_library(
    name: str, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command says was proved, and the library's network, as the page loads it."""
    for package in ('timm', 'safetensors', 'onnx', 'onnxscript'):
        needed = {'timm': name == 'timm ViT', 'safetensors': to in ('huggingface', 'safetensors')}
        if needed.get(package, to == 'onnx') and (reason := missing(package)):
            pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    backbone = checkpoint(BACKBONES[name], tmp_path / 'epoch_1.pth')
    export(['epoch_1.pth', '--to', to, '--out', f'out{SUFFIXES[to]}'])
    printed = capsys.readouterr().out
    library = 'timm' if to in ('timm', 'huggingface') else 'torchvision'
    reason = missing(library)
    assert ('not proved: timm is not installed' if reason else '\nproved: ') in printed
    pools = name in POOLED and (to == 'torchvision' or (to == 'safetensors' and name != 'timm ViT'))
    assert ("not proved: the features of this run: it pools by pool='mean'" in printed) == pools
    if to != 'huggingface' or reason:
        return
    import timm

    loaded = timm.create_model('local-dir:out', pretrained=True).eval()
    size = 224 if name == 'ResNet-18' else 32
    with torch.no_grad():
        torch.testing.assert_close(loaded(images(size)), backbone(images(size)), rtol=0, atol=1e-5)
    assert loaded.pretrained_cfg['mean'] == [0.2] * 3
    assert json.loads(Path('out/config.json').read_text())['num_classes'] == 0
    with pytest.raises(ValueError, match='out exists'):
        export(['epoch_1.pth', '--to', to, '--out', 'out'])


@pytest.mark.slow
def test_a_library_without_the_network_is_refused(tmp_path: Path) -> None:
    converted = {}
    for name, config in {
        'vit': OURS,
        'mobile': dict(type='TorchVisionBackbone', model_name='shufflenet_v2_x0_5'),
    }.items():
        checkpoint(config, tmp_path / f'{name}.pth')
        content = torch.load(tmp_path / f'{name}.pth')
        converted[name] = without_heads(interpret(content | dict(state_dict=content['state_dict']), name))
    for to in ('mmdet', 'detectron2', 'mmpretrain'):
        with pytest.raises(
            ValueError, match=rf'{to} has no network for this backbone: type is TorchVisionBackbone Vis'
        ):
            write_checkpoint(converted['vit'], tmp_path / 'x.pth', to)
    with pytest.raises(
        ValueError, match='timm has no network for this backbone: shufflenet_v2_x0_5 is one of torchvis'
    ):
        write_checkpoint(converted['mobile'], tmp_path / 'x.pth', 'timm')
    assert not (tmp_path / 'x.pth').exists()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['torchvision ViT', 'timm ViT'])
def test_a_model_of_a_file_alone(name: str, tmp_path: Path) -> None:
    """Without the config of the training: plain module, transform and dimension."""
    if name == 'timm ViT' and (reason := missing('timm')):
        pytest.skip(reason)
    backbone = checkpoint(BACKBONES[name], tmp_path / 'epoch_1.pth')
    model = unmix.get_model(tmp_path / 'epoch_1.pth')
    assert not model.training
    prepared = model.transform(torchvision.transforms.ToPILImage()(torch.full((3, 50, 60), 0.2)))
    torch.testing.assert_close(prepared, torch.zeros(3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(model(images()), backbone(images()), rtol=0, atol=0)
    assert model(images()).shape == (2, model.out_dim)


def start_of(name: str, network: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start from a library's network, of which the weights are random instead of downloaded."""
    monkeypatch.setattr(start, 'fetch', lambda *_: Fetched(network, dict(mean=[1.0] * 3, std=[2.0] * 3)))
    return read_start(name)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'shufflenet_v2_x0_5'])
def test_starts_of_torchvision_give_its_outputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet is one of this package."""
    network = torchvision.models.get_model(name)
    remove_classifier(network)
    found = start_of(f'torchvision:{name}', randomised(network), monkeypatch)
    assert found.backbone['type'] == ('ResNet' if name == 'resnet18' else 'TorchVisionBackbone')
    ours = MODELS.build(dict(found.backbone)).double().eval()
    ours.load_state_dict(fit(found, found.backbone))
    with torch.no_grad():
        theirs = network.double()(images(64).double())
        torch.testing.assert_close(ours(images(64).double()), theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))
    assert found.statistics == dict(mean=[1.0] * 3, std=[2.0] * 3)


@pytest.mark.slow
@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_pools_in_onnx(pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ('onnx', 'onnxscript'):
        if reason := missing(package):
            pytest.skip(reason)
    backbone = checkpoint(OURS | dict(pool=pool), tmp_path / 'epoch_1.pth')
    export([str(tmp_path / 'epoch_1.pth'), '--to', 'onnx', '--out', str(tmp_path / 'o.onnx')])
    assert 'takes images of 32 px only' in capsys.readouterr().out
    import onnx
    from onnx.reference import ReferenceEvaluator

    run = ReferenceEvaluator(onnx.load(str(tmp_path / 'o.onnx'))).run
    many = torch.cat([images(), images().flip(3), images().flip(2)])
    for x in (many[:1], many):
        theirs = torch.from_numpy(run(None, {'images': x.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(theirs, backbone(x), rtol=0, atol=1e-5)


def same_outputs(found: Any, network: nn.Module) -> None:
    """Compare the backbone of a start with the network that its weights came from, in float64."""
    ours = MODELS.build(dict(found.backbone))
    ours.load_state_dict(found.state)
    x = images().double()[:, : network.in_channels if hasattr(network, 'in_channels') else 3]
    with torch.no_grad():
        theirs = network.double().eval()(x)
        torch.testing.assert_close(ours.double().eval()(x), theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


EXPORTS = {
    'torchvision, 4 heads': OURS | dict(model_args=FOUR),
    'torchvision, 4 heads, mean': OURS | dict(model_args=FOUR, pool='mean'),
    'torchvision, 4 heads, mean, grey': OURS | dict(model_args=FOUR, pool='mean', in_channels=1),
    'timm': dict(
        type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=32, model_args=dict(patch_size=8, depth=2)
    ),
    'timm, 4 heads, mean': dict(
        type='TIMMBackbone', model_name='vit_base_patch16_224', img_size=32, pool='mean',
        model_args=dict(patch_size=8, embed_dim=128, depth=2, num_heads=4, mlp_ratio=2),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('to', ['timm', 'huggingface', 'safetensors', 'torchvision'])
@pytest.mark.parametrize('name', EXPORTS)
def test_an_export_comes_back(name: str, to: str, tmp_path: Path) -> None:
    """The number of heads, the pooling, mean and std too; get_model reads the same."""
    config = EXPORTS[name]
    for package in ('timm', 'safetensors'):
        needed = dict(timm=config['type'] == 'TIMMBackbone', safetensors=to in ('huggingface', 'safetensors'))
        if needed[package] and (reason := missing(package)):
            pytest.skip(reason)
    if to == 'torchvision' and (config.get('in_channels') == 1 or config['type'] != 'TorchVisionBackbone'):
        pytest.skip('torchvision has no such network')
    backbone = checkpoint(config, tmp_path / 'epoch_1.pth')
    out = tmp_path / f'out{SUFFIXES[to]}'
    export([str(tmp_path / 'epoch_1.pth'), '--to', to, '--out', str(out)])
    if to == 'torchvision':  # a plain state dict has no place for the heads
        with pytest.raises(ValueError, match=r'width 128, and does not say how many heads .* --backbone torchvision:V'):
            read_start(str(out))
        found = read_start(str(out), 'torchvision:VisionTransformer,num_heads=4')
        backbone.pool = None
    else:
        found = read_start(str(out))  # of Hugging Face the folder
        assert found.statistics == dict(mean=[51.0] * 3, std=[102.0] * 3)
        assert found.backbone.get('pool') == config.get('pool')
    same_outputs(found, backbone)
    if to != 'torchvision':
        model = unmix.get_model(out / 'model.safetensors' if to == 'huggingface' else out)
        same_outputs(Start('', found.backbone, model.float().state_dict(), {}, ()), backbone)
        assert model.pretrained_cfg['data_preprocessor']['mean'] == [51.0] * 3


@pytest.mark.slow
@pytest.mark.parametrize('pool', [None, 'mean'])
def test_a_run_whose_network_is_named(pool: str | None, tmp_path: Path) -> None:
    """A checkpoint that says its network, and tensors of this package's names that do not."""
    network = checkpoint(OURS | dict(model_args=FOUR, in_channels=1, pool=pool), tmp_path / 'epoch_1.pth')
    name = 'torchvision:VisionTransformer,num_heads=4'
    same_outputs(read_start(str(tmp_path / 'epoch_1.pth'), name), network)
    with pytest.raises(ValueError, match=r'its model_args\.num_heads is 4, and that of --backbone .*=2 is 2'):
        read_start(str(tmp_path / 'epoch_1.pth'), name.replace('4', '2'))
    content = torch.load(tmp_path / 'epoch_1.pth')
    other = {f'momentum_encoder.{key}': x + 1 for key, x in content['state_dict'].items()}
    torch.save(content['state_dict'] | other, tmp_path / 'bare.pth')
    network.pool = None
    same_outputs(read_start(str(tmp_path / 'bare.pth'), name), network)


@pytest.mark.slow
def test_a_convolutional_run_whose_network_is_named(tmp_path: Path) -> None:
    config = dict(type='TorchVisionBackbone', model_name='shufflenet_v2_x0_5')
    network = checkpoint(config, tmp_path / 'epoch_1.pth')
    torch.save(torch.load(tmp_path / 'epoch_1.pth')['state_dict'], tmp_path / 'bare.pth')
    for file in ('epoch_1', 'bare'):
        found = read_start(str(tmp_path / f'{file}.pth'), 'torchvision:shufflenet_v2_x0_5')
        ours = MODELS.build(dict(found.backbone)).eval()
        ours.load_state_dict(found.state)
        with torch.no_grad():
            assert torch.equal(ours(images(64)), network(images(64)))


FILES = {
    'timm, DeiT': lambda state: state | {'head.weight': torch.zeros(5, 128), 'head.bias': torch.zeros(5)},
    'DINO': lambda state: dict(
        student={f'module.backbone.{k}': x + 1 for k, x in state.items()},
        teacher={f'backbone.{k}': x for k, x in state.items()} | {'head.mlp.0.weight': torch.zeros(2, 2)},
        dino_loss=dict(center=torch.zeros(1, 4)),
    ),
    'MoCo v3': lambda state: dict(
        arch='vit_small',
        state_dict={f'module.{part}.{k}': x + (part[0] == 'm') for k, x in state.items()
                    for part in ('momentum_encoder', 'base_encoder')}
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(('code', 'width', 'heads', 'named'), [
    ('timm, DeiT', 192, 3, 'torchvision:VisionTransformer,num_heads=3'),
    ('timm, DeiT', 192, 6, 'timm:vit_tiny_patch16_224,patch_size=8,depth=2,num_heads=6,mlp_ratio=2'),
    ('DINO', 192, 3, None),
    ('MoCo v3', 384, 12, None),
    ('MoCo v3', 384, 12, 'timm:vit_small_patch16_224,patch_size=8,depth=2,num_heads=12,mlp_ratio=2'),
])  # fmt: skip
def test_files_of_vision_transformers(code: str, width: int, heads: int, named: str | None, tmp_path: Path) -> None:
    """They start the same network, without timm too if it is not named; with it, they are proved there."""
    if named and named.startswith('timm') and (reason := missing('timm')):
        pytest.skip(reason)
    args = dict(VIT, hidden_dim=width, num_heads=heads, mlp_dim=2 * width)
    network = randomised(MODELS.build(OURS | dict(model_args=args)))
    theirs = rename_in(network.network.state_dict(), VIT_NAMES, ())[0]
    torch.save(FILES[code](theirs), tmp_path / 'a.pth')
    found = read_start(str(tmp_path / 'a.pth'), named)
    same_outputs(found, network)
    if named is None:
        assert found.backbone == OURS | dict(model_args=args)
        assert (found.proofs[0].difference is None) == bool(missing('timm'))


@pytest.mark.slow
def test_heads_that_nothing_says_are_refused(tmp_path: Path) -> None:
    """Shapes do not show them: a width of 384 has 6 in DeiT and DINO, and 12 in MoCo v3."""
    args = dict(VIT, hidden_dim=384, num_heads=12)
    theirs = rename_in(MODELS.build(OURS | dict(model_args=args)).network.state_dict(), VIT_NAMES, ())[0]
    message = r'width 384, and does not say how many heads it has.*--backbone torchvision:VisionTransformer,num_heads='
    for code in FILES:
        content = FILES[code](theirs)
        content = {key: x for key, x in content.items() if key not in ('arch', 'dino_loss')}
        torch.save(content, tmp_path / 'a.pth')
        with pytest.raises(ValueError, match=message):
            read_start(str(tmp_path / 'a.pth'))
        with pytest.raises(ValueError, match=message):
            read_start(str(tmp_path / 'a.pth'), 'torchvision:VisionTransformer')
    torch.save(FILES['MoCo v3'](theirs), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'has 6 heads, and .*a\.pth is of a network with 12\. Give .*num_heads=12'):
        read_start(str(tmp_path / 'a.pth'), 'torchvision:VisionTransformer,num_heads=6')
    with pytest.raises(ValueError, match='Give arguments of timm as KEY=VALUE'):
        read_start(str(tmp_path / 'a.pth'), 'timm:vit_small_patch16_224,12')


@pytest.mark.slow
def test_position_embeddings_follow_the_size(tmp_path: Path) -> None:
    network = timm_vit(num_classes=0)
    torch.save(dict(network.state_dict()), tmp_path / 'a.pth')
    found = read_start(str(tmp_path / 'a.pth'), 'torchvision:VisionTransformer,num_heads=2')
    for size, patches in ((32, 16), (48, 36), (16, 4)):
        state = fit(found, found.backbone | dict(img_size=size))
        place = 'network.encoder.pos_embedding'
        assert state[place].shape == (1, 1 + patches, 128)
        assert torch.equal(state[place][:, 0], found.state[place][:, 0])
        backbone = MODELS.build(found.backbone | dict(img_size=size)).eval()
        backbone.load_state_dict(state)
        theirs = copy.deepcopy(network)
        theirs.set_input_size(img_size=(size, size))
        with torch.no_grad():
            torch.testing.assert_close(backbone(images(size)), theirs(images(size)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(depth=50), 'its depth is 18, and that of model.backbone is 50'),
    (dict(in_channels=1), 'its in_channels is 3, and that of model.backbone is 1'),
    (dict(stem='cifar'), 'its stem is imagenet, and that of model.backbone is cifar'),
    (dict(type='TIMMBackbone', model_name='resnet18'), 'its type is ResNet, and that of model.backbone is TIMM'),
])  # fmt: skip
def test_weights_of_another_network(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'a.pth')
    found = read_start(str(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match=message):
        check_network(found, found.backbone | change)


RESNET = dict(type='ResNet', depth=8, width=16, stem='cifar')
TINY = dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=32, model_args=dict(patch_size=8, depth=2))
CIFAR = dict(kernel_size=3, stride=1, padding=1, maxpool=False)
OTHERS = {
    'heads': (OURS, OURS | dict(model_args=FOUR), 'its model_args.num_heads is 2, and that of model.backbone is 4'),
    'stem': (RESNET, RESNET | dict(stem='cifar-pool'), 'its stem is cifar, and that of model.backbone is cifar-pool'),
    'branch': (
        dict(type='TwoBranch', branch=RESNET), dict(type='TwoBranch', branch=RESNET | dict(stem='cifar-pool')),
        r'its branch\.stem is cifar, and that of model\.backbone is cifar-pool',
    ),
    'channels': (
        dict(type='TwoBranch', branch=RESNET), dict(type='TwoBranch', branch=RESNET, channels=(2, 1)),
        r'its channels is \(1, 2\), and that of model\.backbone is \(2, 1\)',
    ),
    'activation': (
        TINY, TINY | dict(model_args=dict(patch_size=8, depth=2, act_layer='relu')),
        r'outputs that differ by .* The settings differ in model_args',
    ),
    'heads of the name': (
        TINY, TINY | dict(model_args=dict(patch_size=8, depth=2, num_heads=12)), 'The settings differ in model_args',
    ),
}  # fmt: skip


def start_at(config: dict[str, Any]) -> Any:
    if config['type'] == 'TIMMBackbone' and (reason := missing('timm')):
        pytest.skip(reason)
    return Start('a.pth', config, randomised(MODELS.build(dict(config))).state_dict(), {}, ())


@pytest.mark.parametrize('name', OTHERS)
def test_settings_that_shapes_do_not_show(name: str) -> None:
    given, own, message = OTHERS[name]
    found = start_at(given)
    with pytest.raises(ValueError, match=message):
        fit(found, own)


@pytest.mark.parametrize(('given', 'own'), [
    (RESNET, RESNET | dict(stem=CIFAR)),
    (dict(type='TwoBranch', branch=RESNET), dict(type='TwoBranch', branch=RESNET | dict(stem=CIFAR), channels=[1, 2])),
    (OURS, OURS | dict(img_size=48, pool='mean', drop_path=0.1, dynamic_img_size=True)),
    (TINY, TINY | dict(img_size=48, model_args=dict(patch_size=8, depth=2, num_heads=3, act_layer='gelu'))),
])  # fmt: skip
def test_other_words_for_the_same_network(given: dict[str, Any], own: dict[str, Any]) -> None:
    found = start_at(given)
    state = fit(found, own)
    same = {name for name, x in found.state.items() if torch.equal(x, state[name])} if len(state) else set()
    assert state.keys() - same <= {'network.pos_embed', 'network.encoder.pos_embedding'}


@pytest.mark.slow
def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    state = torchvision.models.shufflenet_v2_x0_5().state_dict()
    del state['conv5.0.weight']
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'1 missing: conv5\.0\.weight'):
        read_start(str(tmp_path / 'a.pth'), 'torchvision:shufflenet_v2_x0_5')
    with pytest.raises(ValueError, match=r'no code that is known.*--backbone timm:NAME or torchvision:NAME'):
        read_start(str(tmp_path / 'a.pth'))


MOBILE = 'torchvision:mobilenet_v3_small'


@pytest.mark.slow
@pytest.mark.parametrize(('entry', 'counters'), [((), True), (('weights', 'ema'), False)])
def test_the_advice_for_other_names_works(entry: tuple[str, ...], counters: bool, tmp_path: Path) -> None:
    """The command of the message renames the tensors; without it the file is refused, without counters too."""
    network = randomised(torchvision.models.mobilenet_v3_small())
    tensors = {name: x for name, x in network.state_dict().items() if counters or not name.endswith('_tracked')}
    content: dict[str, Any] = {f'_{name.replace("features", "b$locks")}': x for name, x in tensors.items()}
    for key in reversed(entry):
        content = {key: content, 'epoch': 3}
    torch.save(content, tmp_path / "it's.pth")
    with pytest.raises(ValueError, match=r'no code that is known.*of no plain Vision.*--backbone .* get_model\('):
        read_start(str(tmp_path / "it's.pth"))
    with pytest.raises(ValueError, match=r'Expected are \d+ tensors, features\.0\.0\.weight \(16, 3, 3, 3\)') as error:
        read_start(str(tmp_path / "it's.pth"), MOBILE)
    command = str(error.value).split('\n\n')[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    remove_classifier(network)
    model = unmix.get_model(tmp_path / 'renamed.pth', backbone=MOBILE)
    with torch.no_grad():
        torch.testing.assert_close(model(images(64)), network(images(64)))
    same_outputs(read_start(str(tmp_path / 'renamed.pth'), MOBILE), network)


def test_other_names_of_other_shapes(tmp_path: Path) -> None:
    """No command is given where it would be wrong: another order, another network, a longer one."""
    own = torchvision.models.mobilenet_v3_small().state_dict()
    other = {f'_{name}': x for name, x in own.items()}
    for content, message in (
        (dict(sorted(other.items(), reverse=True)), 'All its shapes are there, in another order.*function of your own'),
        (other | {f'more.{i}': torch.zeros(2) for i in range(5)}, 'All its shapes are there, in another order'),
        (
            {'_a': torch.zeros(3, 2)},
            r'tensors of mobilenet_v3_small have shapes that the file lacks, as \(16, 3, 3, 3\)',
        ),
        ({}, 'no tensors'),
    ):
        torch.save(content, tmp_path / 'a.pth')
        with pytest.raises(ValueError, match=message) as error:
            read_start(str(tmp_path / 'a.pth'), MOBILE)
        assert 'python -c' not in str(error.value)


@pytest.mark.parametrize('name', ['mobilenet_v3_small', 'resnet18'])
def test_files_without_counters(name: str, tmp_path: Path) -> None:
    """BatchNorm has them since PyTorch 0.4.1; torchvision's older files lack them."""
    network = randomised(torchvision.models.get_model(name))
    torch.save({k: x for k, x in network.state_dict().items() if not k.endswith('_tracked')}, tmp_path / 'a.pth')
    remove_classifier(network)
    same_outputs(read_start(str(tmp_path / 'a.pth'), f'torchvision:{name}'), network)


def original_convnext(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return timm's tensors of a ConvNeXt by the names of its original code."""
    found = {}
    for name, x in tensors.items():
        name = re.sub(r'^stem\.', 'downsample_layers.0.', name)
        name = re.sub(r'^stages\.(\d)\.downsample', r'downsample_layers.\1', name)
        name = re.sub(r'^stages\.(\d)\.blocks', r'stages.\1', name)
        name = name.replace('conv_dw', 'dwconv').replace('mlp.fc', 'pwconv').replace('head.norm', 'norm')
        found[name] = x
    return found | {'head.weight': torch.zeros(2, 2)}


@pytest.mark.slow
@pytest.mark.parametrize(('named', 'original'), [
    ('timm:convnext_atto,depths=(1,1,1,1),dims=(8,16,24,32),conv_mlp=False',
     lambda x: dict(model=original_convnext(x))),
    ('timm:vit_small_patch14_dinov2,img_size=28,depth=1', lambda x: x | dict(mask_token=torch.zeros(1, 384))),
])  # fmt: skip
def test_original_files_that_timm_translates(named: str, original: Any, tmp_path: Path) -> None:
    """The files of ConvNeXt and DINOv2 have names or tensors that timm's networks lack."""
    if reason := missing('timm'):
        pytest.skip(reason)
    network = randomised(MODELS.build(start.library_config(named)))
    torch.save(original(network.network.state_dict()), tmp_path / 'a.pth')
    found = read_start(str(tmp_path / 'a.pth'), named)
    backbone = MODELS.build(found.backbone).eval()
    backbone.load_state_dict(found.state)
    size = found.backbone.get('img_size', 64)
    with torch.no_grad():
        assert torch.equal(backbone(images(size)), network(images(size)))


def test_a_written_start_keeps_mean_and_std(tmp_path: Path) -> None:
    said = dict(mean=[127.5] * 3, std=[127.5] * 3)
    found = start_at(RESNET)._replace(statistics=said)
    write_start(found, RESNET, tmp_path / 'start.pth')
    assert read_start(str(tmp_path / 'start.pth')).statistics == said


def test_the_name_of_a_network_with_a_config() -> None:
    with pytest.raises(
        ValueError, match=r"has a config, which says its network; leave out backbone='torchvision:resnet18'"
    ):
        unmix.get_model('unmix-moco_digits', pretrained=False, backbone='torchvision:resnet18')


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any, **kwargs: Any) -> None:
        raise OSError('no route to host')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', fail)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', fail)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(ConnectionError, match=r'download https://download\.pytorch\.org/models/resnet18-\w+\.pth else'):
        read_start('torchvision:resnet18')
    with pytest.raises(ValueError, match=r'torchvision has no such network. Did you mean resnet18'):
        read_start('torchvision:resnet-18')
    if not missing('timm'):
        import timm

        monkeypatch.setattr(timm, 'create_model', fail)
        message = r'config\.json and .*huggingface\.co/timm/vit_tiny.*their folder by --from.*timm:vit_tiny_patch16_224'
        with pytest.raises(ConnectionError, match=message):
            read_start('timm:vit_tiny_patch16_224')
        with pytest.raises(ValueError, match=r'timm has no such network\. Did you mean vit_tiny_patch16_224'):
            read_start('timm:vit_tiny_patch16_223')
    with pytest.raises(FileNotFoundError, match=r"--from is '.*lost.pth', which is no file"):
        read_start(str(tmp_path / 'lost.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['MoCo', 'BYOL'])
def test_both_encoders_start_from_the_weights(kind: str, tmp_path: Path) -> None:
    checkpoint(OURS, tmp_path / 'epoch_1.pth')
    found = read_start(str(tmp_path / 'epoch_1.pth'))
    write_start(found, OURS, tmp_path / 'start' / 'backbone.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'start' / 'backbone.pth'), prefix='backbone')
    neck = dict(type='MLPNeck', in_dim=128, hidden_dim=8, out_dim=8)
    parts = dict(head=dict(type='InfoNCEHead', dim=8, queue_size=24)) if kind == 'MoCo' else dict(
        predictor=None, head=dict(type='CosineHead')
    )  # fmt: skip
    model = MODELS.build(dict(type=kind, backbone=OURS | dict(init_cfg=init), neck=neck, **parts))
    with DefaultScope.overwrite_default_scope('unmix'):  # the Runner's
        model.init_weights()
    for encoder in (model.backbone, model.momentum_encoder.backbone):
        assert all(torch.equal(x, found.state[name]) for name, x in encoder.state_dict().items())


@pytest.mark.parametrize(
    ('to', 'out', 'words'),
    [
        ('onnx', 'x.pth', r'--out is x\.pth; expected a file that ends in \.onnx for --to onnx'),
        ('safetensors', 'x', r'--out is x; expected a file that ends in \.safetensors for --to safetensors'),
        ('torchvision', './epoch_1.pth', r'--out is epoch_1\.pth, the checkpoint that is exported'),
        ('mmpretrain', 'dir.pth', r'--out is dir\.pth, which cannot be written \(it is a folder\)'),
    ],
)
def test_a_wrong_place_of_an_export_is_refused(
    to: str, out: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file named like one of PyTorch was one, and said to be ONNX."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'dir.pth').mkdir()
    (tmp_path / 'epoch_1.pth').write_bytes(b'a checkpoint')
    with pytest.raises(ValueError, match=words):
        export(['epoch_1.pth', '--to', to, '--out', out])
    assert (tmp_path / 'epoch_1.pth').read_bytes() == b'a checkpoint'
