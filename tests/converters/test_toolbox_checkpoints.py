"""mmselfsup, lightly and solo-learn: modules put together as theirs are, so that PyTorch itself makes the names."""

import pytest
import torch
from foreign import narrow_resnet, randomise
from torch import Tensor, nn

from unmix.converters import Converted, express, interpret
from unmix.converters.containers import wrap


class Named(nn.Module):
    """Modules and buffers under the given names."""

    def __init__(self, **members: nn.Module | Tensor) -> None:
        super().__init__()
        for name, member in members.items():
            register = self.add_module if isinstance(member, nn.Module) else self.register_buffer
            register(name, member)


def perceptron(in_dim: int = 64, out_dim: int = 16, norm: bool = False) -> nn.Sequential:
    """Linear, BatchNorm perhaps, ReLU, linear."""
    norms = [nn.BatchNorm1d(32)] if norm else []
    return nn.Sequential(nn.Linear(in_dim, 32), *norms, nn.ReLU(), nn.Linear(32, out_dim))


def nonlinear(in_dim: int, bias: bool, last_norm: bool) -> nn.Module:
    """mmselfsup's NonLinearNeck, its layers under their names in order."""
    layers = dict(fc0=nn.Linear(in_dim, 32, bias=bias), bn0=nn.BatchNorm1d(32), fc1=nn.Linear(32, 16, bias=bias))
    return Named(**layers, **(dict(bn1=nn.BatchNorm1d(16)) if last_norm else {}))


def apply_nonlinear(neck: nn.Module, x: Tensor) -> Tensor:
    x = neck.fc1(neck.bn0(neck.fc0(x)).relu())
    return neck.bn1(x) if hasattr(neck, 'bn1') else x


def children(network: nn.Module) -> nn.Sequential:
    """What lightly's examples make of a ResNet."""
    return nn.Sequential(*list(network.children())[:-1])


def run(model: nn.Module, family: str) -> tuple[dict[str, Tensor], Converted]:
    """Give a model random weights, convert its state dict, found by its names, and check that it comes back."""
    randomise(model)
    tensors = model.state_dict()
    converted = interpret({'state_dict': tensors, 'epoch': 3}, 'epoch_3.pth')
    assert converted.family.name == family
    assert converted.proofs[0].difference <= 1e-9
    result, back = express(converted, family)
    written = wrap(back, result.family)['state_dict']
    assert written.keys() == tensors.keys() - converted.dropped.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in written)
    return tensors, converted


@torch.no_grad()
def check(converted: Converted, prefix: str, x: Tensor, **expected: Tensor) -> None:
    """Compare outputs of our networks, one after the other, with the expected ones."""
    assert converted.networks[prefix].keys() == expected.keys()
    for name, output in expected.items():
        x = converted.networks[prefix][name](x)
        assert (x - output).abs().max() <= 1e-5 * output.abs().max(), name


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@torch.no_grad()
def test_mmselfsup_moco():
    backbone, mlp = narrow_resnet(), perceptron()
    key_backbone, key_mlp = narrow_resnet(), perceptron()
    key = nn.Sequential(key_backbone, Named(mlp=key_mlp))
    model = Named(
        backbone=backbone,
        neck=Named(mlp=mlp),
        encoder_k=Named(module=key, steps=torch.tensor(7)),
        queue=torch.zeros(16, 24),
        queue_ptr=torch.zeros(1, dtype=torch.long),
    )
    tensors, converted = run(model, 'mmselfsup')
    assert list(converted.dropped) == ['encoder_k.steps']
    assert torch.equal(converted.state['head.queue.features'], tensors['queue'].T)
    x = backbone(images())
    check(converted, '', images(), backbone=x, neck=mlp(x))
    x = key_backbone(images())
    check(converted, 'momentum_encoder.', images(), backbone=x, neck=key_mlp(x))


@torch.no_grad()
def test_mmselfsup_swav_names_one_norm_twice():
    backbone, layers = narrow_resnet(), perceptron(norm=True)
    model = Named(backbone=backbone, neck=Named(norm=layers[1], projection_neck=layers))
    _, converted = run(model, 'mmselfsup-swav')
    assert {name.rpartition('.')[0] for name in converted.dropped} == {'neck.norm'}
    x = backbone(images())
    check(converted, '', images(), backbone=x, neck=layers(x))


@pytest.mark.slow
@torch.no_grad()
def test_mmselfsup_byol():
    backbone, neck, predictor = narrow_resnet(), nonlinear(64, True, False), nonlinear(16, True, False)
    target = nn.Sequential(narrow_resnet(), nonlinear(64, True, False))
    model = Named(backbone=backbone, neck=neck, head=Named(predictor=predictor), target_net=Named(module=target))
    _, converted = run(model, 'mmselfsup-simclr')
    assert not converted.dropped
    x = backbone(images())
    z = apply_nonlinear(neck, x)
    check(converted, '', images(), backbone=x, neck=z, predictor=apply_nonlinear(predictor, z))
    x = target[0](images())
    check(converted, 'momentum_encoder.', images(), backbone=x, neck=apply_nonlinear(target[1], x))


@torch.no_grad()
def test_a_projector_that_has_no_counterpart_is_left_out_and_listed():
    """SimCLR's in mmselfsup: its last layer has no bias."""
    backbone = narrow_resnet()
    model = randomise(Named(backbone=backbone, neck=nonlinear(64, False, True)))
    converted = interpret({'state_dict': model.state_dict()}, 'epoch_3.pth')
    assert {name for name in converted.dropped if name.endswith('.weight')} == {
        f'neck.layers.{i}.weight' for i in (0, 1, 3, 4)
    }
    assert 'no neck of this package has these layers' in converted.dropped['neck.layers.3.weight']
    check(converted, '', images(), backbone=backbone(images()))


@pytest.mark.slow
@torch.no_grad()
def test_lightly():
    backbone, layers = children(narrow_resnet()), perceptron(norm=True)
    momentum, key_layers = children(narrow_resnet()), perceptron(norm=True)
    model = Named(
        backbone=backbone,
        projection_head=Named(layers=layers),
        prediction_head=Named(layers=perceptron(16)),
        backbone_momentum=momentum,
        projection_head_momentum=Named(layers=key_layers),
        criterion=Named(bank=torch.zeros(4, 4)),
    )
    _, converted = run(model, 'lightly')
    assert list(converted.dropped) == ['criterion.bank']
    x = backbone(images()).flatten(1)
    z = layers(x)
    check(converted, '', images(), backbone=x, neck=z, predictor=model.prediction_head.layers(z))
    x = momentum(images()).flatten(1)
    check(converted, 'momentum_encoder.', images(), backbone=x, neck=key_layers(x))


@pytest.mark.parametrize('small', [False, True])
@torch.no_grad()
def test_solo_learn_pads_its_small_stem_by_2(small):
    backbone, projector = narrow_resnet(small, padding=2), perceptron(norm=True)
    model = Named(backbone=backbone, projector=projector, classifier=nn.Linear(64, 10), queue=torch.zeros(2, 16, 8))
    _, converted = run(model, 'solo-learn')
    assert set(converted.dropped) == {'classifier.weight', 'classifier.bias', 'queue'}
    x = backbone(images())
    check(converted, '', images(), backbone=x, neck=projector(x))


@torch.no_grad()
def test_a_stem_that_shapes_cannot_tell_is_given():
    backbone = narrow_resnet(small=True)
    backbone.maxpool = nn.MaxPool2d(3, 2, 1)  # as htdt's on STL-10
    model = Named(model=Named(module=backbone), head=perceptron(norm=True))
    converted = interpret(randomise(model).state_dict(), 'w_mse_stl10_999.pt', stem='cifar-pool')
    x = backbone(images())
    check(converted, '', images(), backbone=x, neck=model.head(x))
