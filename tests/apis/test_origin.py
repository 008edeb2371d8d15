"""Where the values of a config come from."""

from unmix.config import config_root, load_config
from unmix.config.origin import Place, origins

BASE = """width, depth = 16, 8
rate = 0.1
shared = dict(type='ResNet', depth=depth)
model = dict(
    type='SimCLR',
    backbone=dict(shared, width=width),
    head=dict(type='NTXentHead'),
)
data_preprocessor = dict(
    mean=[1.0],
    std=[2.0])
schedule = dict(optimizer=dict(type='SGD', lr=rate))
custom_hooks = [
    dict(type='ReportHook'),
    dict(type='LoadGuardHook')]
"""
CHILD = """_base_ = ['base.py']
model = dict(
    head=dict(
        temperature=0.2))
schedule = dict(optimizer=dict(lr=0.5, momentum=0.9))
"""


def test_each_value_has_its_line_and_what_it_overrides(tmp_path):
    base, child = tmp_path / 'base.py', tmp_path / 'child.py'
    base.write_text(BASE)
    child.write_text(CHILD)
    options = {'schedule.optimizer.momentum': 0.8}
    found = origins(load_config(str(child), options))
    wanted = {
        'width': (16, [Place(base, 1)]),
        'model.type': ('SimCLR', [Place(base, 5)]),
        'model.backbone.width': (16, [Place(base, 6)]),
        'model.backbone.depth': (8, [Place(base, 6)]),  # part of an expression
        'model.head.type': ('NTXentHead', [Place(base, 7)]),
        'model.head.temperature': (0.2, [Place(child, 4)]),
        'model.data_preprocessor.std': ([2.0], [Place(base, 11)]),
        'schedule.optimizer.lr': (0.5, [Place(child, 5), Place(base, 12)]),
        'schedule.optimizer.momentum': (0.8, ['--cfg-options', Place(child, 5)]),
        'custom_hooks.1.type': ('LoadGuardHook', [Place(base, 15)]),
    }
    assert {key: found[key] for key in wanted} == wanted


def test_all_of_a_recipe_is_found():
    found = origins(load_config('quickstart/unmix-cmc_digits'))
    assert all(places != ['filled in'] for key, (_, places) in found.items() if not key.startswith('_'))
    value, places = found['model.unmix.mixing.prob']
    assert value == 0.0
    assert [place.file.name for place in places] == ['unmix-cmc_digits.py']


def test_the_base_for_accelerators(tmp_path):
    base, name = 'unmix::_base_/accelerator.py', 'unmix::quickstart/unmix-moco_digits.py'
    file = config_root() / '_base_' / 'accelerator.py'
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = ['{name}', '{base}']\n")
    options = {'_base_': base}
    for found in (origins(load_config(str(config))), origins(load_config(name, options))):
        value, places = found['env_cfg.cudnn_benchmark']
        assert value is True
        assert [place.file.name for place in places] == ['accelerator.py', 'default_runtime.py']
        assert 'cudnn_benchmark=True' in file.read_text().splitlines()[places[0].line - 1]
        assert found['model.backbone.channels_last'][1][0].file.samefile(file)
        assert found['env_cfg.dist_cfg.timeout'][1][0].file.name == 'default_runtime.py'
