"""Weights of other codes in a network of ours: unwrapped if there is one choice, else refused with the way on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from unmix.models import Classifier, ResNet
from unmix.models.pretrained import load_pretrained

State = dict[str, Tensor]


def network() -> ResNet:
    return ResNet(18, width=4)


def renamed(state: State, prefix: str = '') -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    'plain': lambda state: state,
    'state_dict': lambda state: {'state_dict': state},
    'compiled': lambda state: {'state_dict': renamed(state, '_orig_mod.')},
    'compiled, then distributed': lambda state: {'state_dict': renamed(state, 'module._orig_mod.')},
    'distributed, then compiled': lambda state: renamed(state, '_orig_mod.module.'),
    'a part compiled': lambda state: {name.replace('layer1.', 'layer1._orig_mod.'): x for name, x in state.items()},
    'model': lambda state: {'model': state, 'epoch': 3},
    'teacher': lambda state: {'teacher': renamed(state, 'module.'), 'epoch': 3},
    'model_state_dict': lambda state: {'model_state_dict': state, 'optimizer_state_dict': {'state': {}}},
    'net': lambda state: {'net': renamed(state, 'module.'), 'acc': 0.5},
    'encoder': lambda state: {'encoder': state, 'projector': {'weight': torch.zeros(3)}},
    'nested': lambda state: {'state': {'model': state}, 'step': torch.tensor(1)},
    'in the state dict': lambda state: {'state_dict': {'student': state}},
}


@pytest.mark.parametrize('wrap', WRAPPED.values(), ids=WRAPPED.keys())
def test_one_choice_is_taken(wrap: Callable[[State], Any], tmp_path: Path):
    state = network().state_dict()
    torch.save(wrap(state), tmp_path / 'x.pth')
    load_pretrained(own := network(), str(tmp_path / 'x.pth'), '', 'init_cfg.checkpoint')
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.state_dict().items())


def test_of_several_networks_none_is_taken_but_the_one_that_is_named(tmp_path: Path):
    student, teacher = network().state_dict(), network().state_dict()
    torch.save({'student': renamed(student, 'module.'), 'teacher': renamed(teacher, 'backbone.')}, tmp_path / 'a.pth')
    torch.save({'student': student, 'teacher': teacher}, path := tmp_path / 'b.pth')
    message = r"b\.pth' has several networks that fit: student, teacher\. .*prefix='student'.*unmix convert"
    with pytest.raises(ValueError, match=message):
        load_pretrained(network(), str(path), '', 'init_cfg.checkpoint')
    for file, prefix, state in ((path, 'teacher.', teacher), (tmp_path / 'a.pth', 'teacher.backbone.', teacher)):
        load_pretrained(own := network(), str(file), prefix, 'init_cfg.checkpoint')
        assert torch.equal(own.conv1.weight, state['conv1.weight'])


def test_another_prefix_is_named(tmp_path: Path):
    torch.save({'state_dict': renamed(network().state_dict(), 'encoder_q.')}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r"0% of .*strip the prefix of the names there, 'encoder_q\.': prefix='enc"):
        load_pretrained(network(), str(tmp_path / 'x.pth'), '', 'init_cfg.checkpoint', strict=False)
    load_pretrained(network(), str(tmp_path / 'x.pth'), 'encoder_q.', 'init_cfg.checkpoint')
    torch.save({'state_dict': {'stem.0.weight': torch.zeros(3)}}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'names there begin with stem\.0\.weight.*unmix convert auto IN OUT'):
        load_pretrained(network(), str(tmp_path / 'x.pth'), '', 'init_cfg.checkpoint', strict=False)


class Detector(nn.Module):
    """A model of another toolbox."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.neck = network(), nn.Linear(2, 2)


def test_nothing_that_fits_is_an_error_in_a_plain_script(tmp_path: Path):
    state = network().state_dict()
    torch.save({'state_dict': renamed(state, 'encoder_q.')}, path := tmp_path / 'x.pth')
    whole = Classifier(dict(type='ResNet', depth=18, width=4), dict(type='ClassificationHead', num_classes=3))
    for model in (network(), whole):
        with pytest.raises(ValueError, match='0% of the'):
            load_checkpoint(model, str(path))
        with pytest.raises(ValueError, match='0% of the'):
            model.load_state_dict(renamed(state, 'encoder_q.'), strict=False)
        with pytest.raises(ValueError, match='0% of the'):
            nn.ModuleDict(dict(module=model)).load_state_dict(state, strict=False)
    load_checkpoint(own := network(), str(path), revise_keys=[(r'^encoder_q\.', '')])
    assert torch.equal(own.conv1.weight, state['conv1.weight'])


def test_as_a_part_of_another_model_it_guards_its_own_names():
    detector, state = Detector(), network().state_dict()
    with pytest.raises(ValueError, match='0% of the'):
        detector.load_state_dict(renamed(state, 'backbone.module.'), strict=False)
    detector.load_state_dict({'neck.bias': torch.ones(2)}, strict=False)
    detector.load_state_dict(renamed(state, 'backbone.'), strict=False)
    assert torch.equal(detector.backbone.conv1.weight, state['conv1.weight'])
    assert detector.neck.bias.sum() == 2
