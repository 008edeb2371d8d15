"""ResNet against torchvision's; batch normalisation; necks; preprocessing."""

import pytest
import torch
import torchvision
from torch import nn

from unmix.models import DataPreprocessor, MLPNeck, ResNet, SplitBatchNorm
from unmix.models.layers.batch_norm import BatchNormReplay
from unmix.registry import MODELS


@pytest.mark.slow
@pytest.mark.parametrize('depth', [18, 34, 50])
def test_resnet_is_torchvisions(depth):
    reference = getattr(torchvision.models, f'resnet{depth}')().double()
    reference.fc = torch.nn.Identity()
    ours = ResNet(depth).double()
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for mode in (True, False):
        expected, actual = reference.train(mode)(images), ours.train(mode)(images)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert actual.shape == (2, ours.out_dim)


@pytest.mark.slow
def test_resnet_starts_like_torchvisions():
    torch.manual_seed(0)
    ours = {name: value.std() for name, value in ResNet(18).state_dict().items() if value.ndim == 4}
    torch.manual_seed(1)
    for name, value in torchvision.models.resnet18().state_dict().items():
        if value.ndim == 4:
            assert ours[name].item() == pytest.approx(value.std().item(), rel=0.05), name


@pytest.mark.parametrize(('arguments', 'shape', 'dim'), [
    (dict(depth=8, in_channels=1, width=16, stem=dict(kernel_size=3, stride=2, padding=1)), (2, 1, 16, 16), 64),
    (dict(depth=18, stem='cifar'), (2, 3, 32, 32), 512),
    (dict(depth=26, stem=dict(kernel_size=3, stride=1, padding=2)), (1, 3, 32, 32), 2048),
    (dict(depth=18, in_channels=5, width=32), (1, 5, 64, 64), 256),
])  # fmt: skip
def test_resnet_variants(arguments, shape, dim):
    net = ResNet(**arguments).eval()
    assert net.out_dim == dim
    assert net(torch.randn(shape)).shape == (shape[0], dim)


def test_cifar_resnet_has_the_published_size():
    assert sum(p.numel() for p in ResNet(18, stem='cifar').parameters()) == 11168832
    small = ResNet(8, in_channels=1, width=16, stem=dict(kernel_size=3, stride=2, padding=1))
    assert sum(p.numel() for p in small.parameters()) == 77104


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(depth=20), 'backbone.depth is 20'),
    (dict(stem='mnist'), "backbone.stem is 'mnist'"),
])  # fmt: skip
def test_unknown_architectures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)


def test_split_batch_norm_is_one_norm_a_group():
    x = torch.randn(12, 5, 4, 4, dtype=torch.float64)
    split = SplitBatchNorm(5, num_splits=3).double()
    plain = [torch.nn.BatchNorm2d(5).double() for _ in range(3)]
    y = split(x)
    for group, norm in enumerate(plain):
        torch.testing.assert_close(y[group::3], norm(x[group::3]), rtol=0, atol=1e-12)
    mean = torch.stack([norm.running_mean for norm in plain]).mean(0)
    torch.testing.assert_close(split.running_mean, mean, rtol=0, atol=1e-12)


def test_split_batch_norm_takes_channels_last():
    x = torch.randn(8, 6, 4, 4).contiguous(memory_format=torch.channels_last)
    norm, twin = SplitBatchNorm(6, num_splits=4), SplitBatchNorm(6, num_splits=4)
    assert torch.equal(norm(x), twin(x.contiguous()))


def test_splits_must_divide_the_batch():
    with pytest.raises(ValueError, match='A batch of 12 cannot be split into num_splits=8'):
        SplitBatchNorm(3, num_splits=8)(torch.randn(12, 3, 2, 2))


@pytest.mark.parametrize('ranks', [1, 2])
@pytest.mark.parametrize('num_splits', [1, 8])
def test_normalisation_commutes_with_the_reversal(num_splits, ranks):
    """Plain, split in 8, and over two ranks that share statistics (SyncBN) while each reverses its own part."""

    def reverse(x):
        return torch.cat([part.flip(0) for part in x.chunk(ranks)])

    norms = [SplitBatchNorm(5, num_splits).double() if num_splits > 1 else nn.BatchNorm2d(5).double() for _ in range(2)]
    x = torch.randn(32, 5, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(norms[0](reverse(x)), reverse(norms[1](x)), rtol=0, atol=1e-12)
    for key, value in norms[0].state_dict().items():
        torch.testing.assert_close(value, norms[1].state_dict()[key], rtol=0, atol=1e-12)


@pytest.mark.parametrize('norm', [torch.nn.BatchNorm2d(4), SplitBatchNorm(4, num_splits=2)], ids=['plain', 'split'])
def test_replay_repeats_the_update_of_a_pass(norm):
    norm = norm.double()
    twin = type(norm)(*((4, 2) if isinstance(norm, SplitBatchNorm) else (4,))).double()
    a, b = (torch.randn(6, 4, 3, 3, dtype=torch.float64) for _ in range(2))
    replay = BatchNormReplay([norm])
    with replay:
        norm(a)
    norm(b)
    replay.replay()
    for x in (a, b, a):
        twin(x)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[key], value, rtol=0, atol=1e-12)


def test_mlp_neck_layers():
    kinds = [type(layer).__name__ for layer in MLPNeck(4, 8, 2, num_layers=3, norm=True, last_norm=True).layers]
    hidden = ['Linear', 'BatchNorm1d', 'ReLU']
    assert kinds == [*hidden, *hidden, 'Linear', 'BatchNorm1d']
    with pytest.raises(ValueError, match=r'MLPNeck.num_layers is 1'):
        MLPNeck(4, 8, 2, num_layers=1)


def test_preprocessor_normalises_each_view():
    preprocessor = DataPreprocessor(mean=[10.0, 20.0, 30.0], std=[1.0, 2.0, 3.0])
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = (images.float() - torch.tensor([10.0, 20.0, 30.0])[:, None, None]) / torch.tensor([1.0, 2.0, 3.0])[
        :, None, None
    ]
    batch = preprocessor(dict(inputs=[images, images], index=torch.arange(2)))
    assert all(torch.equal(view, expected) for view in batch['inputs'])
    assert torch.equal(preprocessor(dict(inputs=images))['inputs'], expected)
    assert not preprocessor.state_dict()


def test_preprocessor_refuses_other_channels():
    with pytest.raises(ValueError, match=r'images have 1 channels, data_preprocessor\.mean has 3'):
        DataPreprocessor(mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0])(dict(inputs=torch.zeros(1, 1, 2, 2)))
    with pytest.raises(ValueError, match='give both'):
        DataPreprocessor(mean=[1.0])


@pytest.mark.parametrize('branches', [False, True])
def test_layers_are_the_maps_on_the_way(branches):
    """Layer 1 is the stem with its max-pool, 2 to 5 the stages, 6 the features; widths are known beforehand."""
    cfg = dict(type='ResNet', depth=26, width=4, stem_width=8, _scope_='unmix')
    net = MODELS.build(dict(type='TwoBranch', branch=cfg, _scope_='unmix') if branches else cfg).eval()
    images = torch.randn(2, 3, 64, 64)
    nets = [(net.l_to_ab, images[:, :1]), (net.ab_to_l, images[:, 1:])] if branches else [(net, images)]
    maps = []
    for part, x in nets:
        stages = [nn.Sequential(part.conv1, part.bn1, part.relu, part.maxpool)]
        for stage in [*stages, *(getattr(part, f'layer{i}') for i in range(1, 5))]:
            x = stage(x)
            maps.append(x)
    for layer in range(1, 6):
        wanted = torch.cat(maps[layer - 1 :: 5], 1)
        assert torch.equal(net(images, layer), wanted)
        assert wanted.shape[1] == net.layer_dims[layer - 1]
    torch.testing.assert_close(net(images, 6), net(images, 5).mean((2, 3)))
    assert torch.equal(net(images, 6), net(images))
