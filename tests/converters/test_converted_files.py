"""Files: written whole and proved, or not at all; read without being executed; the names that libraries expect."""

import argparse
import copy
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from foreign import narrow_resnet, published, random_tensors, randomise
from torch import nn

from unmix.apis.convert import convert
from unmix.converters import (
    Converted,
    express,
    families,
    find_family,
    interpret,
    outward,
    read_checkpoint,
    without_heads,
    write_checkpoint,
)
from unmix.converters.libraries import LIBRARIES, missing
from unmix.converters.rules import Rule
from unmix.registry import MODELS

MOCO = dict(
    type='MoCo',
    backbone=dict(type='ResNet', depth=18),
    neck=dict(type='MLPNeck', in_dim=512, hidden_dim=32, out_dim=16),
    head=dict(type='InfoNCEHead', dim=16, queue_size=24),
)


@pytest.fixture(scope='module')
def trained() -> dict[str, torch.Tensor]:
    """State dict of a MoCo of this package with random weights."""
    return randomise(MODELS.build(MOCO)).state_dict()


@pytest.fixture
def checkpoint(trained: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / 'epoch_3.pth'
    torch.save(dict(meta=dict(epoch=3), state_dict=trained, optimizer=dict(state={})), path)
    return path


def files(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


@pytest.fixture
def backbone(checkpoint: Path) -> Converted:
    """What the checkpoint holds, without heads."""
    return without_heads(read_checkpoint(checkpoint))


TARGETS = [
    ('torchvision', '.pth'),
    ('torchvision', '.safetensors'),
    ('timm', '.pth'),
    ('timm', '.safetensors'),
    ('mmpretrain', '.pth'),
    ('mmdet', '.pth'),
    ('mmdet-c4', '.pth'),
    ('detectron2', '.pkl'),
    ('detectron2', '.pth'),
]


def test_every_library_of_the_page_is_tested():
    page = (Path(__file__).resolve().parents[2] / 'docs' / 'converters.md').read_text()
    section = page.partition('## Libraries\n')[2].partition('\n## ')[0]
    rows = re.findall(r'^\| `([\w-]+)`', section, re.MULTILINE)
    assert set(rows) == {library for library, _ in TARGETS} == {family.name for family in LIBRARIES}


@pytest.mark.slow
@pytest.mark.parametrize(('library', 'suffix'), TARGETS)
def test_a_backbone_goes_to_a_library_and_back_bit_for_bit(library, suffix, backbone, trained, tmp_path):
    if suffix == '.safetensors':
        pytest.importorskip('safetensors')
    target = tmp_path / f'backbone{suffix}'
    (proof,) = write_checkpoint(backbone, target, library).proofs
    reason = missing(find_family(library).library.package)
    assert (proof.difference is None) == bool(reason)
    assert str(proof).startswith(f'not proved: {reason}' if reason else 'proved: the network here, and ')
    back = read_checkpoint(target, library)
    assert back.state.keys() == {name for name in trained if name.startswith('backbone.')}
    assert all(torch.equal(tensor, trained[name]) for name, tensor in back.state.items())
    assert back.proofs[0].difference <= 1e-9
    assert read_checkpoint(target).state.keys() == back.state.keys()  # found by its names
    assert files(tmp_path) == {'epoch_3.pth', target.name}


@pytest.mark.slow
@pytest.mark.parametrize(('library', 'suffix'), TARGETS)
def test_the_library_itself_computes_the_same(library, suffix, backbone, tmp_path):
    if reason := missing(find_family(library).library.package):
        pytest.skip(reason)
    if suffix == '.safetensors':
        pytest.importorskip('safetensors')
    target = tmp_path / f'backbone{suffix}'
    write_checkpoint(backbone, target, library)
    x = torch.randn(3, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        theirs = find_family(library).library.load(target, 18, 0)(x)
        ours = copy.deepcopy(backbone.networks['']['backbone']).double()(x)
    assert torch.allclose(theirs, ours, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('depth', [18, 50])
def test_torchvision_loads_what_the_command_writes(depth, tmp_path, capsys):
    backbone = randomise(MODELS.build(dict(type='ResNet', depth=depth)))
    state = {f'backbone.{name}': tensor for name, tensor in backbone.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'epoch_3.pth')
    convert(['unmix', str(tmp_path / 'epoch_3.pth'), str(tmp_path / 'out.pth'), '--to', 'torchvision'])
    assert f"in torchvision's ResNet-{depth}; outputs differ by at most" in capsys.readouterr().out
    network = torchvision.models.get_model(f'resnet{depth}')
    network.fc = nn.Identity()
    network.load_state_dict(torch.load(tmp_path / 'out.pth', weights_only=True), strict=True)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.allclose(network.eval()(x), backbone(x), rtol=1e-4, atol=1e-5)


SPARE = dict(type='ResNet', depth=18)
UNFIT = [
    ('torchvision', dict(width=32), 'width is 32, not 64; stem_width is 32, not 64'),
    ('torchvision', dict(width=128, stem_width=64), 'width is 128, not 64'),
    ('torchvision', dict(stem_width=32), 'stem_width is 32, not 64'),
    ('torchvision', dict(stem='cifar'), 'stem is cifar, not imagenet'),
    ('torchvision', dict(stem=dict(kernel_size=7, stride=1, padding=3)), 'stem is {.*, not imagenet'),
    ('torchvision', dict(in_channels=1), 'in_channels is 1, not 3'),
    ('torchvision', dict(depth=8, width=16), 'depth is 8, not 18 or 34 or 50 or 101 or 152'),
    ('torchvision', dict(depth=26), 'depth is 26, not 18'),
    ('timm', dict(stem='cifar-pool'), 'stem is cifar-pool, not imagenet'),
    ('mmpretrain', dict(width=32), 'width is 32'),
    ('mmdet', dict(width=32), 'width is 32'),
    ('mmdet-c4', dict(stem='cifar'), 'stem is cifar'),
    ('detectron2', dict(stem='cifar'), 'stem is cifar'),
    ('moco', dict(width=32), 'width is 32'),
    ('unmix-cifar', dict(), 'stem is imagenet, not cifar'),
]


@pytest.mark.slow
@pytest.mark.parametrize(('library', 'change', 'message'), UNFIT)
def test_a_backbone_that_the_target_cannot_build_is_refused(library, change, message, tmp_path):
    config = SPARE | change
    state = {f'backbone.{name}': x for name, x in randomise(MODELS.build(config)).state_dict().items()}
    converted = interpret(dict(meta=dict(model=dict(backbone=config)), state_dict=state), 'epoch_3.pth')
    with pytest.raises(ValueError, match=f'{library} has no network for this backbone: .*{message}.*as .onnx'):
        write_checkpoint(converted, tmp_path / 'out.pth', library)
    assert not files(tmp_path)


@pytest.mark.slow
def test_timm_has_a_network_of_depth_26(tmp_path):
    state = {f'backbone.{n}': x for n, x in randomise(MODELS.build(dict(type='ResNet', depth=26))).state_dict().items()}
    (proof,) = write_checkpoint(interpret({'state_dict': state}, 'epoch_3.pth'), tmp_path / 'out.pth', 'timm').proofs
    assert missing('timm') or proof.difference <= 1e-9


@pytest.mark.parametrize('target', ['out.pth', 'out.onnx'])
def test_heads_without_a_place_are_refused(target, checkpoint, tmp_path):
    to = 'unmix' if target == 'out.onnx' else 'torchvision'
    with pytest.raises(ValueError, match=r'has no place for neck, head, momentum_encoder .*--backbone-only'):
        write_checkpoint(read_checkpoint(checkpoint), tmp_path / target, to)
    assert files(tmp_path) == {'epoch_3.pth'}


@pytest.mark.slow
def test_split_batch_norm_is_plain_once_trained(tmp_path):
    """Groups of the batch exist in training only; the features of the trained network are torchvision's."""
    network = MODELS.build(SPARE | dict(num_splits=2)).train()
    network(torch.randn(4, 3, 64, 64))
    state = {f'backbone.{name}': x for name, x in network.state_dict().items()}
    content = dict(meta=dict(model=dict(backbone=SPARE | dict(num_splits=2))), state_dict=state)
    write_checkpoint(interpret(content, 'epoch_3.pth'), tmp_path / 'out.pth', 'torchvision')
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        theirs = find_family('torchvision').library.load(tmp_path / 'out.pth', 18, 0)(x)
        assert torch.allclose(theirs, network.double().eval()(x), rtol=1e-9, atol=1e-9)


def swap(tensors: dict[str, torch.Tensor], a: str, b: str) -> dict[str, torch.Tensor]:
    return tensors | {a: tensors[b], b: tensors[a]}


MUTATIONS = [
    (lambda t: swap(t, 'layer1.0.conv1.weight', 'layer1.1.conv2.weight'), 'outputs differ by'),
    (lambda t: swap(t, 'layer2.1.bn1.bias', 'layer2.1.bn2.bias'), 'outputs differ by'),
    (lambda t: swap(t, 'layer4.1.bn1.running_mean', 'layer4.1.bn2.running_mean'), 'outputs differ by'),
    (lambda t: t | {'bn1.running_var': torch.ones(64)}, 'outputs differ by'),
    (lambda t: {n: x for n, x in t.items() if 'running' not in n}, 'cannot be loaded into'),
    (lambda t: {n: x for n, x in t.items() if not n.startswith('layer4.1.')}, 'cannot be loaded into'),
    (lambda t: t | {'layer1.2.conv1.weight': t['layer1.1.conv1.weight']}, 'cannot be loaded into'),
]


@pytest.mark.slow
@pytest.mark.parametrize('library', ['torchvision', 'timm'])
@pytest.mark.parametrize(('mutate', 'message'), MUTATIONS)
def test_a_broken_translation_is_caught_by_the_library(library, mutate, message, backbone, tmp_path, monkeypatch):
    if reason := missing(library):
        pytest.skip(reason)

    def broken(converted: Converted, to: str) -> tuple[Converted, dict[str, torch.Tensor]]:
        result, tensors = express(converted, to)
        return result, mutate(tensors)

    monkeypatch.setattr(outward, 'express', broken)
    with pytest.raises(ValueError, match=message):
        write_checkpoint(backbone, tmp_path / 'out.pth', library)
    assert files(tmp_path) == {'epoch_3.pth'}


@pytest.mark.slow
@pytest.mark.parametrize(('library', 'package'), [('timm', 'timm'), ('mmdet', 'mmdet'), ('detectron2', 'detectron2')])
def test_without_the_library_nothing_is_called_proved(library, package, checkpoint, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition('.')[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    convert(['unmix', str(checkpoint), str(tmp_path / 'out.pth'), '--to', library, '--backbone-only'])
    printed = capsys.readouterr().out
    assert f'not proved: {package} is not installed\n' in printed
    assert 'differ' not in printed
    assert files(tmp_path) == {'epoch_3.pth', 'out.pth'}


@pytest.mark.slow
def test_a_whole_checkpoint_goes_to_the_authors_code_and_back(checkpoint, trained, tmp_path):
    write_checkpoint(read_checkpoint(checkpoint), tmp_path / 'checkpoint_0003.pth.tar', 'moco')
    content = torch.load(tmp_path / 'checkpoint_0003.pth.tar', weights_only=True)
    assert content.keys() == {'state_dict'}
    assert content['state_dict']['module.queue'].shape == (16, 24)
    assert content['state_dict']['module.queue_ptr'].shape == (1,)
    write_checkpoint(read_checkpoint(tmp_path / 'checkpoint_0003.pth.tar'), tmp_path / 'back.pth')
    back = torch.load(tmp_path / 'back.pth', weights_only=True)
    assert back['state_dict'].keys() == trained.keys()
    assert all(torch.equal(back['state_dict'][name], trained[name]) for name in trained)
    assert back['meta']['model']['backbone'] == dict(type='ResNet', depth=18, stem='imagenet')


@pytest.mark.slow
def test_a_classifier_goes_along(tmp_path):
    backbone = torchvision.models.resnet18(num_classes=10)
    tensors = randomise(backbone).state_dict()
    torch.save({'state_dict': {f'module.{name}': x for name, x in tensors.items()}}, tmp_path / 'model_best.pth.tar')
    converted = read_checkpoint(tmp_path / 'model_best.pth.tar')
    assert converted.family.name == 'torchvision'
    assert torch.equal(converted.state['head.fc.weight'], tensors['fc.weight'])
    assert list(converted.networks['']) == ['backbone', 'head']
    assert str(converted.proofs[-1]) == 'not proved: head: in no library; names and shapes fit'
    written = write_checkpoint(converted, tmp_path / 'classifier.pth', 'mmpretrain')
    assert 'head.fc.bias' in written.state
    written = write_checkpoint(read_checkpoint(tmp_path / 'classifier.pth'), tmp_path / 'back.pth', 'torchvision')
    assert written.proofs[-1].difference <= 1e-9
    torchvision.models.resnet18(num_classes=10).load_state_dict(torch.load(tmp_path / 'back.pth', weights_only=True))
    with pytest.raises(ValueError, match='mmdet has no place for head'):
        write_checkpoint(converted, tmp_path / 'detector.pth', 'mmdet')


class ConvNorm(nn.Conv2d):
    """detectron2's convolution, which has its normalisation inside."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, bias=False, **kwargs)
        self.norm = nn.BatchNorm2d(self.out_channels)


def detectron2_r50() -> nn.ModuleDict:
    """The modules of detectron2's ResNet-50 under its names, without memory."""
    with torch.device('meta'):
        stages = {'stem': nn.ModuleDict({'conv1': ConvNorm(3, 64, 7)})}
        channels = 64
        for i, blocks in enumerate((3, 4, 6, 3)):
            width, stage = 64 * 2**i, nn.ModuleList()
            for j in range(blocks):
                layers = dict(conv1=ConvNorm(channels, width, 1), conv2=ConvNorm(width, width, 3))
                layers['conv3'] = ConvNorm(width, 4 * width, 1)
                stage.append(nn.ModuleDict(layers | ({} if j else {'shortcut': ConvNorm(channels, 4 * width, 1)})))
                channels = 4 * width
            stages[f'res{i + 2}'] = stage
        return nn.ModuleDict(stages)


@pytest.mark.slow
def test_published_moco_loads_key_for_key_into_the_detectors():
    """torchvision's names as the fixture records them; detectron2's and mmdet's C4 as their modules make them."""
    entry = published()['unmix_moco_imagenet_resnet50_mlp']
    converted = without_heads(interpret({'state_dict': random_tensors(entry['keys'])}, 'checkpoint_0199.pth.tar'))
    shapes = {name: tuple(shape) for name, shape, _ in entry['keys']}
    expected = {new: shapes[old] for old, new in entry['backbone_map'].items()}
    assert len(expected) == 318
    _, tensors = express(converted, 'torchvision')
    assert {name: tuple(x.shape) for name, x in tensors.items()} == expected
    _, tensors = express(converted, 'mmdet')
    assert {name: tuple(x.shape) for name, x in tensors.items()} == {f'backbone.{a}': b for a, b in expected.items()}

    own = detectron2_r50().state_dict()
    _, tensors = express(converted, 'detectron2')
    assert {name: x.shape for name, x in tensors.items()} == {name: x.shape for name, x in own.items()}
    # detectron2 gives a parameter the tensor whose name its own ends in: the backbone's, and in the head res5 with
    # its extra norm, which starts anew.
    extra = {f'norm.{name}': x for name, x in nn.BatchNorm2d(2048).state_dict().items()}
    detector = {('roi_heads.' if name.startswith('res5') else 'backbone.') + name for name in own}
    detector |= {f'roi_heads.res5.{name}' for name in extra}
    matches = {name: [key for key in tensors if name.endswith(f'.{key}')] for name in detector}
    assert {name for name, keys in matches.items() if not keys} == {f'roi_heads.res5.{name}' for name in extra}
    assert sorted(key for keys in matches.values() for key in keys) == sorted(tensors)  # each once

    _, tensors = express(converted, 'mmdet-c4')
    heads = {name for name in tensors if name.startswith('roi_head.shared_head.layer4.')}
    assert {name.removeprefix('roi_head.shared_head.') for name in heads} == {
        name for name in expected if name.startswith('layer4.')
    }
    assert {name for name in tensors if name not in heads} == {
        f'backbone.{name}' for name in expected if not name.startswith('layer4.')
    }


@pytest.mark.slow
def test_the_stem_of_32_px_images_is_remembered(tmp_path):
    model = nn.ModuleDict(dict(backbone=narrow_resnet(small=True, padding=2), projector=nn.Linear(64, 8)))
    torch.save({'state_dict': randomise(model).state_dict()}, tmp_path / 'last.ckpt')
    write_checkpoint(read_checkpoint(tmp_path / 'last.ckpt'), tmp_path / 'ours.pth')
    again = read_checkpoint(tmp_path / 'ours.pth')
    assert again.stem == dict(kernel_size=3, stride=1, padding=2, maxpool=False)
    with pytest.raises(ValueError, match=r"detectron2 has no network .* stem is {'kernel_size': 3, .*not imagenet"):
        write_checkpoint(without_heads(again), tmp_path / 'backbone.pkl', 'detectron2')


@pytest.mark.slow
def test_a_wrong_rule_is_refused_on_the_way_in_and_out(checkpoint, tmp_path, monkeypatch):
    """Two norms of a block are exchanged: all names and shapes fit."""
    right = find_family('moco')
    ours, theirs = 'backbone.layer2.1.', 'encoder_q.layer2.1.'
    swapped = tuple(Rule(f'{ours}bn{i}.*', f'{theirs}bn{3 - i}.*') for i in (1, 2))
    write_checkpoint(read_checkpoint(checkpoint), tmp_path / 'right.pth', 'moco')
    monkeypatch.setattr(families, 'FAMILIES', (replace(right, extra_rules=swapped + right.extra_rules),))
    with pytest.raises(ValueError, match='names of moco: outputs differ by'):
        read_checkpoint(tmp_path / 'right.pth')
    with pytest.raises(ValueError, match='Nothing was written'):
        write_checkpoint(read_checkpoint(checkpoint), tmp_path / 'wrong.pth', 'moco')
    assert files(tmp_path) == {'epoch_3.pth', 'right.pth'}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda name, x: x.fill_(float('nan')) if name == 'backbone.conv1.weight' else x, 'not finite'),
        (lambda name, x: torch.zeros_like(x) if 'conv' in name else x, 'the same outputs for two images'),
        (lambda name, x: x[:, :2] if name == 'backbone.layer1.0.conv1.weight' else x, 'of another shape'),
        (lambda name, x: None if name == 'backbone.bn1.running_mean' else x, 'missing: bn1.running_mean'),
        (lambda name, x: None if '.1.' in name else x, r'\(1, 1, 1, 1\) basic blocks'),
        (lambda name, x: None if 'backbone' in name else x, 'is missing'),
    ],
)
def test_damaged_checkpoints_are_refused(change, message, trained, tmp_path):
    tensors = {name: change(name, tensor.clone()) for name, tensor in trained.items()}
    content = {'state_dict': {name: tensor for name, tensor in tensors.items() if tensor is not None}}
    with pytest.raises(ValueError, match=message):
        write_checkpoint(without_heads(interpret(content, 'damaged.pth')), tmp_path / 'out.pth', 'torchvision')
    assert not files(tmp_path)


def test_unknown_names_are_told_with_the_nearest_families(trained):
    tensors = {name.replace('backbone.', 'encoder_q.'): x for name, x in trained.items() if 'momentum' not in name}
    with pytest.raises(ValueError, match=r'The nearest ones, .* moco: neck\.layers\.0\.weight') as error:
        interpret({'state_dict': tensors}, 'strange.pth')
    assert 'solo-learn' in str(error.value)
    with pytest.raises(ValueError, match=r'strange.pth as moco: \d+ tensors have names that the rules do not know'):
        interpret({'state_dict': tensors}, 'strange.pth', 'moco')
    with pytest.raises(ValueError, match=r"no family 'mocov2'. Did you mean moco"):
        interpret({'state_dict': tensors}, 'strange.pth', 'mocov2')


def test_lightlys_own_resnet_is_refused():
    """Its examples lose the ReLU after the stem, so that no ResNet here computes the same."""
    resnet = narrow_resnet(small=True)
    parts = [resnet.conv1, resnet.bn1, resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    tensors = nn.ModuleDict(dict(backbone=nn.Sequential(*parts))).state_dict()
    with pytest.raises(ValueError, match='of no family that is known'):
        interpret({'state_dict': tensors}, 'cifar.ckpt')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'epoch': 3}, r"has no tensors; it holds \['epoch'\]"),
        ([torch.zeros(1)], 'has no tensors; it holds list'),
        ({'state_dict': {'a': 'b'}}, 'has no tensors'),
    ],
)
def test_what_is_no_checkpoint_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        interpret(content, 'file.pth')


@pytest.mark.slow
def test_settings_of_argparse_are_read_and_code_is_not_executed(trained, tmp_path):
    converted = interpret({'state_dict': trained}, 'epoch_3.pth')
    result, tensors = express(without_heads(converted), 'pic')
    model = {f'module.{name}': tensor for name, tensor in tensors.items()}
    torch.save(dict(opt=argparse.Namespace(lr=0.03, crops=[160, 96]), model=model), tmp_path / 'current.pth')
    assert read_checkpoint(tmp_path / 'current.pth').state.keys() == result.state.keys()

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'executed'), 'w'))

    torch.save(dict(opt=Evil(), model=model), tmp_path / 'evil.pth')
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps(dict(model=Evil())))
    for name in ('evil.pth', 'evil.pkl'):
        with pytest.raises(ValueError, match='is refused'):
            read_checkpoint(tmp_path / name)
    (tmp_path / 'empty.pkl').touch()
    with pytest.raises(ValueError, match='expected to be a dict of arrays'):
        read_checkpoint(tmp_path / 'empty.pkl')
    assert not (tmp_path / 'executed').exists()


def test_impossible_targets_are_refused(checkpoint, tmp_path, monkeypatch):
    converted = without_heads(read_checkpoint(checkpoint))
    for name, to, message in (
        ('out.bin', 'unmix', 'expected one of .pth, .pt, .tar, .ckpt, .safetensors, .onnx for unmix'),
        ('out.pkl', 'torchvision', 'expected one of .pth, .pt, .tar, .ckpt, .safetensors for torchvision'),
        ('out.onnx', 'torchvision', 'expected one of'),
        ('out.safetensors', 'mmdet', 'expected one of'),
        ('out.pth', 'cmc', 'cmc has no network for this backbone: type is ResNet, not TwoBranch'),
    ):
        with pytest.raises(ValueError, match=message):
            write_checkpoint(converted, tmp_path / name, to)
    for name, module in (('out.safetensors', 'safetensors'), ('out.onnx', 'onnx')):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, module, None)
            with pytest.raises(ValueError, match=rf"needs the package {module}: pip install 'unmix\[export\]'"):
                write_checkpoint(converted, tmp_path / name)
    assert files(tmp_path) == {'epoch_3.pth'}


def test_onnx_computes_the_same_for_any_size(tmp_path):
    reference = pytest.importorskip('onnx.reference')
    pytest.importorskip('onnxscript')
    backbone = MODELS.build(dict(type='ResNet', depth=8, width=4, stem='cifar'))
    tensors = {f'backbone.{name}': x for name, x in randomise(backbone).state_dict().items()}
    written = write_checkpoint(interpret({'state_dict': tensors}, 'epoch_3.pth'), tmp_path / 'backbone.onnx')
    assert written.proofs[-1].difference <= 1e-5
    x = torch.randn(3, 3, 40, 24)
    (features,) = reference.ReferenceEvaluator(str(tmp_path / 'backbone.onnx')).run(None, {'images': x.numpy()})
    with torch.no_grad():
        expected = backbone.eval()(x)
    assert torch.allclose(torch.from_numpy(features), expected, rtol=1e-4, atol=1e-5)
    assert files(tmp_path) == {'backbone.onnx'}
