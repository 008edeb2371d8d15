"""No optimiser step on a loss or gradient that is not finite: what is left out, what stays, what a replay finds."""

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
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from unmix.engine.hooks import FiniteLossHook
from unmix.engine.step import TrainStep
from unmix.models import MLPNeck
from unmix.registry import MODELS, OPTIM_WRAPPERS
from unmix.testing.ranks import run_ranks
from unmix.utils.clock import read_clock

pytestmark = pytest.mark.slow

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


@MODELS.register_module(force=True)
class FaultyNeck(MLPNeck):
    """In iteration ``at`` of rank ``rank``: its output, or only its gradient, is NaN."""

    def __init__(self, at: int, how: str, rank: int = 0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.at, self.how, self.rank = at, how, rank

    def forward(self, x):
        x = super().forward(x)
        if read_clock().iteration != self.at or _rank() != self.rank:
            return x
        return x * torch.nan if self.how == 'output' else x + (0 * x).sqrt()  # 0, whose derivative is 0 * infinity


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
    tensors, optimizer = model.state_dict(), runner.optim_wrapper.optimizer.state_dict()['state']
    recent = getattr(model.head, 'recent', None)
    if recent is not None:  # a step that is left out has moved rows, but changed none
        tensors = {key: value for key, value in tensors.items() if not key.startswith('head.')}
        tensors['dense'] = torch.stack(recent.dense(model.head.weight))
        last = max(optimizer, default=None)
        optimizer = {key: value for key, value in optimizer.items() if key != last}
    return copy.deepcopy(tensors), copy.deepcopy(optimizer)


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
        train_cfg=dict(type='TrainLoop', max_epochs=epochs, _delete_=True),
        param_scheduler=[dict(type='CosineLR', by_epoch=False)],
        custom_hooks=hooks,
        default_hooks__checkpoint=dict(type='CheckpointHook', interval=1),
        default_hooks__finite_loss=dict(type='FiniteLossHook', policy=policy, max_failures=1),
    )
    runner = toy_runner(tmp_path, **(config | changes))
    runner.register_hook(spoil, priority='HIGHEST')
    return runner


def stopped(tmp_path, spoil=None, at=BAD, what='loss', **options):
    """Train until the run stops; return the runner and the path of the capture."""
    runner = spoilt_runner(tmp_path, spoil or Spoil(at=()), **options)
    with pytest.raises(ValueError, match=rf'^The {what} of iteration {at + 1} .*is not finite.*Lower optim_wrapper'):
        runner.train()
    return runner, Path(tmp_path, 'captures', f'iter_{at + 1}.pth')


def faulty(how, at=BAD, name='moco-v2', **kwargs):
    return dict(model__neck=dict(ALGORITHMS[name]['neck'], type='FaultyNeck', at=at, how=how, **kwargs))


@pytest.mark.parametrize('unmix', [None, UNMIX], ids=['plain', 'unmix'])
@pytest.mark.parametrize(
    'name', ['moco-v2', 'byol', 'swav', 'instdisc-nce', 'cmc', 'pic-recent', 'wmse', 'deepclusterv2']
)
def test_stop_leaves_the_state_as_it_was(tmp_path, name, unmix):
    spoil = Spoil()
    runner, path = stopped(tmp_path, spoil, name=name, unmix=unmix)
    assert equal(state(runner), spoil.before[BAD])
    capture = torch.load(path, weights_only=False)
    assert (capture['meta']['iter'], capture['meta']['epoch']) == (BAD, 0)
    (failed,) = capture['meta']['failed_step']
    assert failed['losses']['loss'] == torch.inf
    assert len(failed['index']) == 6
    if name != 'pic-recent':
        assert equal(capture['state_dict'], runner.model.state_dict())


@pytest.mark.parametrize('at', [0, BAD])
def test_nan_in_the_gradient_of_a_finite_loss_is_not_stepped(tmp_path, at):
    spoil = Spoil(at=())
    runner, path = stopped(tmp_path, spoil, at=at, what='gradient', unmix=UNMIX, **faulty('gradient', at))
    assert equal(state(runner), spoil.before[at])
    assert torch.load(path, weights_only=False)['meta']['failed_step'][0]['losses']['loss'] < 100


@pytest.mark.parametrize('policy', ['skip', 'rollback'])
def test_policies_hold_for_gradients_too(tmp_path, policy):
    spoil = Spoil(at=())
    runner = spoilt_runner(tmp_path, spoil, policy, unmix=UNMIX, **faulty('gradient', 7))
    runner.train()
    assert equal(spoil.before[8], spoil.before[7] if policy == 'skip' else spoil.after[4])
    assert not equal(spoil.before[9], spoil.before[8])
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())


def test_last_checkpoint_never_names_a_capture(tmp_path):
    _, path = stopped(tmp_path, Spoil(at=(7,)), at=7)
    assert path.is_file()
    assert Path((tmp_path / 'last_checkpoint').read_text()).name == 'epoch_1.pth'


@pytest.mark.parametrize(('wrapper', 'at'), [
    (dict(type='AutocastOptimWrapper'), BAD),
    (dict(type='OptimWrapper', accumulative_counts=2), BAD),
    (dict(type='OptimWrapper', accumulative_counts=2), BAD + 1),
])  # fmt: skip
def test_replay_is_exact_under_autocast_and_accumulation(tmp_path, wrapper, at, capsys, monkeypatch):
    wrapper = dict(wrapper, optimizer=dict(type='SGD', lr=0.05, momentum=0.9), _delete_=True)
    spoil = Spoil(at=())
    options = dict(unmix=UNMIX, optim_wrapper=wrapper, **faulty('output', at))
    runner, path = stopped(tmp_path, spoil, at=at, **options)
    assert equal(state(runner), spoil.before[at])
    capsys.readouterr()
    assert run_tool(monkeypatch, path) is None
    printed = capsys.readouterr().out
    assert 'not finite first: the output of neck (FaultyNeck)' in printed
    assert printed.count(' equal') == 2


def test_images_with_nan_leave_no_trace(tmp_path):
    """A bank, queue or BatchNorm that has seen NaN would never recover."""
    spoil = Spoil('images')
    runner, _ = stopped(tmp_path, spoil, name='instdisc')
    assert equal(state(runner), spoil.before[BAD])


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
    assert moved == [True] * BAD + [False] + [True] * (8 - BAD)  # once for each optimiser step
    assert runner.message_hub.get_info('nonfinite_losses') == 1


def test_skip_is_limited(tmp_path):
    spoil = Spoil(at=(BAD, BAD + 2))
    runner, path = stopped(tmp_path, spoil, at=BAD + 2, policy='skip')
    assert runner.iter == BAD + 2
    assert path.is_file()


def test_skip_leaves_out_the_whole_accumulated_step(tmp_path):
    wrapper = dict(type='OptimWrapper', accumulative_counts=2, optimizer=dict(type='SGD', lr=0.05), _delete_=True)
    spoil = Spoil(at=(2,))
    spoilt_runner(tmp_path, spoil, 'skip', optim_wrapper=wrapper).train()
    weight = [spoil.before[i][0]['backbone.conv1.weight'] for i in range(10)]
    changed = [not torch.equal(a, b) for a, b in pairwise(weight)]
    assert changed == [False, True, False, False, False, True, False, True, False]
    capture = torch.load(tmp_path / 'captures' / 'iter_3.pth', weights_only=False)
    assert capture['step']['gradients'] == [{}]  # nor do gradients of the bad batch stay


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


@pytest.mark.parametrize('accumulate', [1, 2])
def test_the_state_moves_in_other_loops_too(tmp_path, accumulate):
    runners = []
    for loop in (dict(type='TrainLoop', max_epochs=1), dict(type='IterBasedTrainLoop', max_iters=5)):
        changes = dict(train_cfg=dict(loop, _delete_=True), optim_wrapper__accumulative_counts=accumulate)
        runner = spoilt_runner(tmp_path / loop['type'], Spoil(at=()), unmix=UNMIX, **changes)
        start = copy.deepcopy(runner.model.state_dict())
        runner.train()
        runners.append(runner)
        moved = {key for key, value in runner.model.state_dict().items() if not torch.equal(value, start[key])}
        assert {'head.queue.features', KEY} <= moved, moved
    assert equal(*map(state, runners))


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledOnCPU(AmpOptimWrapper):
    """``AmpOptimWrapper`` with a gradient scaler of the CPU; MMEngine's refuses CPUs."""

    def __init__(self, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler, self._scale_update_param, self.cast_dtype = torch.amp.GradScaler('cpu'), None, None


@pytest.mark.parametrize('fused', [False, True])
def test_the_momentum_encoder_stays_where_a_scaler_leaves_the_step_out(tmp_path, fused):
    """A scaler calls a fused optimiser in any case; the kernel leaves the step out."""
    optimizer = dict(type='SGD', lr=0.05, fused=fused)
    spoil, wrapper = Spoil(at=()), dict(type='ScaledOnCPU', optimizer=optimizer, _delete_=True)
    runner = spoilt_runner(tmp_path, spoil, epochs=1, optim_wrapper=wrapper, **faulty('gradient'))
    runner.train()
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**15  # halved once
    for iteration in range(4):
        (before, _), (after, _) = spoil.before[iteration], spoil.before[iteration + 1]
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        assert ('backbone.conv1.weight' in moved) == (iteration != BAD)
        assert (KEY in moved) == (iteration != BAD)
        assert 'head.queue.features' in moved


def test_the_state_moves_with_several_optimisers():
    """A method's own ``train_step`` may use them; MMEngine's cannot."""
    model = MODELS.build(ALGORITHMS['moco-v2'])
    parts = dict(backbone=model.backbone, neck=model.neck)
    wrappers = {name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1)) for name, part in parts.items()}

    def train_step(batch, optim_wrapper):
        losses = model.loss(batch)
        sum(losses.values()).backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
        return losses

    model.train_step = train_step
    before = copy.deepcopy(model.state_dict())
    TrainStep(model, OptimWrapperDict(**wrappers)).run([torch.rand(6, 3, 8, 8)] * 2)
    assert all(not torch.equal(before[key], model.state_dict()[key]) for key in (KEY, 'head.queue.features'))


def test_a_step_is_neither_committed_twice_nor_forgotten(tmp_path):
    """By the loop, in training mode; a loss under no_grad needs no commit."""
    runner = spoilt_runner(tmp_path, Spoil(at=()), epochs=1)
    runner.train()
    views = [torch.rand(6, 3, 8, 8)] * 2
    with pytest.raises(RuntimeError, match=r'after_step\(\) was called without a loss'):
        runner.model.after_step()
    with torch.no_grad():
        runner.model.loss(views)
    runner.model.loss(views)
    with pytest.raises(RuntimeError, match='the state has not moved since the last call'):
        runner.model.loss(views)


def test_bad_policy():
    with pytest.raises(ValueError, match="'stop', 'skip', 'rollback'"):
        FiniteLossHook('ignore')


def test_replay_finds_a_gradient(tmp_path, capsys, monkeypatch):
    _, path = stopped(tmp_path, what='gradient', unmix=UNMIX, **faulty('gradient'))
    capsys.readouterr()
    with pytest.warns(UserWarning, match='Error detected in'):
        assert run_tool(monkeypatch, path) is None
    printed = capsys.readouterr().out
    assert "not finite first: a derivative: Function 'MulBackward0' returned nan values" in printed
    assert printed.count(' equal') == 2
    assert 'images of the batch: ' in printed


def test_replay_says_what_differs_and_what_is_no_capture(tmp_path, capsys, monkeypatch):
    _, path = stopped(tmp_path, unmix=UNMIX, **faulty('output'))
    capture = torch.load(path, weights_only=False)
    capture['meta']['failed_step'][0]['losses']['loss_base'] = 1.0
    torch.save(capture, path)
    assert run_tool(monkeypatch, path) == 2
    assert 'DIFFERENT' in capsys.readouterr().out
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
    failed = torch.load(directory / 'captures' / f'iter_{BAD + 1}.pth', weights_only=False)['meta']['failed_step']
    assert [step['losses']['loss'] == torch.inf for step in failed] == [False, True]
    assert not set(failed[0]['index']) & set(failed[1]['index'])


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
