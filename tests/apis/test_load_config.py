"""Configs by path and by name, and every way to misspell something in them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import DictAction
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from unmix.apis import find_config, load_config
from unmix.apis.command import argument_parser
from unmix.apis.train import train
from unmix.config import config_files
from unmix.config.check import arguments, check_config
from unmix.models import MoCo

QUICKSTART = 'unmix::quickstart/moco_digits.py'


@pytest.mark.slow
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


@pytest.mark.slow
def test_any_config_becomes_its_unmix_version_by_one_option():
    plain, option = load_config(QUICKSTART), load_config(QUICKSTART, {'model.unmix.type': 'UnMix'})
    assert 'unmix' not in plain.model
    assert option.model.pop('unmix') == dict(type='UnMix')
    assert option.model == plain.model


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(('text', 'message'), [
    ("optim_wrapper = dict(optimizer=dict(lr='0.03'))",
     r"optim_wrapper\.optimizer\.lr is '0\.03' \(str\); SGD expects a number, 0\.03 without quotes"),
    ('model = dict(momentum=(0, 2))', r'model\.momentum is \(0, 2\) \(tuple\); .* a number'),
    ('model = dict(head=None)', r"model\.head is None .*; MoCo expects a dict, such as dict\(type='\.\.\.'\)"),
    ('model = dict(backbone=18)', r'model\.backbone is 18 \(int\); MoCo expects a dict'),
    ("model = dict(neck=dict(norm='BN'))", r"model\.neck\.norm is 'BN' \(str\); MLPNeck expects True or False"),
    ("train_cfg = dict(max_epochs='ten')", r"train_cfg\.max_epochs is 'ten' \(str\); TrainLoop expects a whole number"),
    ('train_cfg = dict(max_epochs=1.5)', r'train_cfg\.max_epochs is 1\.5 \(float\); TrainLoop expects a whole number'),
    ("train_dataloader = dict(batch_size='64')", r"train_dataloader\.batch_size is '64' \(str\); .* 64 without quotes"),
    ('train_dataloader = dict(batch_size=0)', r'train_dataloader\.batch_size is 0; expected a whole number from 1'),
    ('train_dataloader = dict(_delete_=True, dataset=5)', r'train_dataloader\.dataset is 5 \(int\); expected a dict'),
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


def test_a_config_without_a_model_has_its_data(tmp_path):
    """Also with normalisation beside the model."""
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{QUICKSTART}'\nmodel, data_preprocessor = None, dict(mean=[1.0], std=[2.0])\n")
    assert load_config(str(config)).model is None


def test_a_base_that_does_not_exist(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'unmix::quickstart/moco_digit.py'\n")
    with pytest.raises(FileNotFoundError, match=r'mine\.py: its _base_ .* Did you mean unmix::quickstart/moco_digits'):
        load_config(str(config))


def test_a_base_of_a_checkout_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.config.config.get_installed_path', lambda _: str(tmp_path / 'unmix'))
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'unmix::quickstart/moco_digits.py'\n")
    with pytest.raises(FileNotFoundError, match=rf'unmix:: in its _base_ .* Run "pip install -e \." in {tmp_path}\.$'):
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def options(*words: str) -> dict[str, Any]:
    return argument_parser(None).parse_args([QUICKSTART, '--cfg-options', *words]).cfg_options


# The forms of MMEngine's documentation and of DictAction's docstrings.
DOCUMENTED = (
    *('1', '1.5', 'text', 'None', 'true', 'False', '1,2,3', '[a,b,c]', '(1,2)', '[(1,2),(3,4)]', '1e-3', '-1'),
    *("['a','b']", '["a"]', '"[1,2]"', "('a','b')", '1,[2,3]', '(1)', '(1,)', '[]', '()', '1,2,', 's3://x/y'),
    *('a(1).pth', '[(1, 2, 3), [a, b], c]', '[-1,+2]', "'1'", 'a=b', ''),
)  # fmt: skip


@pytest.mark.parametrize('text', DOCUMENTED)
def test_values_of_options_are_those_of_mmengine(text):
    expected = DictAction._parse_iterable(text)
    found = options(f'a={text}')['a']
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(('text', 'value'), [  # MMEngine: garbage, or an endless recursion
    ("dict(type='SGD', lr=0.1)", dict(type='SGD', lr=0.1)),
    ('dict(type=SGD,betas=(0.9,0.99))', dict(type='SGD', betas=(0.9, 0.99))),
    ("{'type': 'SGD', 'a': [1, {b: None}]}", dict(type='SGD', a=[1, dict(b=None)])),
    ("[dict(type='A'), dict(b={'c': '1'})]", [dict(type='A'), dict(b=dict(c='1'))]),
    ('dict()', {}),
    ('{}', {}),
    ('(a),(b)', [('a',), ('b',)]),
    ('/my images/x.pth', '/my images/x.pth'),
    ("['a b', c d]", ['a b', 'c d']),
    ("'a,b'", 'a,b'),
    ("['a,b', 'c]']", ['a,b', 'c]']),
    ("it's", "it's"),
    ('a=b=c', 'a=b=c'),
])  # fmt: skip
def test_values_of_options_beyond_mmengine(text, value):
    assert options(f'a.b={text}') == {'a.b': value}


@pytest.mark.parametrize(('word', 'message'), [
    ('a=[1', r"--cfg-options a=\[1: '?\]'? is missing in '\[1'\. .*\"a=\[1, 2\]\""),
    ('a=(1,[2,3)]', "closes no bracket"),
    ("a=['b]", 'is missing'),
    ('a=dict(b)', r"'b' is no pair KEY=VALUE of a dict"),
    ('a={b}', r"'b' is no pair KEY:VALUE of a dict"),
    ('a', 'expected KEY=VALUE'),
    ('=1', 'expected KEY=VALUE'),
    ('a..b=1', 'expected KEY=VALUE'),
    ('a.=1', 'expected KEY=VALUE'),
])  # fmt: skip
def test_words_that_are_no_option(word, message):
    with pytest.raises(ValueError, match=message):
        options(word)


@pytest.mark.parametrize(('words', 'path', 'value'), [
    (['custom_hooks.0.strict=False'], 'custom_hooks.0.strict', False),
    (['custom_hooks.0._delete_=True', 'custom_hooks.0.type=InstanceHook'], 'custom_hooks.0', dict(type='InstanceHook')),
    (["custom_hooks.2=dict(name='x')"], 'custom_hooks.2', dict(type='ReportHook', name='x')),
    (["custom_hooks.1=dict(type='ReportHook', _delete_=True)"], 'custom_hooks.1', dict(type='ReportHook')),
    (['model.head.type=CosineHead', 'model.head._delete_=True'], 'model.head', dict(type='CosineHead')),
    (['model.unmix=None'], 'model.unmix', None),
    (['load_from=None'], 'load_from', None),
    (['optim_wrapper.clip_grad=None', 'optim_wrapper.clip_grad.max_norm=1'], 'optim_wrapper.clip_grad.max_norm', 1),
    (["optim_wrapper.optimizer=dict(type='SGD', lr=0.5, _delete_=True)"], 'optim_wrapper.optimizer',
     dict(type='SGD', lr=0.5)),
    (["visualizer.vis_backends=[dict(type='PatientVisBackend')]"], 'visualizer.vis_backends',
     [dict(type='PatientVisBackend')]),
])  # fmt: skip
def test_options_reach_their_place(words, path, value):
    found = load_config(QUICKSTART, options(*words))
    for part in path.split('.'):
        found = found[int(part)] if part.isdigit() else found[part]
    assert found == value


@pytest.mark.parametrize(('word', 'message'), [
    ('custom_hooks.9.strict=1', r"--cfg-options custom_hooks\.9\.strict: custom_hooks has 3 item.*no '9'"),
    ('param_scheduler.-1.type=CosineLR', r"param_scheduler has 1 item\(s\), numbered from 0, and no '-1'"),
    ('model.momentum.x=3', r'--cfg-options model\.momentum\.x: model\.momentum is 0\.95 \(float\), which'),
    ('train_dataloader.dataset.pipeline.transforms.0.scale.1=0.5', r'scale is \(.*\) \(tuple\), which has no entries'),
    ('train_cfg=3', r'train_cfg is 3 \(int\); expected a dict'),
    ('model.head=InfoNCEHead', r"model\.head is 'InfoNCEHead' \(str\); expected a dict: model\.head\.type="),
    ('custom_hooks.0=3', r'custom_hooks is \[3, .*expected a list of dicts'),
    ('visualizer.vis_backends=PatientVisBackend', r'visualizer\.vis_backends is .*a list of dicts: .*0\.type='),
    ('visualizer.vis_backends=[PatientVisBackend]', r'visualizer\.vis_backends is .*expected a list of dicts'),
])  # fmt: skip
def test_options_of_another_shape(word, message):
    with pytest.raises(ValueError, match=message):
        load_config(QUICKSTART, options(word))


@pytest.mark.slow
@pytest.mark.parametrize(('text', 'message'), [
    ('visualizer = dict(vis_backends=["PatientVisBackend"])', r'visualizer\.vis_backends is .* a list of dicts'),
    ("custom_hooks = dict(type='ReportHook')", r'cannot be read: TypeError: custom_hooks='),
    ('model = 3', r'model is 3 \(int\); expected a dict'),
    ('x = 1 / 0', r'mine\.py, or one of its _base_, cannot be read: ZeroDivisionError: division by zero'),
    ('x = nowhere', r"cannot be read: NameError: name 'nowhere' is not defined"),
    ('model = dict(momentum=dict(x=1))', r'cannot be read: TypeError: momentum=.*_delete_=True'),
])  # fmt: skip
def test_more_mistakes_in_a_file(tmp_path, text, message):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{QUICKSTART}'\n{text}\n", encoding='utf-8')
    with pytest.raises(ValueError, match=message):
        load_config(str(config))


@pytest.mark.slow
def test_a_config_that_inherits_from_itself(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mine.py'\n", encoding='utf-8')
    with pytest.raises(ValueError, match='lead back to a file'):
        load_config(str(tmp_path / 'mine.py'))


READ_BASE = 'from mmengine.config import read_base\nwith read_base():\n    '


@pytest.mark.parametrize('text', [
    f'{READ_BASE}from .recipe import *\n',
    f'{READ_BASE}from unmix.configs.quickstart.moco_digits import *\n',
    f'{READ_BASE}import recipe\n',
    f'{READ_BASE}from . import recipe\n',
    f"_base_ = '{QUICKSTART}'\n{READ_BASE}from .recipe import *\n",
    f"from unmix.models import MoCo\n_base_ = '{QUICKSTART}'\nmodel = dict(type=MoCo)\n",
    "_base_ = 'lazy.py'\n",
])  # fmt: skip
def test_styles_of_configs_that_do_not_mix_say_how_to_inherit(tmp_path, text):
    (tmp_path / 'recipe.py').write_text(f"_base_ = '{QUICKSTART}'\n", encoding='utf-8')
    (tmp_path / 'lazy.py').write_text('from unmix.models import MoCo\nmodel = dict(type=MoCo)\n', encoding='utf-8')
    (tmp_path / 'mine.py').write_text(text, encoding='utf-8')
    with pytest.raises(
        ValueError, match=r"mine\.py.* inherit from them by _base_ = 'unmix::METHOD/NAME\.py'"
    ) as caught:
        load_config(str(tmp_path / 'mine.py'))
    assert '\n' not in str(caught.value)


def test_configs_with_read_base_inherit_from_their_own_style(tmp_path):
    lazy = 'from unmix.models import MoCo, ResNet\nmodel = dict(type=MoCo, backbone=dict(type=ResNet, depth=18))\n'
    (tmp_path / 'lazy.py').write_text(lazy, encoding='utf-8')
    text = f'{READ_BASE}from .lazy import *\nmodel.update(momentum=0.5)\n'
    (tmp_path / 'mine.py').write_text(text, encoding='utf-8')
    cfg = load_config(str(tmp_path / 'mine.py'), {'model.backbone.depth': 34})
    assert (cfg.model.type, cfg.model.momentum, cfg.model.backbone.depth) == (MoCo, 0.5, 34)


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['.yaml', '.yml', '.json'])
def test_configs_that_mmengine_has_written_as_data(tmp_path, suffix):
    cfg = load_config(QUICKSTART)
    cfg.dump(str(tmp_path / f'dumped{suffix}'))
    found = load_config(str(tmp_path / f'dumped{suffix}')).to_dict()
    assert found == (cfg.to_dict() if suffix != '.json' else json.loads(json.dumps(cfg.to_dict())))


@pytest.mark.parametrize(('name', 'text'), [
    ('c.yaml', 'model: {payload}'),
    ('c.yml', 'a: [{{b: {payload}}}]'),
    ('c.yaml', '_base_: base.yaml'),
    ('c.json', '{{"_base_": ["base.yaml"]}}'),
    ('c.py', "_base_ = 'base.yaml'"),
])  # fmt: skip
@pytest.mark.parametrize(
    'tag', ['object/apply:os.system ["touch {}"]', 'object/new:os.system ["touch {}"]', 'name:os.system ""']
)
def test_yaml_executes_nothing(tmp_path, name, text, tag):
    payload = f'!!python/{tag.format(tmp_path / "witness")}'
    (tmp_path / 'base.yaml').write_text(f'x: {payload}', encoding='utf-8')
    (tmp_path / name).write_text(text.format(payload=payload), encoding='utf-8')
    with pytest.raises(ValueError, match=rf'{name}.* could not determine a constructor for the tag .* read as data'):
        load_config(str(tmp_path / name))
    assert not (tmp_path / 'witness').exists()


@pytest.mark.parametrize(('name', 'content'), [
    ('c.yaml', b''), ('c.yaml', b'[1]'), ('c.yaml', b'a: ['), ('c.json', b'{'), ('c.json', b'[1]'), ('c.txt', b'x = 1'),
    ('c.py', b"x='\xe4'"), ('c.yaml', b'x: \xe4'), ('c.py', b'with open("x"):\n    pass'),
])  # fmt: skip
def test_files_that_are_no_config(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{name}, or one of its _base_, cannot be read: \w+: '):
        load_config(str(tmp_path / name))


ADAMW = (
    'optim_wrapper.optimizer._delete_=True',
    'optim_wrapper.optimizer.type=AdamW',
    'optim_wrapper.optimizer.lr=0.1',
)


@pytest.mark.parametrize(('words', 'message'), [
    (['auto_scale_lr.enable=True'], r'auto_scale_lr\.base_batch_size is missing.* auto_scale_lr\.base_batch_size=256'),
    (['auto_scale_lr.enable=True', 'auto_scale_lr.base_batch_size=0'], r'base_batch_size is 0; expected'),
    ([*ADAMW, 'optim_wrapper.paramwise_cfg.bias_decay_mult=0.'],
     r'paramwise_cfg\.bias_decay_mult multiplies .*optim_wrapper\.optimizer\.weight_decay=0\.01'),
    ([*ADAMW, "optim_wrapper.paramwise_cfg.custom_keys.head.decay_mult=0."], r"keys\.head\.decay_mult multiplies"),
    (['visualizer.vis_backends.0.type=WandbVisBackend'],
     r'visualizer\.vis_backends\.0\.type is WandbVisBackend, which needs the package wandb: pip install .unmix.wandb'),
])  # fmt: skip
def test_values_that_do_not_go_together(monkeypatch, words, message):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ValueError, match=message):
        load_config(QUICKSTART, options(*words))


@pytest.mark.parametrize('words', [
    [*ADAMW, 'optim_wrapper.paramwise_cfg.bias_decay_mult=0.', 'optim_wrapper.optimizer.weight_decay=0.01'],
    ['auto_scale_lr.enable=True', 'auto_scale_lr.base_batch_size=256'],
    ['auto_scale_lr.enable=False'],
    ["visualizer.vis_backends=[dict(type='PatientVisBackend')]"],
])  # fmt: skip
def test_the_advice_on_them_works(words):
    load_config(QUICKSTART, options(*words))


def test_without_workers_nothing_is_left_that_is_for_workers_only():
    words = options('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=True',
                    'train_dataloader.prefetch_factor=4')  # fmt: skip
    with pytest.warns(UserWarning, match=r'persistent_workers and train_dataloader\.prefetch_factor has'):
        cfg = load_config(QUICKSTART, words)
    assert not {'persistent_workers', 'prefetch_factor'} & cfg.train_dataloader.keys()


ACCELERATOR = 'unmix::_base_/accelerator.py'


def test_the_base_for_accelerators_in_a_file_and_as_an_option(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = ['{QUICKSTART}', '{ACCELERATOR}']\n")
    cfg, plain = load_config(str(config)), load_config(QUICKSTART)
    assert cfg.env_cfg == plain.env_cfg | dict(cudnn_benchmark=True, matmul_precision='high')
    assert cfg.model == plain.model | dict(backbone=plain.model.backbone | dict(channels_last=True))
    assert cfg.keys() == plain.keys()
    assert load_config(QUICKSTART, {'_base_': ACCELERATOR})._cfg_dict == cfg._cfg_dict


def test_options_come_after_the_base_for_accelerators(tmp_path):
    options = {'env_cfg.matmul_precision': 'highest', '_base_': ACCELERATOR, 'model.backbone.channels_last': 4}
    cfg = load_config(QUICKSTART, options)
    assert (cfg.env_cfg.matmul_precision, cfg.env_cfg.cudnn_benchmark) == ('highest', True)
    assert cfg.model.backbone.channels_last == 4
    assert '_base_' in options
    config = tmp_path / 'mine.py'
    config.write_text(
        f"_base_ = ['{QUICKSTART}', '{ACCELERATOR}']\naccelerator = dict(env_cfg=dict(matmul_precision='medium'))\n"
    )
    assert load_config(str(config)).env_cfg.matmul_precision == 'medium'


def test_several_bases_as_an_option(tmp_path):
    (tmp_path / 'more.py').write_text("train_cfg = dict(max_epochs=7)\nstrategy = dict(type='FSDPStrategy')\n")
    cfg = load_config(QUICKSTART, {'_base_': [ACCELERATOR, str(tmp_path / 'more.py')]})
    assert (cfg.env_cfg.cudnn_benchmark, cfg.train_cfg.max_epochs, cfg.train_cfg.type) == (True, 7, 'TrainLoop')


@pytest.mark.parametrize(('options', 'error', 'message'), [
    ({'_base_': 'unmix::_base_/acelerator.py'}, FileNotFoundError, r'_base_/acelerator\.py does not exist'),
    ({'_base_': 3}, ValueError, r'--cfg-options _base_ is 3; expected the path or name of a config'),
    ({'_base_': [None]}, ValueError, r'--cfg-options _base_ is \[None\]; expected the path or name of a config'),
    ({'compile': True, '_base_': 'unmix::_base_/fsdp.py'}, ValueError, 'strategy and compile'),
    ({'compile': 'default'}, ValueError, r"compile is 'default' \(str\); expected True, False, or a dict"),
    ({'env_cfg.matmul_precision': 'tf32'}, ValueError, "it is one of 'highest', 'high', 'medium'"),
])  # fmt: skip
def test_bases_and_settings_for_speed_that_are_refused(options, error, message):
    import unmix.engine.sharding  # noqa: F401

    with pytest.raises(error, match=message):
        load_config(QUICKSTART, options)


def test_a_file_whose_accelerator_is_no_dict(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{QUICKSTART}'\naccelerator = 'cuda'\n")
    with pytest.raises(ValueError, match="accelerator is 'cuda'; expected a dict"):
        load_config(str(config))


def test_a_training_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'moco_digits.* has no model\. Set one'):
        train([QUICKSTART, '--work-dir', str(tmp_path / 'run'), '--cfg-options', 'model=None'])
    assert not (tmp_path / 'run').exists()
