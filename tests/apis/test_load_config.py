"""Configs by path and by name, and every way to misspell something in them."""

from pathlib import Path

import pytest

from unmix.apis import find_config, load_config
from unmix.apis.check_config import check_config, valid_arguments
from unmix.apis.config import config_files
from unmix.models import MoCo

QUICKSTART = 'unmix::quickstart/moco_digits.py'


def test_config_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = find_config(QUICKSTART)
    assert find_config(str(path)) == path
    for name in ('unmix::quickstart/moco_digits', 'quickstart/moco_digits.py', 'quickstart/moco_digits', 'moco_digits'):
        assert find_config(name) == path
    (tmp_path / 'moco_digits').write_text('')
    assert find_config('moco_digits') == Path('moco_digits')
    assert find_config('unmix::moco_digits') == path
    assert load_config(QUICKSTART).model == load_config(str(path)).model


def test_the_name_of_a_config_is_its_own():
    names = [path.name for path in config_files()]
    assert len(names) == len(set(names)) > 100


def test_any_config_becomes_its_unmix_version_by_one_option():
    plain, option = load_config(QUICKSTART), load_config(QUICKSTART, {'model.unmix.type': 'UnMix'})
    assert 'unmix' not in plain.model
    assert option.model.pop('unmix') == dict(type='UnMix')
    assert option.model == plain.model


def test_a_config_of_a_user_inherits_by_name(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{QUICKSTART}'\nmodel = dict(momentum=0.9)\n")
    assert load_config(str(config)).model.momentum == 0.9


@pytest.mark.parametrize(('name', 'message'), [
    ('configs/quickstart/no.py', r'config configs/quickstart/no\.py does not exist'),
    ('unmix::quickstart/moco_digit.py', r'Did you mean unmix::quickstart/moco_digits\.py'),
    ('work/moco_digit.py', r'Did you mean unmix::quickstart/moco_digits\.py'),
])  # fmt: skip
def test_missing_configs(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        find_config(name)


@pytest.mark.parametrize(('options', 'message'), [
    ({'model.momentun': 0.9}, r"model\.momentun: MoCo has no argument 'momentun'. Did you mean momentum"),
    ({'model.unmix.type': 'Unmix'}, r"model\.unmix\.type is 'Unmix', which is not registered. Did you mean UnMix"),
    ({'model.unmix.type': 'UnMix', 'model.unmix.loss_wieght': 1}, r'model\.unmix\.loss_wieght: UnMix has no argument'),
    ({'optim_wrapper.optimizer.lrr': 1}, r"optim_wrapper\.optimizer\.lrr: SGD has no argument 'lrr'. Did you mean lr"),
    ({'train_dataloader.batch_sise': 8}, r'--cfg-options train_dataloader\.batch_sise: .* Did you mean batch_size'),
    ({'modle.momentum': 0.9}, r'--cfg-options modle: the config has no such key. Did you mean model'),
    ({'train_cfg.max_epoch': 2}, r"train_cfg\.max_epoch: TrainLoop has no argument .* Did you mean max_epochs"),
    ({'default_hooks.checkpoint.intervall': 2}, r'CheckpointHook has no argument .* Did you mean interval'),
    ({'default_hooks.chekpoint': 2}, r'default_hooks\.chekpoint: .* Did you mean checkpoint'),
    ({'env_cfg.cudnn_benchmarks': True}, r'env_cfg\.cudnn_benchmarks: .* Did you mean cudnn_benchmark'),
])  # fmt: skip
def test_misspelt_options(options, message):
    with pytest.raises(ValueError, match=message):
        load_config(QUICKSTART, options)


@pytest.mark.parametrize('options', [
    {'model.unmix.type': 'UnMix', 'model.unmix.mixing.type': 'CutMix', 'model.unmix.mixing.alpha': 0.5},
    {'model.unmix.type': 'UnMix', 'model.unmix.mixing.prob': 0.1},
    {'train_dataloader.pin_memory': True},
    {'optim_wrapper.accumulative_counts': 2, 'optim_wrapper.paramwise_cfg.bias_lr_mult': 2.0},
    {'default_hooks.ema.type': 'EMAHook', 'default_hooks.ema.priority': 'LOW'},
    {'randomness.seed': 3, 'load_from': 'x.pth'},
    {'auto_scale_lr.base_batch_size': 256},
])  # fmt: skip
def test_valid_options(options):
    load_config(QUICKSTART, options)


def test_misspelt_keys_in_a_file(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{QUICKSTART}'\noptim_wraper = dict(type='OptimWrapper')\n")
    with pytest.raises(ValueError, match=r'optim_wraper: .* Did you mean optim_wrapper'):
        load_config(str(config))


def test_arguments_handed_on_to_a_base_class_are_known():
    assert {'momentum', 'symmetric', 'unmix', 'data_preprocessor', 'init_cfg'} <= valid_arguments(MoCo)[0]
    check_config(dict(model=dict(type='MoCo', unmix=None)))


def test_data_root_reaches_every_data_set(tmp_path):
    config = tmp_path / 'mine.py'
    text = "data_root = 'data/a'\na = dict(dataset=dict(data_root='data/a'))\nb = [dict(data_root='other')]\n"
    config.write_text(text)
    cfg = load_config(str(config), dict(data_root='/images'))
    assert (cfg.a.dataset.data_root, cfg.b[0].data_root) == ('/images', 'other')


def test_preprocessing_of_the_data_becomes_the_models():
    cfg = load_config(QUICKSTART)
    assert cfg.model.data_preprocessor.type == 'DataPreprocessor'
    assert 'data_preprocessor' not in cfg
    assert Path(cfg.filename).name == 'moco_digits.py'
