"""The project's CUDA code on the null GPU: see README.md for what that shows."""

import json
import subprocess

import pytest

from unmix.config import load_config

from . import build as building
from .build import Unavailable, build
from .launch import ROOT, start

pytestmark = pytest.mark.slow

METHODS = sorted({path.parent.name for path in (ROOT / 'configs').glob('*/*_*.py')} - {'_base_', 'benchmarks'})

# The check of loss and gradient reads two numbers, once a step: it decides whether the optimiser steps. It comes behind
# the backward pass, so the host has queued all of that before it waits.
CHECK = {'unmix/engine/step.py what_is_not_finite': 1}

# Waits of variants of the recipes beside CHECK. The gradient scaler reads whether a gradient is infinite; MMEngine logs
# the norm that it clips.
VARIANTS = {
    'amp': {'mmengine/optim/optimizer/amp_optimizer_wrapper.py step': 1},
    'bf16': {},
    'channels_last': {},
    'clip_grad': {'mmengine/optim/optimizer/optimizer_wrapper.py _clip_grad': 1},
}
# DistributedDataParallel waits in the first ten steps and in each hundredth: it logs how long its parts take.
DDP = 'mmengine/model/wrappers/distributed.py _run_forward'


@pytest.fixture(scope='session')
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp('nullgpu')
    try:
        build(folder)
    except Unavailable as reason:
        pytest.skip(str(reason))
    return folder


def run(libraries, *arguments, ranks=1, **kwargs):
    """Run a program; return what each rank has printed."""
    processes = start(arguments, libraries, ranks, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def take_steps(libraries, folder, variant, *names):
    """Take two steps of the recipes whose names have one of these parts; return what was seen in the second."""
    file = folder / 'steps.json'
    arguments = ['-m', 'tests.nullgpu.steps', '--variant', variant, '--json', str(file), '--only', *names]
    run(libraries, *arguments)
    return json.loads(file.read_text())


def most(results, key):
    """The largest count of each place over all recipes."""
    places = {place for found in results.values() for place in found[key]}
    return {place: max(found[key].get(place, 0) for found in results.values()) for place in places}


def recipes_of(method):
    """Names of recipes of a method: with Un-Mix, whose step has the plain one in it, and all small ones."""
    paths = [path for path in (ROOT / 'configs' / method).glob('*.py') if not path.stem.endswith('_folder')]
    twins = {path.stem.removeprefix('unmix-') for path in paths if path.stem.startswith('unmix-')}
    return [f'{method}/{path.stem}' for path in paths if method == 'quickstart' or path.stem not in twins]


@pytest.mark.parametrize('methods', [METHODS[start::4] for start in range(4)], ids=' '.join)
def test_recipes(libraries, tmp_path, methods):
    recipes = [name for method in methods for name in recipes_of(method)]
    results = take_steps(libraries, tmp_path, 'recipe', *recipes)
    assert results.keys() == set(recipes)
    for name, found in results.items():
        assert found['failed'] == [None, None], name
        assert found['stepped'], name
        assert found['off_device'] == [], name
        clips = load_config(f'unmix::{name}').optim_wrapper.get('clip_grad')
        assert found['waits'] == CHECK | (VARIANTS['clip_grad'] if clips else {}), name
    assert most(results, 'pageable') == {}


@pytest.mark.parametrize('variant', VARIANTS)
def test_variants(libraries, tmp_path, variant):
    results = take_steps(libraries, tmp_path, variant, 'quickstart/unmix-')
    assert all(found['stepped'] and found['off_device'] == [] for found in results.values())
    check = {} if variant == 'amp' else CHECK
    assert most(results, 'waits') == check | VARIANTS[variant]
    assert most(results, 'pageable') == {}


def test_prefetch(libraries):
    """Batches are copied beside the step, from pinned memory, without a wait; hooks get the same ones on the host."""
    (output,) = run(libraries, '-m', 'tests.nullgpu.prefetch')
    for method, (ahead, plain) in json.loads(output.splitlines()[-1]).items():
        assert ahead.pop('aside') == 4 * 4, method  # iterations; two views, index and label
        assert plain.pop('aside') == 0, method
        assert ahead == plain, method
        assert ahead['pageable'] == 0, method
        assert ahead['on_host'], method
        assert ahead['waits'] == {place: 4 * number for place, number in CHECK.items()}, method


WORKERS = """
import gc, torch
from torch.utils.data import DataLoader
import unmix.engine
gc.disable()  # but not in the worker
event = torch.cuda.Event()
event.record()
garbage = [event]  # as a hook may leave it
garbage.append(garbage)
del event, garbage
print(list(DataLoader([1, 2], num_workers=1, worker_init_fn=lambda _: gc.collect())))
"""


def test_data_workers_that_collect_garbage(libraries, tmp_path):
    """An event that is destroyed in a fork of its process ends that fork."""
    (tmp_path / 'workers.py').write_text(WORKERS)
    assert run(libraries, str(tmp_path / 'workers.py'))[0].endswith('[tensor([1]), tensor([2])]\n')


def test_views_that_the_device_makes(libraries, tmp_path):
    names = ['unmix-mocov2_resnet50_8xb32-coslr-200e_in1k', 'unmix-swav_resnet26_1xb128-coslr-400e_cifar10', 'cmc-lab']
    results = take_steps(libraries, tmp_path, 'device_views', *names)
    assert len(results) >= 4
    assert all(found['stepped'] and found['off_device'] == [] for found in results.values())
    assert most(results, 'waits') == CHECK
    assert most(results, 'pageable') == {}


def test_commands(libraries, tmp_path):
    """Training with all hooks, resuming, and evaluation by all protocols, with controls."""
    config, work_dir = tmp_path / 'unmix-moco_digits.py', tmp_path / 'work'
    parts = [f'{phase}_{part}' for phase in ('val', 'test') for part in ('cfg', 'dataloader', 'evaluator')]
    config.write_text(f"""_base_ = 'unmix::quickstart/unmix-moco_digits.py'
default_hooks = dict(health=dict(interval=4), online=dict(type='OnlineProbeHook'))
train_cfg = dict(max_epochs=1)
{' = '.join([*parts, 'None'])}
""")
    command = ['-m', 'tests.nullgpu.command']
    run(libraries, *command, 'train', str(config), '--work-dir', str(work_dir))
    options = ['--resume', '--cfg-options', 'train_cfg.max_epochs=2']
    run(libraries, *command, 'train', str(config), '--work-dir', str(work_dir), *options)
    scalars = ' '.join(path.read_text() for path in work_dir.rglob('scalars.json'))
    assert all(name in scalars for name in ('health/spread', 'online_linear_top1'))
    checkpoint = work_dir / 'epoch_2.pth'
    evaluation = [*command, 'test', 'benchmarks/frozen-resnet8_digits', str(checkpoint)]
    (output,) = run(libraries, *evaluation, environment={'NULLGPU_FILL': '0'})
    assert 'linear_sgd_lr0.01' in output


@pytest.mark.parametrize(
    ('free', 'names'),
    [(64, ['extraction', 'knn', 'euclidean', 'linear', 'few', 'training']), (8, ['knn', 'linear'])],
    ids=['the bank has room', 'the bank stays on the host'],
)
def test_memory_of_an_evaluation(libraries, free, names):
    """1.28 million images, width 2048: the bank, which has 10.5 GB, and at most 2 GB beside it."""
    environment = {'NULLGPU_FILL': '0', 'NULLGPU_FREE': str(free * 2**30)}
    (output,) = run(libraries, '-m', 'tests.nullgpu.evaluation', *names, environment=environment)
    found = json.loads(output.splitlines()[-1])
    assert list(found) == names
    assert max(found.values()) < 2e9
    assert min(found.values()) > 50_000 * 2048 * 4  # the features to classify, so it is measured


@pytest.mark.ranks
def test_ranks(libraries):
    outputs = run(libraries, '-m', 'tests.nullgpu.ranks', ranks=2)
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert first == second
    for method, counted in first.items():
        collectives = counted.pop('nccl')
        assert collectives >= 2, method  # gradients, and the check
        assert counted.keys() <= {DDP} | CHECK.keys(), method


def test_launches(libraries, tmp_path):
    file = tmp_path / 'launches.json'
    cases = ['moco', 'moco_asym', 'simclr', 'byol', 'swav', 'pic_50k', 'unmix_pic_50k']
    options = ['--cases', *cases, '--width', '8', '--batch-size', '16', '--json', str(file)]
    run(libraries, 'tools/benchmarks/launches.py', *options, cwd=ROOT)
    goals = json.loads(file.read_text())['goals']
    assert goals.keys() == {f'launches_{name}' for name in cases}
    assert all(goal['met'] for goal in goals.values()), goals


PROGRAM = """
import torch
from tests.nullgpu.device import Counted

def read(x):
    return x.item()

x, pinned = torch.ones(8, device='cuda'), torch.ones(8).pin_memory()
assert pinned.is_pinned() and not torch.ones(8).is_pinned()
with Counted() as counted:
    x.mul_(2)                                 # a kernel
    x @ x                                     # a product
    x.copy_(pinned, non_blocking=True)
    x.copy_(torch.ones(8), non_blocking=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        x.copy_(pinned, non_blocking=True)
    read(x[0])                                # a copy, and a wait
    torch.cuda.Event().synchronize()
print({name: number for name, number in counted.calls.items() if number and name != 'other'}, counted.kernels)
print(dict(counted.waits), dict(counted.pageable))
"""


def test_calls_are_counted(libraries, tmp_path):
    (tmp_path / 'program.py').write_text(PROGRAM)
    (output,) = run(libraries, str(tmp_path / 'program.py'))
    assert output.splitlines()[-2:] == [
        "{'launch': 1, 'blas': 1, 'copy': 4, 'pageable': 1, 'aside': 1, 'wait': 1} 6",
        "{'program.py read': 1} {'program.py <module>': 1}",
    ]


def test_an_error_is_the_exit_status(libraries, tmp_path):
    program = tmp_path / 'program.py'
    program.write_text("import torch\ntorch.ones(2, device='cuda') + torch.ones(2)\n")
    (process,) = start([str(program)], libraries, stderr=subprocess.PIPE)
    assert 'Expected all tensors to be on the same device' in process.communicate()[1]
    assert process.returncode == 1


def test_without_a_compiler_the_reason_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(building.torch.version, 'cuda', '13.0')
    monkeypatch.setattr(building.shutil, 'which', lambda name: None)
    with pytest.raises(Unavailable, match='gcc, which is not installed'):
        build(tmp_path)


def test_a_pytorch_without_cuda_is_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(building.torch.version, 'cuda', None)
    with pytest.raises(Unavailable, match='needs a PyTorch with CUDA'):
        build(tmp_path)


def test_forks_of_a_server_that_has_imported_mmengine_can_use_cuda(libraries, tmp_path):
    lines = ['import pathlib, torch', 'from unmix.testing import run_ranks', "if __name__ == '__main__':"]
    lines += [f'    run_ranks(torch.cuda.synchronize, 1, pathlib.Path({str(tmp_path)!r}))', "    print('worked')"]
    (tmp_path / 'forks.py').write_text('\n'.join(lines))
    assert run(libraries, str(tmp_path / 'forks.py'))[0].endswith('worked\n')
