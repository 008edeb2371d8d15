"""Process groups from the environment of a launcher, and resumption after a restart by torchrun."""

import datetime
import json
import os
import socket
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, broadcast_object_list, init_dist, is_main_process
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner

from unmix.checkpoint.latest import find_latest_checkpoint, search
from unmix.engine.start import collective_timeout
from unmix.engine.work_dir import sole_use
from unmix.utils.dist import agreed
from unmix.utils.files import atomic_path
from unmix.utils.run_files import current_run

NOTE = 'elastic.json'
# rank, number of processes, rank on its machine
_RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


def init_cpu_distributed(cfg: Config) -> None:
    """Set up several processes without CUDA; call it before the ``Runner`` is built.

    MMEngine's ``init_dist`` needs CUDA, and gives DDP a device also for modules on the CPU; SyncBatchNorm needs a GPU.
    Therefore this function uses gloo, sets ``device_ids=None``, and removes ``sync_bn``. ``cfg.launcher`` is 'pytorch',
    'slurm' or 'mpi' (Open MPI); ``cfg.env_cfg.dist_cfg`` may have ``timeout`` (seconds) and ``port``. With an
    accelerator only environment variables are set: DDP reads LOCAL_RANK, which mpirun does not set.

    Raises:
        ValueError: The launcher's environment variables are missing.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher not in _RANK_VARIABLES:
        return
    dist_cfg = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    set_rendezvous(launcher, dist_cfg.get('port'))
    if get_device() != 'cpu':
        return
    if not torch.distributed.is_initialized():
        timeout = collective_timeout(cfg)
        delta = None if timeout is None else datetime.timedelta(seconds=timeout)
        torch.distributed.init_process_group('gloo', timeout=delta)
    # Assigned, not changed in place, since a Config returns copies.
    wrapper: dict[str, Any] = dict(cfg.get('model_wrapper_cfg') or {'broadcast_buffers': False})
    wrapper.setdefault('type', 'MMDistributedDataParallel')
    if issubclass(MODEL_WRAPPERS.get(wrapper['type']), torch.nn.parallel.DistributedDataParallel):
        wrapper.setdefault('find_unused_parameters', cfg.get('find_unused_parameters', False))
        wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper
    if cfg.pop('sync_bn', None) is not None:
        warnings.warn('sync_bn is ignored: SyncBatchNorm works on GPUs only', stacklevel=2)


def init_distributed(cfg: Config) -> None:
    """Set up the processes of ``cfg.launcher`` before a ``Runner`` does, on the devices of this machine."""
    init_cpu_distributed(cfg)
    launcher = cfg.get('launcher', 'none')
    if launcher != 'none' and not torch.distributed.is_initialized():
        init_dist(launcher, **((cfg.get('env_cfg') or {}).get('dist_cfg') or {}))


def set_rendezvous(launcher: str, port: int | None) -> None:
    """Translate the launcher's environment variables into those of ``torch.distributed``."""
    missing = [name for name in _RANK_VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise ValueError(
            f'launcher={launcher!r}: the environment variables {", ".join(missing)} are not set, so this process '
            'was not started by that launcher. Use tools/dist_train.sh, srun or mpirun, or launcher="none"'
        )
    for name, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), _RANK_VARIABLES[launcher], strict=True):
        os.environ[name] = os.environ[source]
    if launcher == 'slurm':
        if port is not None:
            os.environ['MASTER_PORT'] = str(port)
        os.environ.setdefault('MASTER_PORT', _port_of_job())
        if torch.cuda.device_count() == 1:  # each task sees its own only, so all call it 0; MMEngine reads both
            os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID'] = '0'
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_host(launcher)


def _port_of_job() -> str:
    """Return a port that all tasks of a Slurm step find, and other jobs and steps on the same machine do not.

    It is below 32768, where the ports begin that the system gives to connections.
    """
    job, step = (int(os.environ.get(name, 0)) for name in ('SLURM_JOB_ID', 'SLURM_STEP_ID'))
    return str(10_000 + (job + 997 * step) % 20_000)


def _first_host(launcher: str) -> str:
    """Return the address of the machine with rank 0, which the launcher does not set."""
    if launcher == 'slurm':
        nodes = os.environ.get('SLURM_NODELIST', '')
        if os.environ.get('SLURM_NNODES', '1') == '1':
            return '127.0.0.1'
        command = ['scontrol', 'show', 'hostnames', nodes]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
    if os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == os.environ['WORLD_SIZE']:
        return '127.0.0.1'
    raise ValueError(
        f'launcher={launcher!r} on several machines: set MASTER_ADDR to the address of the one with rank 0'
    )


def choose_start(runner: Runner, resume: str | None) -> None:
    """Decide where the training of a Runner begins. Call it on every rank, before ``runner.train()``.

    After a restart by torchrun it is the newest checkpoint of the job (:func:`restarted_from`). Otherwise it is the
    checkpoint ``resume``, with ``'auto'`` the newest of the work dir. Without any it is the start, with the weights of
    ``load_from``, if the config has them.

    Raises:
        ValueError: If the work dir has checkpoints, but none can be resumed.
    """
    path = restarted_from(runner)
    if path is not None:
        runner.logger.warning('Restarted by torchrun: resuming the latest checkpoint of this job, %s', path)
    elif resume is not None:
        path = find_latest_checkpoint(runner.work_dir) if resume == 'auto' else resume
        runner.logger.info(f'Resuming {path}' if path else f'{runner.work_dir} has no checkpoint: training begins')
    if path is not None:
        runner._resume, runner._load_from = True, path


def restarted_from(runner: Runner) -> str | None:
    """Return the newest checkpoint of the job if torchrun has restarted its processes, else None.

    torchrun restarts all processes with the original command line after one has died or a machine has come back.
    ``elastic.json`` in the work dir distinguishes a restart from a first start. It has the job's agents (the
    ``torchrun`` processes, which survive their workers) and the run of the work dir when the job began. The restart
    count of torchrun is not used: an agent does not count the restarts that another one causes. Only a checkpoint of
    the run that the job has started is resumed; without one the job follows its command line.
    """
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        if is_main_process():
            Path(runner.work_dir, NOTE).unlink(missing_ok=True)  # the run that begins now is none of torchrun's jobs
        return None
    agents = set(all_gather_object(_agent()))
    found: list[str | None] = [None]
    with sole_use(runner.work_dir), agreed():  # a training that runs there keeps its note
        if is_main_process() and _has_begun(Path(runner.work_dir), agents):
            found[0] = search(Path(runner.work_dir))[0]
    broadcast_object_list(found)
    return found[0]


def begun_by_this_job(work_dir: str | Path) -> bool:
    """Return whether the torchrun job of this process has begun a run in a work dir, so that it has restarted it."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return False
    job = _read_note(Path(work_dir, NOTE))
    return job is not None and _agent() in job['agents'] and current_run(work_dir) not in (None, job['before'])


def _read_note(note: Path) -> dict[str, Any] | None:
    try:
        job = json.loads(note.read_text(encoding='utf-8'))
        return job if {'agents', 'before'} <= job.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _agent() -> str:
    """Return a text that no other process has than the parent of this one, not even in another container.

    Process numbers and names of machines repeat in containers, so the boot and the time of the start belong to it.
    """
    parent = os.getppid()
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()
        begin = (
            Path(f'/proc/{parent}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()[19]
        )  # in ticks since the boot
    except (OSError, IndexError):  # not Linux
        boot = ''
        command = ['ps', '-o', 'lstart=', '-p', str(parent)]
        begin = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return f'{os.environ["TORCHELASTIC_RUN_ID"]} {socket.gethostname()} {boot} {parent} {begin}'


def _has_begun(work_dir: Path, agents: set[str]) -> bool:
    """Return whether the job of these agents has started a run before; write the agents to ``elastic.json``."""
    note, run = work_dir / NOTE, current_run(work_dir)
    job = _read_note(note)
    if job is None or agents.isdisjoint(job['agents']):
        job = dict(agents=[], before=run)
    job['agents'] = sorted(agents.union(job['agents']))
    with atomic_path(note) as path:
        path.write_text(json.dumps(job, indent=1), encoding='utf-8')
    return bool(run != job['before'])
