"""Backbones of timm and torchvision: in their library after the export, and back from the files of others."""

import copy
import json
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
from unmix.converters.libraries import missing
from unmix.converters.library_networks import VIT as VIT_NAMES
from unmix.converters.library_networks import remove_classifier, to_torchvision
from unmix.converters.rules import rename_in
from unmix.converters.start import Fetched, check_network, fit, read_start, write_start
from unmix.registry import MODELS

VIT = dict(patch_size=8, num_layers=2, num_heads=2, hidden_dim=128, mlp_dim=256)  # 64 dimensions a head
TIMM = dict(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, mlp_ratio=2)
OURS = dict(type='TorchVisionBackbone', model_name='VisionTransformer', img_size=32, model_args=VIT)
BACKBONES = {
    'torchvision ViT': OURS,
    'timm ViT': dict(
        type='TIMMBackbone', model_name='vit_base_patch16_224', img_size=32, pool='mean',
        model_args={key: value for key, value in TIMM.items() if key != 'img_size'},
    ),
    'ResNet-18': dict(type='ResNet', depth=18, stem='imagenet'),
}  # fmt: skip


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
    [*product(BACKBONES, ['torchvision', 'timm', 'huggingface', 'safetensors']), ('torchvision ViT', 'onnx')],
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
    if to != 'huggingface' or reason:
        return
    import timm

    loaded = timm.create_model('local-dir:out', pretrained=True).eval()
    backbone.pool = None
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


FILES = {
    'timm, DeiT': lambda state: state | {'head.weight': torch.zeros(5, 128), 'head.bias': torch.zeros(5)},
    'DINO': lambda state: dict(
        student={f'module.backbone.{k}': x + 1 for k, x in state.items()},
        teacher={f'backbone.{k}': x for k, x in state.items()} | {'head.mlp.0.weight': torch.zeros(2, 2)},
    ),
    'MoCo v3': lambda state: dict(
        state_dict={f'module.{part}.{k}': x + (part[0] == 'm') for k, x in state.items()
                    for part in ('momentum_encoder', 'base_encoder')}
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('code', FILES)
def test_files_of_vision_transformers(code: str, tmp_path: Path) -> None:
    """They start the same network without timm; with it, they are proved there."""
    source = MODELS.build(dict(OURS))
    theirs = rename_in(randomised(source).network.state_dict(), VIT_NAMES, ())[0]
    torch.save(FILES[code](theirs), tmp_path / 'a.pth')
    found = read_start(str(tmp_path / 'a.pth'))
    assert found.backbone == OURS
    assert to_torchvision(theirs).keys() == {name.removeprefix('network.') for name in found.state}
    assert all(torch.equal(x, to_torchvision(theirs)[name[8:]]) for name, x in found.state.items())
    assert (found.proofs[0].difference is None) == bool(missing('timm'))


@pytest.mark.slow
def test_position_embeddings_follow_the_size(tmp_path: Path) -> None:
    network = timm_vit(num_classes=0)
    torch.save(dict(network.state_dict()), tmp_path / 'a.pth')
    found = read_start(str(tmp_path / 'a.pth'))
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


@pytest.mark.slow
def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    state = torchvision.models.shufflenet_v2_x0_5().state_dict()
    del state['conv5.0.weight']
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'1 missing: conv5\.0\.weight'):
        read_start(str(tmp_path / 'a.pth'), 'torchvision:shufflenet_v2_x0_5')
    with pytest.raises(ValueError, match=r'no family that is known.*--backbone timm:NAME or torchvision:NAME'):
        read_start(str(tmp_path / 'a.pth'))


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
        with pytest.raises(
            ConnectionError, match=r'huggingface\.co/timm/vit_tiny.*--backbone timm:vit_tiny_patch16_224'
        ):
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
