"""A training that torchrun has restarted goes on where it was."""

import json
import os
import socket
from pathlib import Path

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.runner import Runner

from unmix.engine.work_dir import sole_use
from unmix.latest_checkpoint import LATEST
from unmix.utils.dist import agreed
from unmix.utils.files import atomic_path

NOTE = 'elastic.json'


def resume_after_restart(runner: Runner) -> bool:
    """Let ``runner`` resume the job's latest checkpoint if torchrun has restarted its processes; say whether it has.

    After a process has died, or a machine has come back, all processes start again with the command line of the first
    time. ``elastic.json`` in the work dir tells the two apart: it notes the job's agents, which are the ``torchrun``
    processes and outlive their workers, and the time stamp of ``last_checkpoint`` when the job began. (The count of
    restarts would not do: an agent that only follows another one's restart does not count it.) A checkpoint that is
    older than the job is not its own; without a newer one the job begins again as its command line says.

    Call it on every rank, before ``runner.train()``.
    """
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return False
    agent = f'{os.environ["TORCHELASTIC_RUN_ID"]} {socket.gethostname()} {os.getppid()}'
    agents = set(all_gather_object(agent))
    decision = [False]
    with sole_use(runner.work_dir), agreed():  # the note of a training that is at work there is not replaced
        if is_main_process():
            decision[0] = _has_progress(Path(runner.work_dir), agents)
    broadcast_object_list(decision)
    if decision[0]:
        runner._resume, runner._load_from = True, None
        runner.logger.warning('Restarted by torchrun: going on from the latest checkpoint in %s', runner.work_dir)
    return decision[0]


def _has_progress(work_dir: Path, agents: set[str]) -> bool:
    """Whether these agents' job has begun before and saved a checkpoint since; notes them if it has not begun."""
    note, pointer = work_dir / NOTE, work_dir / LATEST
    stamp = pointer.stat().st_mtime_ns if pointer.is_file() else None
    job = json.loads(note.read_text()) if note.is_file() else dict(agents=[])
    if agents.isdisjoint(job['agents']):
        job = dict(agents=[], last_checkpoint=stamp)
    job['agents'] = sorted(agents.union(job['agents']))
    with atomic_path(note) as path:
        path.write_text(json.dumps(job, indent=1))
    return stamp != job['last_checkpoint']
