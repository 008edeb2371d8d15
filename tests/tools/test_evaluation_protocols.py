"""``tools/test.py``: one protocol after the other on a checkpoint, what it leaves, and what it says of errors."""

import hashlib
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from unmix.apis import load_config
from unmix.engine.runner import Runner
from unmix.evaluation import extraction, feature_cache
from unmix.models import ClassificationHead
from unmix.registry import MODELS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FROZEN, QUICKSTART = 'unmix::benchmarks/frozen-resnet8_digits.py', 'unmix::quickstart/unmix-moco_digits.py'
FEW = """_base_ = 'unmix::benchmarks/frozen-resnet8_digits.py'
test_evaluator = [dict(type='KNN', k=(5, 20)), dict(type='LinearProbe', max_iter=5)]
"""


def evaluate(monkeypatch, *arguments):
    """Run the tool inside this process, which saves starting one."""
    monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools' / 'test.py'), run_name='__main__')


@pytest.fixture
def few(tmp_path):
    """A config with two quick metrics."""
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'few.py').write_text(FEW)
    return tmp_path / 'configs' / 'few.py'


def save(path, method='unmix-moco', **rest):
    """Write a checkpoint of a quickstart with its first weights."""
    torch.manual_seed(len(method))
    cfg = load_config(f'unmix::quickstart/{method}_digits.py')
    model = MODELS.build(dict(cfg.model, _scope_='unmix'))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=7, seed=5)) | rest, path)
    return path


def test_protocols_gather_in_one_file_with_their_cards(tmp_path, few, monkeypatch, capsys):
    path = save(tmp_path / 'epoch_7.pth')
    evaluate(monkeypatch, QUICKSTART, path)
    first = json.loads((tmp_path / 'results.json').read_text())
    evaluate(monkeypatch, few, path)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert (results['epochs'], results['seed'], results['config']) == (7, 5, 'few.py')
    assert results['protocols']['unmix-moco_digits.py'] == first['protocols']['unmix-moco_digits.py']
    # The same backbone by the method's config and by the protocol's: one of any method.
    assert results['knn_20']['top1'] == first['knn']['top1'] == results['knn']['top1']
    assert results['knn_20']['random_init_top1'] == first['knn']['random_init_top1']
    card = results['protocols']['few.py']
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert card['checkpoint'] == dict(file='epoch_7.pth', sha256=digest, epoch=7)
    assert card['data']['bank'] == dict(type='Digits', split='train', size=16)
    assert (card['layer'], card['bn_mode'], card['seed']) == ('backbone', 'eval', 0)
    assert [metric['type'] for metric in card['metrics']] == ['KNN', 'LinearProbe']
    assert card['random_init'] == {k: v['random_init_top1'] for k, v in card['results'].items()}
    assert set(card['results']) == {'knn_5', 'knn_20', 'linear'}
    assert set(card['code']) == {'unmix', 'commit'}
    assert card['transform'] == dict(test=None, bank=None)
    assert f'epoch_7.pth {digest[:8]}' in ' '.join(capsys.readouterr().out.split())

    save(path, 'byol')  # other weights under the same name: the old results are not theirs
    evaluate(monkeypatch, few, path)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert set(results['protocols']) == {'few.py'}
    assert 'knn' not in results


def test_features_are_computed_once(tmp_path, few, monkeypatch):
    path, calls = save(tmp_path / 'a.pth'), []

    def collect(batches, encoders):
        calls.append(set(encoders))
        return extraction.collect_features(batches, encoders)

    monkeypatch.setattr(feature_cache, 'collect_features', collect)
    evaluate(monkeypatch, few, path)
    assert calls == [{'', 'random_init', 'raw_pixels'}] * 2
    files = set((tmp_path / 'features').iterdir())
    assert len(files) == 6
    fresh = json.loads((tmp_path / 'results.json').read_text())
    evaluate(monkeypatch, few, path)
    assert len(calls) == 2
    assert json.loads((tmp_path / 'results.json').read_text()) == fresh
    sizes = [f'{place}.dataset.size=12' for place in ('test_dataloader', 'test_cfg.bank_dataloader')]
    for change in (sizes, ['data_preprocessor.mean=[3.0]'], ['randomness.seed=4']):
        evaluate(monkeypatch, few, path, '--cfg-options', *change)
        changed = set((tmp_path / 'features').iterdir())
        assert changed > files, change
        files = changed
    calls.clear()
    save(path, 'byol')
    evaluate(monkeypatch, few, path)
    assert len(calls) == 2
    assert all(Path(file).parent == tmp_path / 'features' for file in files)


ALONE = """_base_ = '{base}'
train_dataloader = dict(dataset=dict(_delete_=True, type='ImageFolder', data_root='/nowhere', pipeline={pipeline}))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', begin_epoch=1),
    dict(type='EarlyStoppingHook', monitor='knn/top1'),
    dict(type='OnlineProbeHook'),
]
log_processor = dict(custom_cfg=[dict(data_src='time', method_name='mean', window_size='global')])
resume = True
"""
NO_TEST = ['test_cfg=None', 'test_dataloader=None', 'test_evaluator=None']


@pytest.mark.parametrize(('base', 'options'), [
    (QUICKSTART, ['test_cfg.controls=False']),
    (QUICKSTART, NO_TEST),
    ('unmix::benchmarks/linear_resnet8_1xb128-coslr-20e_digits.py', ['model.pretrained=unmix::no-such-model']),
], ids=['test', 'val', 'classifier'])  # fmt: skip
def test_an_evaluation_needs_nothing_of_the_training(tmp_path, monkeypatch, base, options, capfd):
    """Neither its data, nor its optimiser, nor pretrained weights, whatever hooks ask the Runner for."""
    views = 'dict(type="MultiView", num_views=2, transforms=[])'
    pipeline = 'dict(type="SingleView", transforms=[])' if 'linear' in base else views
    (tmp_path / 'alone.py').write_text(ALONE.format(base=base, pipeline=pipeline))
    cfg = load_config(base)
    model = MODELS.build(dict(cfg.model, _scope_='unmix'))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=7, seed=5)), tmp_path / 'a.pth')
    for name in ('build_train_loop', 'build_optim_wrapper', 'build_param_scheduler'):
        monkeypatch.setattr(Runner, name, lambda *_, name=name: pytest.fail(f'{name} was called'))
    evaluate(monkeypatch, tmp_path / 'alone.py', tmp_path / 'a.pth', '--cfg-options', *options)
    if options == NO_TEST:
        assert 'evaluation  knn/top1' in capfd.readouterr().out
    else:
        assert json.loads((tmp_path / 'results.json').read_text())['epochs'] == 7


WIDER = ['--cfg-options', 'model.backbone.width=8']
NO_DATA = ['test_cfg=None', 'test_dataloader=None', 'test_evaluator=None', 'val_cfg=None', 'val_dataloader=None']
NO_DATA += ['val_evaluator=None']


@pytest.mark.parametrize(('config', 'checkpoint', 'options', 'message'), [
    (FROZEN, 'a.pth', WIDER, 'a.pth is a checkpoint of another model'),
    (QUICKSTART, 'byol.pth', [], 'byol.pth is a checkpoint of another model'),
    (FROZEN, 'empty.pth', [], 'empty.pth'),
    (FROZEN, 'text.pth', [], 'text.pth'),
    (FROZEN, 'nothing.pth', [], "has no 'state_dict'"),
    (FROZEN, 'nowhere.pth', [], 'nowhere.pth'),
    (QUICKSTART, 'a.pth', ['--cfg-options', *NO_DATA], 'val_cfg and val_dataloader and val_evaluator missing'),
    (FROZEN, 'a.pth', ['--cfg-options', 'test_dataloader.dataset.split=none'], "dataset.split is 'none'"),
    ('unmix::benchmarks/linear_resnet8_1xb128-coslr-20e_digits.py', 'linear.pth',
     ['--cfg-options', 'model.head.num_classes=6', 'model.control=False'], 'labels reach from 0 to 9; expected 0 to 5'),
    ('unmix::benchmarks/linear_resnet8_1xb128-coslr-20e_digits.py', 'a.pth', [], 'checkpoint of another model'),
    ('unmix::benchmarks/knn-resnet50_in1k.py', 'a.pth', [], 'data/imagenet'),
])  # fmt: skip
def test_errors_are_one_message(tmp_path, monkeypatch, capfd, config, checkpoint, options, message):
    save(tmp_path / 'a.pth')
    save(tmp_path / 'byol.pth', 'byol')
    (tmp_path / 'empty.pth').write_bytes(b'')
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    torch.save(dict(meta={}), tmp_path / 'nothing.pth')
    backbone = torch.load(tmp_path / 'a.pth')['state_dict']
    head = ClassificationHead(64, 6, lrs=(1, 2, 3, 4)).state_dict()
    state = {k: v for k, v in backbone.items() if k.startswith('backbone.')} | {f'head.{k}': v for k, v in head.items()}
    torch.save(dict(state_dict=state), tmp_path / 'linear.pth')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        evaluate(monkeypatch, config, checkpoint, *options)
    assert stop.value.code == 1
    output = ''.join(capfd.readouterr())
    output = output[output.index('\nerror: ') :]  # before it, pytest's own capture may complain
    assert message in output
    assert 'Traceback' not in output
    assert not (tmp_path / 'results.json').exists()
