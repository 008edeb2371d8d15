"""What is printed, and what is not."""

import re
import sys
from pathlib import Path

import pytest
from engine_toy import toy_runner

LINE = (
    r'loss_base \d\.\d{4}  loss_unmix \d\.\d{4}  lr \S+  \d+\.\d ms/step  data wait \d+%  (RAM|CUDA) \d+\.\d\d GiB  '
    r'left 0:00:\d\d'
)


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_lines_by_epoch(tmp_path, capsys):
    runner = toy_runner(tmp_path, train_cfg__max_epochs=5, default_hooks__progress__interval=2)
    runner.train()
    console = capsys.readouterr().out
    lines = lines_of(console, 'epoch ')
    assert [line.split()[1] for line in lines] == ['2/5', '4/5', '5/5']
    assert all(re.fullmatch(rf'epoch \d/5  {LINE}', line) for line in lines)
    scalars = runner.message_hub.log_scalars
    assert f'loss_base {scalars["train/loss_base"].mean(50):.4f}' in lines[-1]
    assert f'lr {runner.message_hub.get_scalar("train/lr").current():.3g}' in lines[-1]
    assert 'Epoch(train)' not in console
    (log,) = Path(runner.work_dir).rglob('*.log')
    assert log.read_text().count('Epoch(train)') == 5


def test_lines_by_iteration(tmp_path, capsys):
    toy_runner(tmp_path, default_hooks__progress=dict(type='ProgressHook', interval=7, by_epoch=False)).train()
    lines = lines_of(capsys.readouterr().out, 'iter ')
    assert [line.split()[1] for line in lines] == ['7/18', '14/18', '18/18']
    assert all(re.fullmatch(rf'iter \d+/18  {LINE}', line) for line in lines)


def test_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '200')
    runner = toy_runner(tmp_path, default_hooks__checkpoint__interval=1)
    runner.train()
    console = capsys.readouterr().out
    assert re.search(r'epoch 3/3 .*' + LINE, console)
    assert 'Saving checkpoint at 2 epochs' in console
    assert console.rindex('\x1b[?25h') > console.index('\x1b[?25l')  # the cursor is back


def test_validation_line(tmp_path, capsys):
    runner = toy_runner(tmp_path)
    runner.train()
    runner.call_hook('before_val')
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'ProgressHook')
    hook.after_val_epoch(runner, {'knn/top1': 97.123, 'confusion': [1]})
    assert lines_of(capsys.readouterr().out, 'evaluation') == ['evaluation after epoch 3  knn/top1 97.12']


@pytest.mark.slow
def test_interval_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match=r'progress\.interval is 0'):
        toy_runner(tmp_path, default_hooks__progress__interval=0)
