"""Memory formats and groups of neighbours change the time of a step and nothing else."""

import copy

import pytest
import torch

from unmix.models import ResNet, SplitBatchNorm, TwoBranch
from unmix.models.layers.batch_norm import group_samples, ungroup_samples

CASES = [(splits, layers) for splits in (1, 4) for layers in (True, 0, 2)]


def build(**changes):
    torch.manual_seed(0)
    return ResNet(8, width=4, stem='cifar', **changes).double()


def run(net, images, layer):
    """Output in both modes, gradients and state after it."""
    out = net(images, layer)
    out.square().mean().backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return dict(train=out, eval=net.eval()(images, layer), **gradients), net.state_dict()


@pytest.mark.parametrize(('num_splits', 'channels_last'), CASES)
@pytest.mark.parametrize('layer', [None, 2])
def test_same_features_gradients_and_statistics(num_splits, channels_last, layer):
    images = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    expected = run(build(num_splits=num_splits), images, layer)
    actual = run(build(num_splits=num_splits, channels_last=channels_last), images, layer)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-12)


def test_the_number_counts_layers():
    net = build(channels_last=2, num_splits=2)
    formats = {}
    for name in ('conv1', 'layer1', 'layer2', 'layer3'):
        module = getattr(net, name)
        module.register_forward_hook(lambda module, args, out, name=name: formats.update({name: out}))
    net(torch.randn(4, 3, 8, 8, dtype=torch.float64))
    found = {name: out.is_contiguous(memory_format=torch.channels_last) for name, out in formats.items()}
    assert found == dict(conv1=True, layer1=True, layer2=False, layer3=False)
    weights = [copy.deepcopy(net).layer1[0].conv1.weight, net.layer2[0].conv1.weight]
    assert [w.is_contiguous(memory_format=torch.channels_last) for w in weights] == [True, False]


def test_groups_of_neighbours_are_the_groups_of_the_release():
    x = torch.randn(12, 5, 4, 4)
    grouped = group_samples(x, 3)
    assert torch.equal(ungroup_samples(grouped, 3), x)
    norm, adjacent = SplitBatchNorm(5, 3).double(), SplitBatchNorm(5, 3, adjacent=True).double()
    y = ungroup_samples(adjacent(grouped.double()), 3)
    torch.testing.assert_close(y, norm(x.double()), rtol=0, atol=1e-12)
    torch.testing.assert_close(adjacent.running_var, norm.running_var, rtol=0, atol=1e-12)


def test_splits_must_divide_the_batch():
    with pytest.raises(ValueError, match='A batch of 6 cannot be split into num_splits=4'):
        build(num_splits=4, channels_last=True)(torch.randn(6, 3, 8, 8, dtype=torch.float64))


def test_both_branches_are_channels_last():
    branch = dict(type='ResNet', depth=8, width=4, stem='cifar')
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    features = []
    for last in (False, True, 2):
        torch.manual_seed(0)
        net = TwoBranch(branch, channels_last=last).double()
        assert [encoder.channels_last for encoder in (net.l_to_ab, net.ab_to_l)] == [last, last]
        features.append(net(images))
    for other in features[1:]:
        torch.testing.assert_close(other, features[0], rtol=0, atol=1e-12)
    assert TwoBranch(dict(branch, channels_last=True)).l_to_ab.channels_last is True
