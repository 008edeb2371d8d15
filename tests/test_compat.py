"""Runs that resume, package look-up and config names: the same on every MMEngine distribution."""

import importlib
import inspect
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mmengine
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader, Runner

import unmix
import unmix.registry
from unmix import compat


def test_one_distribution_of_each_file_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        compat.warn_if_overwritten()


def distribution(folder: Path, name: str, top_level: str = '') -> None:
    info = folder / f'{name.replace("-", "_")}-9.9.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n')
    (info / 'top_level.txt').write_text(top_level)


def test_two_distributions_of_the_same_files_are_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ('mmengine', 'onedl-mmengine', 'mmcv-lite', 'onedl-mmcv'):
        distribution(tmp_path, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match='overwrites') as caught:
        compat.warn_if_overwritten()
    texts = [str(one.message) for one in caught]
    assert [text.partition(' are installed together')[0] for text in texts] == [
        'mmengine and onedl-mmengine',
        'mmcv-lite and onedl-mmcv',
    ]
    assert all('pip uninstall -y mmengine onedl-mmengine mmcv mmcv-lite onedl-mmcv' in text for text in texts)


def test_packages_are_found_without_pkg_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A distribution may have another name than what it is imported by.
    (tmp_path / 'mmsomething').mkdir()
    (tmp_path / 'mmsomething' / '__init__.py').touch()
    distribution(tmp_path, 'mm-some-thing', 'mmsomething\n')
    (tmp_path / 'mmspace').mkdir()  # a namespace package
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)  # importing it now raises
    utils = mmengine.utils  # its names are looked up here: what was imported from it before unmix stays as it was
    there = ('torch', 'torch.nn', 'os', 'sys', 'mm-some-thing', 'mmsomething', 'numpy>=1.20', 'numpy >= 1, < 99')
    there = (*there, 'torch[opt]>=2', 'MM_Some.Thing==9.9', 'numpy; python_version > "3"', 'mm-some-thing~=9.0')
    assert {name: utils.is_installed(name) for name in there} == dict.fromkeys(there, True)
    absent = (
        'no_such_package',
        'no-such-package',
        'no_such_package.part',
        'torch.no_such',
        'numpy>=99',
        'a b',
        '',
        '.',
    )
    absent = (*absent, 'mmspace', 'mm-some-thing<9', 'no-such>=1')
    assert {name: utils.is_installed(name) for name in absent} == dict.fromkeys(absent, False)
    assert utils.get_installed_path('unmix') == str(Path(unmix.__file__).parent)
    assert utils.get_installed_path('torch.nn') == str(Path(torch.nn.__file__).parent)
    for name in ('mm-some-thing', 'mmsomething', 'mm-some-thing>=9'):
        assert utils.get_installed_path(name) == str(tmp_path / 'mmsomething')
    with pytest.raises(ModuleNotFoundError, match='pip install no-such-package'):
        utils.get_installed_path('no-such-package')
    for name in ('mmspace', 'sys'):
        with pytest.raises(RuntimeError, match='has no folder of its own'):
            utils.get_installed_path(name)


def test_packages_are_looked_up_by_mmengine_where_it_can(monkeypatch: pytest.MonkeyPatch):
    """So nothing is taken away from others; both modules import the functions by name."""
    for module in (mmengine.hub.hub, mmengine.config.config, mmengine.utils):
        assert module.get_installed_path is mmengine.utils.package_utils.get_installed_path

    class DistributionNotFound(Exception):
        pass

    def get_distribution(name: str) -> SimpleNamespace:
        if name != 'theirs':
            raise DistributionNotFound(name)
        return SimpleNamespace(location='/somewhere', has_metadata=lambda _: True, get_metadata=lambda _: 'module\n')

    fake = ModuleType('pkg_resources')
    vars(fake).update(get_distribution=get_distribution, DistributionNotFound=DistributionNotFound)
    monkeypatch.setitem(sys.modules, 'pkg_resources', fake)
    monkeypatch.setattr(importlib, 'reload', lambda module: module)
    if 'pkg_resources' in inspect.getsource(mmengine.utils.package_utils.get_installed_path.__wrapped__):
        assert mmengine.utils.is_installed('theirs')
        assert mmengine.utils.get_installed_path('theirs') == '/somewhere/module'
        with pytest.raises(DistributionNotFound):
            mmengine.utils.get_installed_path('unknown')


def test_a_config_can_name_its_base_by_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / 'somewhere'
    base = package / '.mim' / 'configs' / 'moco' / 'base.py'
    base.parent.mkdir(parents=True)
    base.write_text('x = 1\n')
    (package / '__init__.py').touch()
    (package / '.mim' / 'model-index.yml').write_text('Import: []\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(mmengine.config.utils.MODULE2PACKAGE, 'unmix', 'somewhere')
    (tmp_path / 'leaf.py').write_text("_base_ = 'unmix::moco/base.py'\ny = 2\n")
    cfg = Config.fromfile(tmp_path / 'leaf.py')
    assert (cfg.x, cfg.y) == (1, 2)


def test_unmix_is_a_package_that_mmengine_knows():
    assert mmengine.config.utils.MODULE2PACKAGE['unmix'] == 'unmix'


class Line(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> dict[str, torch.Tensor]:
        return {'loss_base': ((self.weight - inputs.mean(0)) ** 2).sum()}


def runner(work_dir: Path, epochs: int, **kwargs: Any) -> Runner:
    return Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.tensor([i, 1.0])) for i in range(4)],
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=2,
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, published_keys=['state_dict'])),
        experiment_name=f'{work_dir.name}{epochs}',
        log_level='ERROR',
        **kwargs,
    )


@pytest.mark.slow
def test_a_run_resumes_from_its_own_checkpoint_and_ends_as_an_uninterrupted_one(tmp_path: Path):
    """The checkpoint of a Runner holds HistoryBuffers; ``published_keys`` makes CheckpointHook load it as well."""
    whole = runner(tmp_path / 'whole', epochs=4)
    whole.train()
    runner(tmp_path / 'halves', epochs=2).train()
    assert 'HistoryBuffer' in repr(
        CheckpointLoader.load_checkpoint(str(tmp_path / 'halves' / 'epoch_2.pth'))['message_hub']
    )
    resumed = runner(tmp_path / 'halves', epochs=4, resume=True)
    resumed.train()
    assert resumed.iter == whole.iter == 8
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert torch.allclose(whole.model.weight, torch.tensor([1.5, 1.0]), atol=1.0)


def test_every_class_that_takes_the_place_of_one_of_mmengine_is_listed():
    found = {}
    for registry in vars(unmix.registry).values():
        if isinstance(registry, Registry) and registry.scope == 'unmix' and registry.parent is not None:
            registry.import_from_location()
            registry.parent.import_from_location()
            for name, theirs in registry.parent.module_dict.items():
                ours = registry.module_dict.get(name)
                if ours is not None and theirs.__module__.startswith('mmengine.'):  # not MMCV's
                    found[name] = f'{ours.__module__}.{ours.__name__}'
    assert found == compat.REPLACED


@pytest.mark.slow
def test_the_changes_are_made_together_with_the_import_of_mmengine():
    """Also if MMEngine was only looked for before, and if a module that takes part in the changes imports it first."""
    script = """
import importlib.util, sys
import unmix
assert importlib.util.find_spec('mmengine').name == 'mmengine'
assert not {'mmengine', 'torch'} & sys.modules.keys()
from unmix.checkpoint.load import load_from_local
from mmengine.runner import CheckpointLoader, save_checkpoint
assert 'unmix::' in CheckpointLoader._schemes
assert save_checkpoint is unmix.compat.save_checkpoint
try:
    CheckpointLoader.load_checkpoint('no_such_file.pth')
except FileNotFoundError as error:
    assert 'give the path of a file that torch.save wrote, or' in str(error)
"""
    subprocess.run([sys.executable, '-c', script], check=True)


@pytest.mark.slow
def test_nothing_but_compat_changes_mmengine():
    """Importing every module of the package leaves MMEngine's registries and modules as ``install`` has made them."""
    script = """
import importlib, pkgutil, sys
import mmengine, mmengine.runner
from mmengine import registry
import unmix

for one in vars(registry).values():
    if isinstance(one, registry.Registry):
        one.import_from_location()

def state():
    modules = {name: module for name, module in sys.modules.items() if name.partition('.')[0] == 'mmengine'}
    found = {(name, key): id(value) for name, module in modules.items() for key, value in vars(module).items()}
    for name, one in vars(registry).items():
        if isinstance(one, registry.Registry):
            found |= {(name, key): id(value) for key, value in one.module_dict.items()}
    classes = {value for module in modules.values() for value in vars(module).values()
               if isinstance(value, type) and value.__module__.startswith('mmengine')}
    for one in classes:
        found |= {(one.__module__, one.__name__, key): id(value) for key, value in vars(one).items()}
    return found

before = state()
for module in pkgutil.walk_packages(unmix.__path__, 'unmix.'):
    if '.mim' not in module.name:
        importlib.import_module(module.name)
after = state()
changed = sorted(key for key in before if before[key] != after.get(key) and not str(key[-1]).startswith('_abc'))
changed += sorted(key for key in after if isinstance(key, tuple) and key[0].isupper() and key not in before)
assert not changed, changed
"""
    subprocess.run([sys.executable, '-c', script], check=True)


def test_the_text_of_a_config_is_formatted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = mmengine.config.config
    theirs, texts = inspect.unwrap(module.FormatCode), []

    def formatted(text: str, **options: Any) -> Any:
        texts.append(text)
        return theirs(text, **options)

    cfg = Config(dict(a=1, b=dict(c=[2, 3])))
    expected = cfg.pretty_text
    monkeypatch.setattr(module, 'FormatCode', formatted)
    compat._remember_formatted_text()
    assert cfg.pretty_text == cfg.pretty_text == expected
    assert len(texts) == 1
    cfg.a = 4
    assert 'a = 4' in cfg.pretty_text
