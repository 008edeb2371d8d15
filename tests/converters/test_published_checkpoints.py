"""The published checkpoints, by their names and shapes: in, out and back, and the features of torchvision's network."""

from typing import Any

import pytest
import torch
from foreign import half_resnet50, published, random_tensors, torchvision_network
from torch import Tensor

from unmix.config import load_config
from unmix.converters import Converted, express, interpret
from unmix.converters.containers import wrap
from unmix.registry import MODELS
from unmix.utils.matching import check_match

pytestmark = pytest.mark.slow

PUBLISHED = published()
FAMILY = {
    'unmix_c10_ModelMoCo': 'unmix-cifar',
    'unmix_moco_imagenet_resnet50_mlp': 'moco',
    'unmix_moco_imagenet_resnet50_linear': 'moco',
    'unmix_swav_cifar_resnet18': 'swav',
    'swav_imagenet_resnet50': 'swav',
    'moco_align_uniform_resnet50': 'moco',
    'pic_repo_PIC_resnet50': 'pic',
    'pic_repo_InstDisc_resnet50': 'pic',
    'cmc_resnet50v1': 'cmc',
    'cmc_repo_InsResNet50': 'cmc-instdisc',
    'htdt_byol_resnet18_cifar10': 'htdt',
    'htdt_w_mse_resnet18_cifar10': 'htdt',
}
CONFIG = {
    'unmix_c10_ModelMoCo': 'moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10',
    'unmix_moco_imagenet_resnet50_mlp': 'moco/mocov2_resnet50_8xb32-coslr-200e_in1k',
    'unmix_moco_imagenet_resnet50_linear': 'moco/mocov1_resnet50_8xb32-steplr-200e_in1k',
    'unmix_swav_cifar_resnet18': 'swav/swav_resnet26_1xb128-coslr-400e_cifar10',
    'swav_imagenet_resnet50': 'swav/swav_resnet50_64xb64-mcrop-coslr-100e_in1k',
    'moco_align_uniform_resnet50': 'moco-align-uniform/moco-align-uniform_resnet50_8xb32-coslr-200e_in1k',
    'pic_repo_PIC_resnet50': 'pic/pic_resnet50_4xb64-mcrop-coslr-1955e_in1k',
    'pic_repo_InstDisc_resnet50': 'instdisc/instdisc-mlp_resnet50_4xb64-coslr-200e_in1k',
    'cmc_resnet50v1': 'cmc/cmc-lab_resnet50-half_4xb32-steplr-200e_in1k',
    'cmc_repo_InsResNet50': 'instdisc/instdisc-nce_resnet50_4xb32-steplr-200e_in1k',
    'htdt_byol_resnet18_cifar10': 'byol/byol_resnet18_1xb512-steplr-1000e_cifar10',
    'htdt_w_mse_resnet18_cifar10': 'wmse/wmse2_resnet18_1xb512-steplr-1000e_cifar10',
}


@pytest.fixture(scope='module', params=PUBLISHED)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tensor], Converted]:
    """Name, tensors and conversion of a checkpoint as its code would write it."""
    name = request.param
    tensors = random_tensors(PUBLISHED[name]['keys'])
    entry = PUBLISHED[name]['weights_entry']
    return name, tensors, interpret({entry: tensors} if entry else tensors, name)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_family_is_found_and_all_is_carried_over(case):
    name, tensors, converted = case
    assert converted.family.name == FAMILY[name]
    assert not converted.dropped
    assert len(converted.state) == len(tensors)
    assert converted.proofs[0].difference <= 1e-9


def torchvision_features(name: str, tensors: dict[str, Tensor]) -> Tensor:
    """Features of torchvision's network, loaded by the official rule that the fixture records, or by prefix (CMC)."""
    entry = PUBLISHED[name]
    if name == 'cmc_resnet50v1':
        networks = [half_resnet50(1), half_resnet50(2)]
        maps = [prefixed(tensors, f'encoder.module.{branch}.') for branch in ('l_to_ab', 'ab_to_l')]
        parts = images().split((1, 2), dim=1)
    else:
        names = entry.get('backbone_map') or prefixed(tensors, 'encoder.module.')
        small, swav = tensors[next(iter(names))].shape[-1] == 3, FAMILY[name] == 'swav'
        arch = 'bottleneck18' if small and swav else entry.get('arch', 'resnet50')
        networks, maps, parts = [torchvision_network(arch, small, 2 if swav else 1)], [names], [images()]
    for network, names in zip(networks, maps, strict=True):
        network.load_state_dict({new.removeprefix('module.'): tensors[old] for old, new in names.items()})
    with torch.no_grad():
        return torch.cat([network.eval()(part) for network, part in zip(networks, parts, strict=True)], 1)


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, str]:
    """Names below a prefix, without it, except those of the projector."""
    return {name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix) and '.fc.' not in name}


def test_features_are_those_of_torchvisions_network(case):
    name, tensors, converted = case
    expected = torchvision_features(name, tensors)
    with torch.no_grad():
        features = converted.networks['']['backbone'](images())
    assert (features - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_out_and_back_is_the_same_bit_for_bit(case):
    name, tensors, converted = case
    result, back = express(converted, converted.family.name)
    content = wrap(back, result.family)
    entry = PUBLISHED[name]['weights_entry']
    written = content[entry] if entry else content
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[key], tensors[key]) for key in tensors)


def test_it_fits_the_config_key_for_key(case):
    name, _, converted = case
    model: dict[str, Any] = load_config(f'unmix::{CONFIG[name]}').model
    if 'num_instances' in model['head']:
        model['head']['num_instances'] = 1000  # of the sample
    with torch.device('meta'):
        own = MODELS.build(model).state_dict()
    if name.startswith('cmc'):  # its banks are another entry of the file
        own = {key: tensor for key, tensor in own.items() if not key.startswith('head.')}
    assert check_match(own, converted.state, name) == 1


def test_cmc_feeds_lightness_to_one_branch_and_colour_to_the_other():
    name = 'cmc_resnet50v1'
    tensors = random_tensors(PUBLISHED[name]['keys'])
    network = interpret({'model': tensors}, name).networks['']['backbone']
    changed = images()
    changed[:, 1:] += 1
    with torch.no_grad():
        before, after = network(images()), network(changed)
    half = before.shape[1] // 2
    assert torch.equal(before[:, :half], after[:, :half])
    assert not torch.equal(before[:, half:], after[:, half:])


def test_cmc_carries_banks_and_momentum_encoder_along():
    tensors = random_tensors(PUBLISHED['cmc_repo_InsResNet50']['keys'])
    memory = torch.randn(7, 128)
    contrast = dict(params=torch.tensor([4096]), memory=memory)
    ema = {name: tensor + 1 if tensor.dtype == torch.int64 else 0.9 * tensor for name, tensor in tensors.items()}
    content = dict(model=tensors, contrast=contrast, model_ema=ema)
    converted = interpret(content, 'current.pth')
    assert converted.family.name == 'cmc-moco'
    assert torch.equal(converted.state['head.queue.features'], memory)
    assert list(converted.dropped) == ['contrast.params']
    result, back = express(converted, 'cmc-moco')
    written = wrap(back, result.family)
    assert torch.equal(written['contrast']['memory'], memory)
    assert all(torch.equal(written['model_ema'][name], ema[name]) for name in ema)
    banks = dict(params=torch.zeros(5), memory=memory)
    converted = interpret(dict(model=tensors, contrast=banks), 'ckpt_epoch_200.pth')
    assert torch.equal(converted.state['head.banks.0.features'], memory)
