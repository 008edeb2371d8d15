"""The guard in a real Runner: what it says about a checkpoint, and what it refuses."""

from pathlib import Path

import pytest
import torch
from engine_toy import toy_runner
from mmengine.runner import Runner

from unmix.apis import build_runner, load_config


def load(path: Path, *names: str, **guard: bool) -> Runner:
    torch.save(dict(state_dict={name: torch.zeros(3, 6) for name in names}), path)
    runner = toy_runner(path.parent, load_from=str(path), custom_hooks=[dict(type='LoadGuardHook', **guard)])
    runner.load_or_resume()
    return runner


def test_it_refuses_a_part_and_says_how_to_take_it(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r'50% of the 2 tensors match; 1 missing: layer\.bias\..*LoadGuardHook\.strict'
    ):
        load(tmp_path / 'x.pth', 'layer.weight')


def test_it_says_how_much_matches(tmp_path: Path):
    runner = load(tmp_path / 'x.pth', 'layer.weight', 'other', strict=False)
    assert not runner.model.layer.weight.any()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'the others stay as they are; 1 missing: layer.bias; 1 not in the model: other' in log
    assert f'{tmp_path / "x.pth"}: 50% of the 2 tensors of the model match' in log


@pytest.mark.slow
def test_it_writes_down_the_backbone_and_refuses_one_that_computes_otherwise(tmp_path: Path):
    """Tensors have the same names and shapes for any stride of the stem."""

    def runner(**options: object) -> Runner:
        cfg = load_config('unmix::quickstart/moco_digits', {'work_dir': str(tmp_path), **options})
        return build_runner(cfg)

    first = runner()
    first.save_checkpoint(str(tmp_path), 'x.pth', save_optimizer=False, save_param_scheduler=False)
    written = torch.load(tmp_path / 'x.pth', weights_only=False)['meta']['model']
    assert written['backbone'] == first.cfg.model.backbone.to_dict()
    assert written['data_preprocessor'] == dict(type='DataPreprocessor', mean=[79.88], std=[90.37])
    path = str(tmp_path / 'x.pth')
    runner(load_from=path).load_or_resume()
    with pytest.raises(ValueError, match=r"x\.pth is .* another model: backbone\.stem is \{.*'stride': 2.*'stride': 1"):
        runner(**{'load_from': path, 'model.backbone.stem.stride': 1}).load_or_resume()


@pytest.mark.slow
def test_it_refuses_the_pooling_that_a_config_leaves_out(tmp_path: Path):
    """An evaluation would take the class token of a network that was trained by the mean of its patches."""

    vit = dict(type='TorchVisionBackbone', model_name='VisionTransformer', in_channels=1, img_size=16)
    vit |= dict(model_args=dict(patch_size=4, num_layers=1, num_heads=4, hidden_dim=64, mlp_dim=128))

    def runner(load_from: str | None = None, **pool: str) -> Runner:
        backbone = dict(_delete_=True, **vit, **pool)
        config = tmp_path / 'vit.py'
        config.write_text(f'_base_ = "unmix::quickstart/moco_digits.py"\nmodel = dict(backbone={backbone})')
        return build_runner(load_config(str(config), dict(work_dir=str(tmp_path), load_from=load_from)))

    runner(pool='mean').save_checkpoint(str(tmp_path), 'x.pth', save_optimizer=False, save_param_scheduler=False)
    path = str(tmp_path / 'x.pth')
    runner(path, pool='mean').load_or_resume()
    with pytest.raises(ValueError, match=r'backbone\.pool is mean there and None \(the default\) here'):
        runner(path).load_or_resume()
