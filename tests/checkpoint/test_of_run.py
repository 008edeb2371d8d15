"""A run in the place of a checkpoint."""

import logging
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image

import unmix
from unmix.apis import train as api
from unmix.apis.features import extract_features
from unmix.apis.train import evaluate
from unmix.checkpoint.load import load_from_local
from unmix.checkpoint.of_run import checkpoint_of, config_beside, is_place
from unmix.checkpoint.save import save_checkpoint
from unmix.config import load_config


def checkpoint(path: Path, value: float, epoch: int = 1, **meta: object) -> Path:
    content = dict(state_dict=dict(w=torch.tensor(value)), optimizer={}, meta=dict(iter=epoch, epoch=epoch, **meta))
    save_checkpoint(content, str(path))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A work dir with two checkpoints, the config of its training and that of an evaluation."""
    cfg = Config(dict(model=dict(type='A'), work_dir='here', resume=False))
    meta = dict(cfg=cfg.pretty_text, experiment_name='mine_20260102_030405')
    for epoch in (2, 10):
        checkpoint(tmp_path / f'epoch_{epoch}.pth', epoch, epoch, **meta)
    cfg.work_dir, cfg.resume = 'there', True
    cfg.dump(tmp_path / 'mine.py')
    Config(dict(model=dict(type='B'))).dump(tmp_path / 'evaluation.py')
    return tmp_path


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_is_its_newest_checkpoint(run: Path) -> None:
    assert checkpoint_of(run) == run / 'epoch_10.pth'
    assert checkpoint_of(run / 'epoch_2.pth') == run / 'epoch_2.pth'
    assert load_from_local(str(run))['state_dict']['w'] == 10
    damage(run / 'epoch_10.pth')
    assert checkpoint_of(run) == run / 'epoch_2.pth'
    damage(run / 'epoch_2.pth')
    with pytest.raises(ValueError, match=r'has no newest checkpoint: .*epoch_10.*Give the path of one of them'):
        checkpoint_of(run)


def test_weights_alone_are_a_run_if_there_is_one_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'holds no checkpoint \(\*\.pth\)'):
        checkpoint_of(tmp_path)
    torch.save(dict(w=torch.ones(1)), tmp_path / 'weights.pth')
    assert checkpoint_of(tmp_path) == tmp_path / 'weights.pth'
    torch.save(dict(w=torch.ones(1)), tmp_path / 'others.pth')
    with pytest.raises(ValueError, match=r'it has others\.pth, weights\.pth'):
        checkpoint_of(tmp_path)


def test_the_config_beside_is_that_of_the_training(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        assert config_beside(run / 'epoch_2.pth') == run / 'mine.py'
        (run / 'mine.py').rename(run / 'renamed.py')
        assert config_beside(run / 'epoch_2.pth') == run / 'renamed.py'
        assert not caplog.records
        Config(dict(model=dict(type='A', x=1))).dump(run / 'mine.py')
        (run / 'renamed.py').unlink()
        assert config_beside(run / 'epoch_2.pth') == run / 'mine.py'
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert 'mine.py is taken. It differs' in caplog.text
    finally:
        logger.removeHandler(caplog.handler)
    (run / 'mine.py').unlink()
    with pytest.raises(FileNotFoundError, match=r'is not beside it; beside it are evaluation\.py'):
        config_beside(run / 'epoch_2.pth')
    with pytest.raises(FileNotFoundError, match=r'lost\.pth does not exist'):
        config_beside(run / 'lost.pth')
    (run / 'text.pth').write_text('no checkpoint')
    with pytest.raises(ValueError, match=r'text\.pth.* cannot be read'):
        config_beside(run / 'text.pth')


@pytest.mark.parametrize(('name', 'place'), [
    ('moco_digits', False), ('unmix::moco_digits', False), ('s3://bucket/x.pth', False), ('http://host/x.pth', False),
    ('x.pth', True), ('work_dirs/NAME', True), ('empty', False), ('run', True),
])  # fmt: skip
def test_names_of_the_zoo_are_no_paths(name: str, place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    checkpoint(tmp_path / 'run' / 'epoch_1.pth', 1)
    assert is_place(name) == place


@pytest.fixture(scope='module')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the digits, as a training leaves it."""
    cfg = load_config('quickstart/unmix-moco_digits')
    place = tmp_path_factory.mktemp('digits') / 'work_dirs' / 'NAME'
    content = load_from_local(str(unmix.zoo.download('unmix-moco_digits')))
    content['meta'] = dict(cfg=cfg.pretty_text, experiment_name='unmix-moco_digits_20260102_030405', iter=1, epoch=1)
    save_checkpoint(content, str(place / 'epoch_1.pth'))
    cfg.dump(place / 'unmix-moco_digits.py')
    return place


@pytest.mark.slow
def test_a_run_gives_networks_and_features(digits: Path) -> None:
    model, published = unmix.get_model(digits), unmix.get_model('unmix-moco_digits')
    tensors = published.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert model.pretrained_cfg['weights'] == str(digits / 'epoch_1.pth')
    assert model.pretrained_cfg['data_preprocessor'] == published.pretrained_cfg['data_preprocessor']
    Image.new('L', (16, 16), 99).save(digits.parent / 'image.png')
    found = [
        extract_features(name, digits.parent, num_workers=0)['features']
        for name in (digits, digits / 'epoch_1.pth', 'unmix-moco_digits')
    ]
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


@pytest.mark.slow
@pytest.mark.parametrize('words', [['RUN'], ['RUN/epoch_1.pth'], ['moco_digits', '--launcher', 'none', 'RUN']])
def test_an_evaluation_takes_a_run(words: list[str], digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def build_runner(cfg: Config, pretrained: bool) -> None:
        raise Stop(cfg)

    monkeypatch.setattr(api, 'build_runner', build_runner)
    with pytest.raises(Stop) as stop:
        evaluate([word.replace('RUN', str(digits)) for word in words])
    cfg = stop.value.args[0]
    assert cfg.load_from == str(digits / 'epoch_1.pth')
    assert cfg.work_dir == str(digits)
    assert Path(cfg.filename).name == ('moco_digits.py' if len(words) > 1 else 'unmix-moco_digits.py')


def test_an_evaluation_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate(['moco_digits'])
    assert 'the following arguments are required: checkpoint' in capsys.readouterr().err
