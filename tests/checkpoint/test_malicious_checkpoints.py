"""Files that run code when they are unpickled freely: every loading path refuses every one, and nothing runs."""

import io
import os
import pickle
import runpy
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_toy import toy_runner
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from unmix.checkpoint import load as checkpoint_loading
from unmix.checkpoint.hook import CheckpointHook
from unmix.models.pretrained import load_pretrained

ROOT = Path(__file__).parents[2]


class Call:
    """Pickles to ``function(*args)``, and to ``__setstate__`` of the result if there is a state."""

    def __init__(self, function: Callable, *args: Any, state: Any = None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class SetState:
    """Runs what its state says."""

    def __setstate__(self, state: dict) -> None:
        Path(state['path']).touch()


def payloads(witness: Path) -> dict[str, Any]:
    """Objects that create ``witness`` when they are unpickled."""
    touch, code = f'touch {witness}', f'open({str(witness)!r}, "w")'
    reconstruct = np.empty(0).__reduce__()[0]
    system = Call(os.system, touch)
    hidden = np.empty(1, dtype=object)
    hidden[0] = system
    return {
        'os.system': system,
        'exec': Call(exec, code),
        'eval': Call(eval, code),
        'subprocess': Call(subprocess.check_call, ['touch', str(witness)]),
        'nested in the log of a run': {'log_scalars': {'loss': [HistoryBuffer([1.0], [1]), {'x': (system,)}]}},
        'an object array of numpy': hidden,
        'numpy reduce with a hostile shape': Call(reconstruct, np.ndarray, Call(exec, code), b'b'),
        'a method by getattr': Call(getattr, Call(__import__, 'os'), Call(exec, code)),
        '__setstate__': Call(SetState, state={'path': str(witness)}),
    }


def zipped(payload: Any, path: Path) -> None:
    torch.save({'state_dict': {'w': torch.ones(2)}, 'meta': {'iter': 1}, 'message_hub': payload}, path)


def legacy(payload: Any, path: Path) -> None:
    torch.save({'state_dict': payload}, path, _use_new_zipfile_serialization=False)


def bare(payload: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(payload))


def tar(payload: Any, path: Path) -> None:
    """The form of torch before 0.1.10; each of its records is a pickle."""
    with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as archive:
        for name in ('sys_info', 'storages', 'tensors', 'pickle'):
            data = pickle.dumps(payload)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def torchscript(payload: Any, path: Path) -> None:
    """An archive with the record by which torch tells a TorchScript program."""
    zipped(payload, path)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(f'{archive.namelist()[0].partition("/")[0]}/constants.pkl', pickle.dumps(payload))


FORMS = [zipped, legacy, bare, tar, torchscript]


class Pretrained(BaseModule):
    def __init__(self, path: str, prefix: str | None) -> None:
        super().__init__(dict(type='Pretrained', checkpoint=path, prefix=prefix))
        self.w = torch.nn.Parameter(torch.zeros(2))


def loading_paths(tmp_path: Path) -> dict[str, Callable[[str], Any]]:
    runner = toy_runner(tmp_path / 'run')
    read_failed_step = runpy.run_path(str(ROOT / 'tools' / 'misc' / 'replay.py'))['read_failed_step']

    def auto_resume(path: str) -> None:
        (tmp_path / 'run' / 'last_checkpoint').write_text(path)
        runner._resume, runner._load_from, runner._has_loaded = True, None, False
        runner.load_or_resume()

    def load_from(path: str) -> None:
        runner._resume, runner._load_from, runner._has_loaded = False, path, False
        runner.load_or_resume()

    return {
        'CheckpointLoader': CheckpointLoader.load_checkpoint,
        'load_checkpoint': lambda path: mmengine_checkpoint.load_checkpoint(torch.nn.Linear(1, 1), path),
        'load_from': load_from,
        '--resume PATH': runner.resume,
        '--resume': auto_resume,
        'init_cfg': lambda path: Pretrained(path, None).init_weights(),
        'init_cfg with a prefix': lambda path: Pretrained(path, 'backbone').init_weights(),
        'replay.py': lambda path: read_failed_step(Path(path)),
        'model.pretrained': lambda path: load_pretrained(torch.nn.Linear(1, 1), path, 'backbone.', 'model.pretrained'),
    }


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / 'witness'


@pytest.mark.parametrize('form', [zipped, legacy, bare])
def test_these_files_do_execute_when_they_are_unpickled_freely(form: Callable, tmp_path: Path, witness: Path):
    """Else the next test would prove nothing."""
    path = tmp_path / 'x.pth'
    for name, payload in payloads(witness).items():
        form(payload, path)
        with suppress(TypeError, AttributeError):  # comes after the code has run
            pickle.loads(path.read_bytes()) if form is bare else torch.load(path, weights_only=False)
        assert witness.exists(), name
        witness.unlink()


def refusal(load: Callable[[str], Any], file: Path) -> str:
    try:
        load(str(file))
    except ValueError as error:
        return str(error)
    return 'loaded'


@pytest.mark.slow
def test_every_path_refuses_every_file(tmp_path: Path, witness: Path, capsys: pytest.CaptureFixture):
    count, paths = 0, loading_paths(tmp_path)
    for form in FORMS:
        for name, payload in payloads(witness).items():
            form(payload, file := tmp_path / 'malicious_1.pth')
            for where, load in paths.items():
                with DefaultScope.overwrite_default_scope('unmix'):
                    assert 'malicious_1.pth' in refusal(load, file), f'{where} loads {name} as {form.__name__}'
                assert not witness.exists(), f'{where} executes {name} as {form.__name__}'
                count += 1
    with capsys.disabled():
        print(f'\n{count} loads of malicious files: all refused, nothing ran')


@pytest.mark.slow
def test_the_text_of_a_config_is_not_executed(tmp_path: Path, witness: Path):
    """MMEngine's ``resume`` executes ``meta['config']``, a string, which weights only may hold."""
    toy_runner(tmp_path, train_cfg__max_epochs=1).train()
    file = tmp_path / 'epoch_1.pth'
    checkpoint = torch.load(file, weights_only=False)
    checkpoint['meta']['config'] = f"gpu_ids = [open({str(witness)!r}, 'w').close()]"
    torch.save(checkpoint, file)
    for path in (file, None):
        toy_runner(tmp_path, resume=True, load_from=path and str(path)).train()
        assert not witness.exists()


@pytest.mark.slow
def test_files_that_a_checkpoint_names_are_not_removed(tmp_path: Path):
    """Those of the run that it was copied from, or any."""
    other = tmp_path / 'other'
    other.mkdir()
    files = [other / name for name in ('best_acc_epoch_1.pth', 'interrupted_iter_1.pth', 'letter.txt')]
    for file in files:
        file.write_text('precious')
    toy_runner(other, train_cfg__max_epochs=1).train()
    checkpoint = torch.load(other / 'epoch_1.pth', weights_only=False)
    passing = [str(files[1]), '../other/interrupted_iter_1.pth', '../other', str(other), '../other/letter.txt']
    checkpoint['message_hub']['runtime_info'] |= dict(best_ckpt=str(files[0]), best_score=1.0, passing_ckpts=passing)
    checkpoint['message_hub']['resumed_keys'] |= dict(best_ckpt=True, best_score=True, passing_ckpts=True)
    torch.save(checkpoint, other / 'epoch_1.pth')
    best = dict(interval=1, save_best='acc', rule='greater')
    run = toy_runner(
        tmp_path / 'run', resume=True, load_from=str(other / 'epoch_1.pth'), default_hooks__checkpoint=best
    )
    saver = next(hook for hook in run.hooks if isinstance(hook, CheckpointHook))
    run.signal_hook.after_train_epoch = lambda runner: saver.after_val_epoch(runner, {'acc': 2.0 + runner.epoch})
    run.train()
    assert [file.read_text() for file in files] == ['precious'] * 3
    assert len(list((tmp_path / 'run').glob('best_*.pth'))) == 1


def run_tool(tool: str, *arguments: object) -> int:
    """Run a tool in this process; return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', '0')
        patch.setattr(sys, 'argv', [tool, 'unmix::quickstart/moco_digits', *map(str, arguments)])
        patch.setattr(checkpoint_loading, '_trust', False)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    return end.value.code


@pytest.mark.slow
def test_the_tools_refuse_it_and_trust_it_on_demand(tmp_path: Path, witness: Path, capfd: pytest.CaptureFixture):
    zipped(Call(os.system, f'touch {witness}'), file := tmp_path / 'x.pth')
    places = ['--work-dir', tmp_path / 'run']
    for tool, arguments in {'test.py': [file], 'train.py': ['--resume', file]}.items():
        assert run_tool(tool, *arguments, *places) == 1
        message = capfd.readouterr().err
        assert f"checkpoint '{file}' is refused: it holds 'posix.system'" in message
        assert '--trust-checkpoint' in message
        assert not witness.exists()
    before = dict(os.environ)
    assert run_tool('test.py', file, *places, '--trust-checkpoint') == 1
    printed = capfd.readouterr()
    assert f"checkpoint '{file}' cannot be loaded as weights only. Because of --trust-checkpoint" in printed.out
    assert 'is a checkpoint of another model' in printed.err
    assert witness.exists()
    assert dict(os.environ) == before, 'a child process would trust too'
