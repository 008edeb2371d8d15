"""The command line that continues a run."""

import os
import shlex
import sys
from pathlib import Path


def resume_command(config: str | None, work_dir: str) -> str:
    """Return one command that resumes the newest checkpoint of ``work_dir``.

    Under ``tools/train.py`` and ``unmix train`` it is this process's own command with ``--resume``, so that every
    option stays. In any other program it is ``tools/train.py`` with the run's config.
    """
    own = Path(sys.argv[0]).stem in ('train', 'unmix')
    words = list(sys.argv) if own else ['tools/train.py', config or 'CONFIG']
    if '--work-dir' not in words:
        words += ['--work-dir', work_dir]
    if words[-1] != '--resume':  # of several the last one counts
        words.append('--resume')
    return f'  {shlex.join([*_launcher(Path(words[0])), *words])}'


def _launcher(program: Path) -> list[str]:
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return ['python'] if program.suffix == '.py' else []
    nodes = os.environ.get('GROUP_WORLD_SIZE', '1')
    return ['torchrun', f'--nnodes={nodes}', f'--nproc_per_node={os.environ.get("LOCAL_WORLD_SIZE", "1")}']
