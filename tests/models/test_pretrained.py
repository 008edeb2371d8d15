"""What is loaded into a part of a model, and what is not."""

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from torch import nn

from unmix.models.pretrained import load_pretrained
from unmix.utils.matching import check_match


class Part(BaseModule):
    def __init__(self, **init_cfg: object) -> None:
        super().__init__(dict(type='Pretrained', **init_cfg) if init_cfg else None)
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(50))  # 100 tensors


def save(path: Path, *but: str, prefix: str = '', **more: torch.Tensor) -> tuple[str, dict[str, torch.Tensor]]:
    state = {name: tensor for name, tensor in Part().state_dict().items() if name not in but} | more
    torch.save(dict(state_dict={prefix + name: tensor for name, tensor in state.items()}), path)
    return str(path), state


def initialised(**init_cfg: object) -> dict[str, torch.Tensor]:
    part = Part(**init_cfg)
    with DefaultScope.overwrite_default_scope('unmix'):  # the Runner's
        part.init_weights()
    return part.state_dict()


@pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
@pytest.mark.parametrize('wrapper', ['', 'module.'])
def test_init_cfg_loads_all_of_a_part(prefix: str | None, wrapper: str, tmp_path: Path):
    path, state = save(tmp_path / 'a.pth', prefix=wrapper + ('' if prefix is None else 'backbone.'))
    loaded = initialised(checkpoint=path, prefix=prefix)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_one_tensor_in_a_hundred_that_is_missing_or_of_another_shape_is_an_error(tmp_path: Path):
    path, _ = save(tmp_path / 'missing.pth', 'layers.0.bias')
    with pytest.raises(ValueError, match=r'99% of the 100 tensors match; 1 missing: layers\.0\.bias\. .*init_cfg\.str'):
        initialised(checkpoint=path)
    path, _ = save(tmp_path / 'shape.pth', 'layers.0.bias', **{'layers.0.bias': torch.zeros(3)})
    with pytest.raises(ValueError, match=r'1 of another shape: layers\.0\.bias \(3,\) instead of \(2,\)'):
        load_pretrained(Part(), path, '', 'model.pretrained')
    with pytest.raises(
        ValueError, match=r'0% of the 100 tensors match; 100 missing: .*100 not in the model: backbone\.'
    ):
        initialised(checkpoint=save(tmp_path / 'prefix.pth', prefix='backbone.')[0])


def test_what_fits_is_loaded_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture):
    other = {'layers.1.bias': torch.zeros(3), 'head': torch.zeros(1)}
    path, state = save(tmp_path / 'a.pth', 'layers.0.bias', **other)
    loaded = initialised(checkpoint=path, strict=False)
    fitting = state.keys() & loaded.keys() - other.keys()
    assert len(fitting) == 98
    assert all(torch.equal(loaded[name], state[name]) for name in fitting)
    printed = capsys.readouterr()
    assert '98% of the 100 tensors match, the others stay as they are; 1 missing' in printed.out + printed.err


def test_a_file_of_which_nothing_fits_is_refused_even_then(tmp_path: Path):
    with pytest.raises(ValueError, match='0% of the 100 tensors match'):
        initialised(checkpoint=save(tmp_path / 'a.pth', prefix='backbone.')[0], strict=False)


def test_where_a_part_is_not_enough_none_is_offered():
    own = Part().state_dict()
    with pytest.raises(ValueError, match=r'or another checkpoint\.$'):
        check_match(own, dict(list(own.items())[1:]), 'x.pth')
