"""Can this run go on from that checkpoint, and what will be different?"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

# Top-level keys of a config that say where and how it runs, not what.
_FREE = re.compile(r'[+-](experiment_name|launcher|load_from|resume|work_dir) = ')
_LINES = 20


def check_resumable(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose optimiser or schedules are not there, or are of another kind than the run's.

    MMEngine goes on without those that are not there, and fills the others' values in.

    Raises:
        ValueError: If so.
    """
    source = runner._load_from or 'the latest one of the work dir'
    missing = [key for key in ('meta', 'message_hub', 'optimizer', 'param_schedulers') if key not in checkpoint]
    if missing and not (missing == ['param_schedulers'] and not runner.param_schedulers):
        raise ValueError(
            f'No training can go on from this checkpoint ({source}): it has no {", ".join(missing)}. Resume another '
            'one, or start anew from its weights: without --resume, by --cfg-options load_from=PATH'
        )
    pairs = []
    if isinstance(runner.optim_wrapper, OptimWrapper):
        groups = checkpoint['optimizer'].get('param_groups', []), runner.optim_wrapper.optimizer.param_groups
        pairs.append(('optim_wrapper.optimizer', *groups))
    if isinstance(runner.param_schedulers, list):
        own = [scheduler.state_dict() for scheduler in runner.param_schedulers]
        pairs.append(('param_scheduler', checkpoint.get('param_schedulers', []), own))
    for key, then, now in pairs:
        if len(then) != len(now) or any(_of_another_kind(*pair) for pair in zip(then, now, strict=True)):
            raise ValueError(
                f'{key} is not that of the run whose checkpoint is to be resumed ({source}): {_kinds(then, now)} then, '
                f'{_kinds(now, then)} now. Give the config of that run, or start anew from its weights: without '
                '--resume, by --cfg-options load_from=PATH'
            )


def _of_another_kind(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether each has settings that the other lacks; a new version of one kind adds some only."""
    return bool(then.keys() - now.keys()) and bool(now.keys() - then.keys())


def _kinds(states: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """How many there are, and which settings they have that the others lack."""
    own = {name for state in states for name in state} - {name for state in others for name in state}
    return f'{len(states)} with {", ".join(sorted(own))}' if own else str(len(states))


def config_changes(then: str, now: str) -> str:
    """Say how two texts of configs differ, apart from where they run; empty if they do not."""
    lines = list(difflib.unified_diff(then.splitlines(), now.splitlines(), n=0, lineterm=''))[2:]
    lines = [line for line in lines if line[0] in '+-' and not _FREE.match(line)]
    more = [f'... and {len(lines) - _LINES} lines more'] if len(lines) > _LINES else []
    return '\n'.join(lines[:_LINES] + more)
