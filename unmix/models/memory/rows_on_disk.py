"""A table that lies on disk, and its way into a checkpoint. Shapes: N rows, D numbers each."""

import hashlib
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast, get_world_size, is_main_process
from torch import Tensor, nn

from unmix.utils.files import atomic_path

BLOCK = 1 << 24  # bytes that are read, hashed and written at a time
ROWS = 1 << 14  # rows that are drawn at a time


class RowsOnDisk(nn.Module):
    """Weight and momentum of each row, (N, 2, D) in float32, mapped into memory from a file.

    The system keeps in memory what it has room for; a step reads and writes the rows of its batch, each from one place
    of the file. The file has no name and goes with the process; each process has its own. All else goes by it block by
    block, not through memory.

    A state dict holds the SHA-256 of the table, and the table itself stands beside, in ``<directory>/<SHA-256>.rows``,
    written by rank 0 when a state dict is made, whole or not at all; not again if no row has been written since. Of a
    table that no step has written to there is none: the one at hand stays. Loading copies it back and compares the
    digest. :meth:`prune` removes old ones; :class:`InstanceHook` calls it at each checkpoint.

    Args:
        directory: Of this training alone, on a file system with room for ``kept + 1`` tables (at least 3) and one for
            each process on it; with several processes one that all of them see.
        num_rows: N.
        dim: D.
        std: Weights start at N(0, std^2), with the numbers that a tensor of this size would get (rank 0's, with several
            processes); momentum at 0.
        kept: How many checkpoints can be resumed from.

    Attributes:
        tables: (N, 2, D) on the CPU, not a buffer: it does not move with the model, and is not in the state dict.
        digest: (32,) uint8, of the table that was saved or loaded last; 0 before.

    Raises:
        OSError: If there is no room for the file, or for that of a checkpoint.
    """

    digest: Tensor

    def __init__(self, directory: str, num_rows: int, dim: int, std: float, kept: int = 3) -> None:
        super().__init__()
        if kept < 1:
            raise ValueError(f'head.rows_kept is {kept}; at least one checkpoint has to be kept.')
        self.directory, self.kept = Path(directory), kept
        self.directory.mkdir(parents=True, exist_ok=True)
        size = 8 * num_rows * dim
        self._file: Any = tempfile.TemporaryFile(buffering=0, dir=self.directory)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        try:
            if hasattr(os, 'posix_fallocate'):
                os.posix_fallocate(self._file.fileno(), 0, size)  # refused before the disk is filled
            self._fill(num_rows, dim, std)
        except OSError as error:
            raise self._no_room(error, f'for its {num_rows} rows', size) from error
        mapped = mmap.mmap(self._file.fileno(), size)
        if hasattr(mmap, 'MADV_RANDOM'):
            mapped.madvise(mmap.MADV_RANDOM)  # a step wants single rows: read no more than their pages
        self.tables = torch.frombuffer(mapped, dtype=torch.float32).view(num_rows, 2, dim)
        self.register_buffer('digest', torch.zeros(32, dtype=torch.uint8))
        self._saved_version = self.tables._version
        self._checkpoint: Path | None = None
        self.register_state_dict_post_hook(RowsOnDisk._save)

    def _fill(self, num_rows: int, dim: int, std: float) -> None:
        with self._whole('wb') as file:
            for start in range(0, num_rows, ROWS):
                rows = torch.zeros(min(ROWS, num_rows - start), 2, dim)
                weight = std * torch.randn(len(rows), dim)
                if get_world_size() > 1:
                    broadcast(weight, src=0)
                rows[:, 0] = weight
                file.write(rows.numpy().data.cast('B'))

    def _whole(self, mode: str) -> Any:
        """Open the file at its start; the mapping sees what is written, and what it has written is read."""
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        return open(self._file.fileno(), mode, closefd=False)

    def _blocks(self) -> Iterator[memoryview]:
        with self._whole('rb') as file:
            yield from _blocks(file)

    def _no_room(self, error: OSError, purpose: str, size: int) -> OSError:
        free = shutil.disk_usage(self.directory).free
        return OSError(
            error.errno,
            f'head.rows_dir={str(self.directory)!r} has no room {purpose}: {error.strerror}. It needs '
            f'{size / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free. Make room, or give a directory on another disk',
        )

    def path(self, digest: Tensor) -> Path:
        """Return where the table with a digest is kept."""
        return self.directory / f'{bytes(digest.tolist()).hex()}.rows'

    def _save(self, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
        if self.tables._version != self._saved_version:
            sha = hashlib.sha256()
            for block in self._blocks():
                sha.update(block)
            digest = torch.frombuffer(bytearray(sha.digest()), dtype=torch.uint8).to(self.digest.device)
            if is_main_process():
                self._write(self.path(digest))
            self.digest, self._saved_version = digest, self.tables._version
        state_dict[f'{prefix}digest'] = self.digest

    def _write(self, path: Path) -> None:
        if path.exists():
            return os.utime(path)
        try:
            with atomic_path(path) as temporary, open(temporary, 'wb') as file:
                for block in self._blocks():
                    file.write(block)
        except OSError as error:
            raise self._no_room(error, 'for the rows of a checkpoint', 4 * self.tables.numel()) from error

    def prune(self) -> None:
        """Keep the newest tables, and that of the checkpoint before this one, which may not be written yet."""
        newest = sorted(self.directory.glob('*.rows'), key=lambda path: path.stat().st_mtime_ns)[-self.kept :]
        current = self.path(self.digest)
        for path in set(self.directory.glob('*.rows')) - {*newest, current, self._checkpoint}:
            path.unlink(missing_ok=True)
        self._checkpoint = current

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        trained = bool(self.digest.any()) or self.tables._version != self._saved_version
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f'{prefix}digest' not in state_dict or not (trained or self.digest.any()):
            return
        if not self.digest.any():
            raise ValueError(f'The state dict has no {prefix}digest of a trained table; load it into a new model.')
        self._checkpoint = self.path(self.digest)
        self._load(self._checkpoint)
        self._saved_version = self.tables._version

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f'The weights of the checkpoint lie in {path}, which is not there: head.rows_dir must be the directory '
                f'of the training that wrote it, which keeps the newest {self.kept} (head.rows_kept).'
            )
        sha = hashlib.sha256()
        whole = path.stat().st_size == 4 * self.tables.numel()
        with open(path, 'rb') as file, self._whole('wb') as own:
            for block in _blocks(file) if whole else ():
                own.write(block)
                sha.update(block)
        if not whole or sha.hexdigest() != path.stem:
            raise ValueError(f'{path} is damaged, or of another number of instances: its SHA-256 is not its name.')


def _blocks(file: Any) -> Iterator[memoryview]:
    """Read a file block by block, each to the place of the one before."""
    room = memoryview(bytearray(BLOCK))
    while size := file.readinto(room):
        yield room[:size]
