"""Configs by path and by name, and every way to misspell something in them."""

from pathlib import Path

import pytest
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from unmix.apis import find_config, load_config
from unmix.apis.command import argument_parser
from unmix.config import config_files
from unmix.config.check import arguments, check_config
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
    assert {'momentum', 'symmetric', 'unmix', 'data_preprocessor', 'init_cfg'} <= arguments(MoCo)[0].keys()
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


@pytest.mark.parametrize(('text', 'message'), [
    ("optim_wrapper = dict(optimizer=dict(lr='0.03'))",
     r"optim_wrapper\.optimizer\.lr is '0\.03' \(str\); SGD expects a number, 0\.03 without quotes"),
    ('model = dict(momentum=(0, 2))', r'model\.momentum is \(0, 2\) \(tuple\); .* a number'),
    ("model = dict(neck=dict(norm='BN'))", r"model\.neck\.norm is 'BN' \(str\); MLPNeck expects True or False"),
    ("train_cfg = dict(max_epochs='ten')", r"train_cfg\.max_epochs is 'ten' \(str\); TrainLoop expects a whole number"),
    ('train_cfg = dict(max_epochs=1.5)', r'train_cfg\.max_epochs is 1\.5 \(float\); TrainLoop expects a whole number'),
    ("train_dataloader = dict(batch_size='64')", r"train_dataloader\.batch_size is '64' \(str\); .* 64 without quotes"),
    ('train_dataloader = dict(batch_sise=64)', r"train_dataloader\.batch_sise: .* Did you mean batch_size"),
    ('train_dataloader = dict(_delete_=True, batch_size=4)', r'train_dataloader\.dataset is missing'),
    ('model = dict(head=dict(_delete_=True, dim=8))', r'model\.head has no type, only the keys dim'),
    ('custom_hooks = [dict(strict=False)]', r'custom_hooks\.0 has no type'),
    ("optim_wrapper = dict(optimizer=dict(type='Sdg'))", r"type is 'Sdg', .* Did you mean SGD"),
    ('val_evaluator = None', r'has val_dataloader and val_cfg, but not val_evaluator'),
    ("custom_imports = dict(imports=['nowhere'])", r"mine\.py: its custom_imports failed: No module named 'nowhere'"),
    ('model = dict(', r'mine\.py, or one of its _base_, is no valid Python: line 2: .* model = dict\('),
])  # fmt: skip
def test_mistakes_in_a_file(tmp_path, text, message):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{QUICKSTART}'\n{text}\n")
    with pytest.raises(ValueError, match=message):
        load_config(str(config))


def test_a_base_that_does_not_exist(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'unmix::quickstart/moco_digit.py'\n")
    with pytest.raises(FileNotFoundError, match=r'mine\.py: its _base_ .* Did you mean unmix::quickstart/moco_digits'):
        load_config(str(config))


@pytest.mark.parametrize(('options', 'message'), [
    ({'max_epochs': 3}, r'--cfg-options max_epochs: .* has no effect. Set where it was used: train_cfg\.max_epochs$'),
    ({'knn.k': 3}, r'--cfg-options knn\.k: .* Set where it was used: val_evaluator\.0\.k test_evaluator\.0\.k$'),
    ({'data_root': 'images'}, r'data_root=images: of the data sets in the config none is at its data_root'),
])  # fmt: skip
def test_options_without_effect(options, message):
    with pytest.raises(ValueError, match=message):
        load_config(QUICKSTART, options)


def test_words_that_are_no_options():
    parser = argument_parser('')
    assert parser.parse_args(['x', '--cfg-options', 'a=[1, 2]', 'b.c=d=e']).cfg_options == {'a': [1, 2], 'b.c': 'd=e'}
    for word in ('model.momentum', '=3'):
        with pytest.raises(ValueError, match=f'--cfg-options {word}: expected KEY=VALUE'):
            parser.parse_args(['x', '--cfg-options', 'a=1', word])


def test_loaders_without_sampler_and_collate_fn(tmp_path):
    config = tmp_path / 'mine.py'
    loader = "dict(batch_size=8, num_workers=0, dataset=dict(type='Digits', split='{}', pipeline={}))"
    views = "dict(type='MultiView', num_views=2, transforms=[dict(type='RandomResizedCrop', size=16)])"
    config.write_text(
        f"train_dataloader = {loader.format('train', views)}\ntrain_cfg = dict(type='TrainLoop', max_epochs=1)\n"
        f"optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\ntest_dataloader = {loader.format('test', None)}\n"
        f"bank = {loader.format('train', None)}\ntest_cfg = dict(type='FeatureLoop', bank_dataloader=bank)\n"
        "test_evaluator = dict(type='KNN')\ndefault_scope = 'unmix'\n"
    )
    cfg = load_config(str(config))
    configs = (cfg.train_dataloader, cfg.test_dataloader, cfg.test_cfg.bank_dataloader)
    with DefaultScope.overwrite_default_scope('unmix'):
        train, test, bank = (Runner.build_dataloader(loader, seed=0) for loader in configs)
    batch = next(iter(train))
    assert [view.shape for view in batch['inputs']] == [(8, 1, 16, 16)] * 2
    assert batch['index'].tolist() != list(range(8))
    for loader in (test, bank):
        assert next(iter(loader))['index'].tolist() == list(range(8))


@pytest.mark.parametrize('options', [
    {'train_dataloader.num_batch_per_epoch': 2, 'train_dataloader.disable_subprocess_warning': True},
    {'val_cfg.bank_dataloader.num_batch_per_epoch': 1},
    {'train_dataloader.worker_init_fn': dict(type='collate')},
    {'train_dataloader.collate_fn.type': 'pseudo_collate'},
    {'train_dataloader.batch_sampler': dict(type='torch.utils.data.BatchSampler', drop_last=True)},
    {'env_cfg.resource_limit': 8192, 'env_cfg.dist_cfg.timeout': 1800, 'env_cfg.dist_cfg.port': 1},
    {'env_cfg.mp_cfg.mp_start_method': 'spawn'},
    {'randomness.deterministic': True, 'randomness.diff_rank_seed': True},
    {'log_processor.num_digits': 3, 'log_processor.custom_cfg': [dict(data_src='loss', method_name='mean')]},
    {'find_unused_parameters': True, 'sync_bn': 'torch', 'init_weights_for_test_or_val': True},
    {'model_wrapper_cfg': dict(type='MMDistributedDataParallel', find_unused_parameters=True)},
    {'model_wrapper_cfg.broadcast_buffers': True},
    {'activation_checkpointing': ['backbone'], 'efficient_conv_bn_eval': ['backbone']},
    {'compile.mode': 'default', 'compile.target': 'forward'},
    {'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor', 'optim_wrapper.paramwise_cfg.norm_decay_mult': 0.0},
    {'optim_wrapper.clip_grad': dict(type='value', clip_value=1.0)},
    {'visualizer.vis_backends': [dict(type='TensorboardVisBackend', name='tb')], 'visualizer.name': 'x'},
    {'model.init_cfg': dict(type='Constant', layer='Conv2d', val=0.0, override=dict(type='Normal', name='fc'))},
    {'param_scheduler.0.convert_to_iter_based': True},
    {'train_cfg': dict(_delete_=True, by_epoch=True, max_epochs=3, dynamic_intervals=[(2, 1)])},
    {'val_cfg': dict(_delete_=True, fp16=True)},
    {'custom_imports.imports': ['json'], 'custom_imports.allow_failed_imports': False},
    {'model.backbone.stem.bias': True},
])  # fmt: skip
def test_every_key_that_mmengine_takes_out_before_it_calls_a_type(options):
    load_config(QUICKSTART, options)


@pytest.mark.parametrize(('line', 'message'), [
    ("val_evaluator = dict(_delete_=True, metrics=[dict(type='Accuracy')])", None),
    ("param_scheduler = dict(_delete_=True, a=[dict(type='CosineLR')], b=[dict(type='CosineLR')])", None),
    ("optim_wrapper = dict(_delete_=True, optimizer=dict(type='SGD', lr=1.0))", None),
    ('log_processor = dict(window_sise=1)', r'log_processor\.window_sise: .* Did you mean window_size'),
    ('env_cfg = dict(mp_cfg=dict(start_method=1))', r'env_cfg\.mp_cfg\.start_method: .* Did you mean mp_start_method'),
    ("aug = [dict(type='Normalize', mean=[0.5], std=[1.0])]\ntrain_dataloader = dict(dataset=dict(pipeline=dict("
     "type='MultiView', transforms=aug)))", r'transforms\.0 normalises the images, and data_preprocessor\.mean'),
    ("train_dataloader = dict(dataset=dict(pipeline=dict(type='MultiView', transforms=[], mean=9.0, std=1.0)))",
     r'Take one of them out: train_dataloader\.dataset\.pipeline\.mean and std'),
])  # fmt: skip
def test_dicts_of_a_config_file(tmp_path, line, message):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{QUICKSTART}'\n{line}\n")
    if message is None:
        load_config(str(config))
    else:
        with pytest.raises(ValueError, match=message):
            load_config(str(config))
