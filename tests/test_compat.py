"""Runs that resume, package look-up and config names: the same on every MMEngine distribution."""

import sys
import warnings
from pathlib import Path
from typing import Any

import mmengine
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner

import unmix
from unmix import compat


def test_the_flavour_is_that_of_the_installed_distribution():
    """onedl-mmengine answers to the same import name, so only the distributions can tell."""
    assert compat.flavour() in ('official', 'onedl', 'source')
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
    assert compat.flavour() == 'both'
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
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)  # importing it now raises
    utils = mmengine.utils  # its names are looked up here: what was imported from it before unmix stays as it was
    assert utils.is_installed('torch')
    assert utils.is_installed('mm-some-thing')
    assert not utils.is_installed('no_such_package')
    assert utils.get_installed_path('unmix') == str(Path(unmix.__file__).parent)
    assert utils.get_installed_path('mm-some-thing') == str(tmp_path / 'mmsomething')
    with pytest.raises(ModuleNotFoundError, match='pip install no-such-package'):
        utils.get_installed_path('no-such-package')
    for module in (mmengine.hub.hub, mmengine.config.config):  # both import it by name
        assert module.get_installed_path is compat.get_installed_path


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


def test_the_text_of_a_config_is_formatted_once_a_run(tmp_path: Path):
    compat._format_once.cache_clear()
    first = runner(tmp_path, epochs=3, cfg=Config(dict(max_epochs=3)))
    first.train()
    assert compat._format_once.cache_info().misses == 1  # of the log, the visualiser and three checkpoints
    text, _ = compat._yapf('a  = dict( b=1)', style_config=dict(based_on_style='pep8'))
    assert compat.format_code('a  = dict( b=1)', dict(based_on_style='pep8'))[0] == text == 'a = dict(b=1)\n'
    saved = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)['meta']['cfg']
    assert saved == first.cfg.pretty_text
    first.cfg.max_epochs = 77
    assert 'max_epochs = 77' in first.cfg.pretty_text
