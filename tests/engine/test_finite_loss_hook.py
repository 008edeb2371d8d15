"""No optimiser step on a loss that is not finite: what is left out, what is taken back, what a replay gives."""

import copy
import os
import runpy
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from algorithms_under_test import ALGORITHMS, NUM_VIEWS
from engine_toy import toy_runner
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DATASETS
from ranks import run_ranks
from torch.utils.data import Dataset

from unmix.engine.capture import compare, read_capture, replay
from unmix.engine.hooks import FiniteLossHook

REPLAY = Path(__file__).parents[2] / 'tools' / 'misc' / 'replay.py'
UNMIX = dict(type='UnMix')
BAD = 3  # the iteration, from 0, whose loss is spoilt
KEY = 'momentum_encoder.neck.layers.0.weight'


@DATASETS.register_module(force=True)
class ToyViews(Dataset):
    """Random views of 30 images."""

    metainfo: dict = {}

    def __init__(self, views: int = 2) -> None:
        self.data = torch.randn(30, views, 3, 8, 8, generator=torch.Generator().manual_seed(2))

    def __len__(self):
        return len(self.data)

    def __getitem__(self, key):
        index = getattr(key, 'index', key)
        return dict(inputs=list(self.data[index]), index=index)


class Spoil(Hook):
    """In one iteration: an extra infinite term of the loss, or NaN in the images; it notes the states around."""

    def __init__(self, how: str = 'loss', at: tuple[int, ...] = (BAD,), rank: int = 0) -> None:
        self.how, self.at, self.rank, self.before, self.after = how, at, rank, {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model = getattr(runner.model, 'module', runner.model)
        self.before[runner.iter] = state(runner)
        bad = runner.iter in self.at and torch.distributed.is_initialized() * self.rank == _rank()
        if bad and self.how == 'images':
            data_batch['inputs'][0][1, 0] = torch.nan
        vars(model).pop('parse_losses', None)
        if bad and self.how == 'loss':
            parse = model.parse_losses
            model.parse_losses = lambda losses: _with_infinity(parse(losses))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after[runner.iter] = state(runner)


def _rank():
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _with_infinity(parsed):
    total, terms = parsed
    return total + torch.inf, terms | {'loss': total + torch.inf}


def state(runner):
    model = getattr(runner.model, 'module', runner.model)
    optimizer = runner.optim_wrapper.optimizer.state_dict()['state']
    return copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer)


def equal(a, b):
    """Whether two nested structures have equal tensors."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def spoilt_runner(tmp_path, spoil, policy='stop', name='moco-v2', unmix=None, epochs=2, **changes):
    """A Runner of 5 iterations of 6 images an epoch."""
    model = dict(ALGORITHMS[name], unmix=unmix)
    if 'num_instances' in model['head']:
        model['head'] = dict(model['head'], num_instances=30)
    hooks = [dict(type='InstanceHook')] + [dict(type='ClusterHook')] * (name == 'deepclusterv2')
    config = dict(
        model=dict(model, _delete_=True),
        train_dataloader__dataset=dict(type='mmengine.ToyViews', views=NUM_VIEWS.get(name, 2), _delete_=True),
        train_dataloader__batch_size=6,
        train_cfg__max_epochs=epochs,
        param_scheduler=[dict(type='CosineLR', by_epoch=False)],
        custom_hooks=hooks,
        default_hooks__checkpoint=dict(type='CheckpointHook', interval=1),
        default_hooks__finite_loss=dict(type='FiniteLossHook', policy=policy, max_failures=1),
    )
    runner = toy_runner(tmp_path, **(config | changes))
    runner.register_hook(spoil, priority='HIGHEST')
    return runner


def stopped(tmp_path, spoil, **options):
    """Train until the run stops; return the runner and the path of the capture."""
    runner = spoilt_runner(tmp_path, spoil, **options)
    with pytest.raises(ValueError, match=r'is not finite.*Lower optim_wrapper\.optimizer\.lr or warm it up'):
        runner.train()
    return runner, Path(tmp_path, 'captures', f'iter_{spoil.at[-1] + 1}_rank_0.pth')


@pytest.mark.parametrize('unmix', [None, UNMIX], ids=['plain', 'unmix'])
@pytest.mark.parametrize(
    'name', ['moco-v2', 'byol', 'swav', 'instdisc-nce', 'cmc', 'pic-recent', 'wmse', 'deepclusterv2']
)
def test_stop_takes_the_step_back_and_the_replay_is_exact(tmp_path, name, unmix):
    spoil = Spoil()
    runner, path = stopped(tmp_path, spoil, name=name, unmix=unmix)
    assert equal(state(runner), spoil.before[BAD])
    capture = read_capture(path)
    assert capture['losses']['loss'].isinf()
    finite = {key: value for key, value in capture['losses'].items() if key != 'loss'}
    assert finite.keys() == ({'loss_base', 'loss_unmix'} if unmix else {'loss_base'})
    losses = replay(capture, 'cpu')
    assert all(torch.equal(losses[key], finite[key]) for key in finite)
    assert (capture['clock']['iteration'], capture['clock']['seed'], capture['batch_idx']) == (BAD, runner.seed, BAD)
    assert len(capture['index']) == 6
    if unmix:
        assert capture['mixing']['key'] == [runner.seed, BAD, 0]


@pytest.mark.parametrize(('wrapper', 'at'), [
    (dict(type='AutocastOptimWrapper'), BAD),
    (dict(type='OptimWrapper', accumulative_counts=2), BAD),  # the second of two: the momentum encoder has not moved
    (dict(type='OptimWrapper', accumulative_counts=2), BAD + 1),
    (dict(type='OptimWrapper'), 0),
])  # fmt: skip
def test_replay_is_exact_under_autocast_and_accumulation(tmp_path, wrapper, at):
    wrapper = dict(wrapper, optimizer=dict(type='SGD', lr=0.05, momentum=0.9), _delete_=True)
    spoil = Spoil(at=(at,))
    runner, path = stopped(tmp_path, spoil, unmix=UNMIX, optim_wrapper=wrapper)
    assert equal(state(runner), spoil.before[at])
    capture = read_capture(path)
    losses = replay(capture, 'cpu')
    assert all(torch.equal(losses[key], capture['losses'][key]) for key in ('loss_base', 'loss_unmix'))


def test_images_with_nan_leave_no_trace(tmp_path):
    """A bank, queue or BatchNorm that has seen NaN would never recover."""
    spoil = Spoil('images')
    runner, path = stopped(tmp_path, spoil, name='instdisc')
    assert equal(state(runner), spoil.before[BAD])
    capture = read_capture(path)
    assert compare(capture['losses'], replay(capture, 'cpu')) == dict(loss=True, loss_base=True)
    with pytest.warns(UserWarning, match='Error detected'), pytest.raises(RuntimeError, match='returned nan values'):
        replay(capture, 'cpu', anomaly=True)


def test_skip_goes_on_as_if_the_batch_had_not_been(tmp_path):
    spoil = Spoil('images')
    runner = spoilt_runner(tmp_path, spoil, 'skip', unmix=UNMIX)
    runner.train()
    assert runner.iter == 10
    assert equal(spoil.before[BAD + 1], spoil.before[BAD])
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    assert not equal(spoil.before[BAD + 2], spoil.before[BAD + 1])
    keys = [spoil.before[i][0][KEY] for i in range(10)]
    moved = [not torch.equal(*pair) for pair in pairwise(keys)]
    # The momentum encoder moves once for each optimiser step, from the second iteration on.
    assert moved == [False] + [True] * (BAD - 1) + [False] + [True] * (8 - BAD)
    assert runner.message_hub.get_info('nonfinite_losses') == 1


def test_skip_is_limited(tmp_path):
    spoil = Spoil(at=(BAD, BAD + 2))
    runner, path = stopped(tmp_path, spoil, policy='skip')
    assert runner.iter == BAD + 2
    assert path.is_file()


def test_skip_leaves_out_the_whole_accumulated_step(tmp_path):
    wrapper = dict(type='OptimWrapper', accumulative_counts=2, optimizer=dict(type='SGD', lr=0.05), _delete_=True)
    spoil = Spoil(at=(2,))
    spoilt_runner(tmp_path, spoil, 'skip', optim_wrapper=wrapper).train()
    weight = [spoil.before[i][0]['backbone.conv1.weight'] for i in range(10)]
    changed = [not torch.equal(a, b) for a, b in pairwise(weight)]
    assert changed == [False, True, False, False, False, True, False, True, False]


def test_rollback_goes_on_from_the_checkpoint_after_the_batch(tmp_path):
    at = 7
    spoil = Spoil(at=(at,))
    runner = spoilt_runner(tmp_path, spoil, 'rollback')
    runner.train()
    saved = spoil.after[4]  # the checkpoint after epoch 1
    assert equal(spoil.before[at + 1], saved)
    assert not equal(spoil.before[at], saved)
    rates = runner.message_hub.get_scalar('train/lr').data[0]
    unspoilt = spoilt_runner(tmp_path / 'unspoilt', Spoil(at=()))
    unspoilt.train()
    assert rates.tolist() == unspoilt.message_hub.get_scalar('train/lr').data[0].tolist()


def test_rollback_needs_a_checkpoint_of_its_own(tmp_path):
    spoilt_runner(tmp_path, Spoil(at=()), epochs=1).train()  # another run, which has left one there
    runner = spoilt_runner(tmp_path, Spoil(), 'rollback')
    with pytest.raises(ValueError, match='has no checkpoint yet'):
        runner.train()


def test_watching_changes_nothing(tmp_path):
    """Bit for bit the training without the hook, and no trace of it afterwards."""
    runners = []
    for name in ('with', 'without'):
        runner = spoilt_runner(tmp_path / name, Spoil(at=()), name='swav', unmix=UNMIX)
        if name == 'without':
            runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, FiniteLossHook)]
        runner.train()
        runners.append(runner)
    assert any(isinstance(hook, FiniteLossHook) for hook in runners[0].hooks)
    assert equal(state(runners[0]), state(runners[1]))
    assert vars(runners[0].optim_wrapper).keys() == vars(runners[1].optim_wrapper).keys()


def test_bad_policy():
    with pytest.raises(ValueError, match="'stop', 'skip', 'rollback'"):
        FiniteLossHook('ignore')


def test_replay_tool(tmp_path, capsys, monkeypatch):
    _, path = stopped(tmp_path, Spoil('images'), unmix=UNMIX)
    assert run_tool(monkeypatch, path) is None
    printed = capsys.readouterr().out
    assert f'iteration {BAD + 1}, epoch 1, batch {BAD}, seed 0' in printed
    assert 'mixture: key (0, 3, 0), shares 0.' in printed
    assert printed.count(' equal') == 3
    capture = torch.load(path)
    capture['losses']['loss_base'] = torch.tensor(1.0)
    torch.save(capture, path)
    assert run_tool(monkeypatch, path) == 2
    torch.save(dict(state_dict={}), path)
    assert run_tool(monkeypatch, path) == 1
    assert 'is no capture' in capsys.readouterr().err


def run_tool(monkeypatch, path):
    """Run the tool in this process; return its exit status."""
    monkeypatch.setattr(sys, 'argv', ['replay.py', str(path)])
    try:
        runpy.run_path(str(REPLAY), run_name='__main__')
    except SystemExit as error:
        return error.code
    return None


def two_ranks(rank, directory):
    """The loss of rank 1 alone is infinite; both leave the step out, and both replay it."""
    directory = Path(directory)
    os.environ['LOCAL_RANK'] = str(rank)  # MMEngine reads it
    cfg = dict(broadcast_buffers=False, type='MMDistributedDataParallel', device_ids=None)
    spoil = Spoil(rank=1)
    runner = spoilt_runner(
        directory, spoil, 'skip', unmix=UNMIX, train_dataloader__batch_size=3, model_wrapper_cfg=cfg,
        launcher='pytorch',
    )  # fmt: skip
    runner.train()
    assert equal(spoil.before[BAD + 1], spoil.before[BAD])
    assert not equal(spoil.before[BAD + 2], spoil.before[BAD + 1])
    capture = read_capture(directory / 'captures' / f'iter_{BAD + 1}_rank_{rank}.pth')
    assert capture['losses']['loss'].isinf() == (rank == 1)
    losses = replay(capture, 'cpu')
    assert all(torch.equal(losses[key], capture['losses'][key]) for key in ('loss_base', 'loss_unmix'))


@pytest.mark.ranks
def test_ranks_decide_alike(tmp_path):
    run_ranks(two_ranks, 2, tmp_path, str(tmp_path))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='float16 with a loss scaler needs CUDA')
def test_skip_under_a_loss_scaler(tmp_path):
    wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=0.05), _delete_=True)
    spoil = Spoil()
    runner = spoilt_runner(tmp_path, spoil, 'skip', unmix=UNMIX, optim_wrapper=wrapper)
    runner.train()
    assert isinstance(runner.optim_wrapper, AmpOptimWrapper)
    assert equal(spoil.before[BAD + 1], spoil.before[BAD])
