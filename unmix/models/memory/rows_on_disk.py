"""A table of weights and momentum in a file, which checkpoints refer to by its digest."""

import hashlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from mmengine.dist import broadcast, is_main_process
from torch import Tensor, nn

from unmix.utils.files import atomic_path

BLOCK = 1 << 24  # bytes that are copied at a time
ROWS = 1 << 14  # rows that are drawn at a time


class RowsOnDisk(nn.Module):
    """Weight and momentum of N rows of D numbers, in a file that is mapped into memory.

    A training step reads and writes only the rows of its batch; the operating system caches what fits into memory. The
    file has no name and disappears with the process. Each process has its own.

    A state dict holds only the SHA-256 of the table. Making a state dict also writes the table to
    ``<directory>/<SHA-256>.rows`` on rank 0, unless it is unchanged since the last time; loading copies that file
    back and verifies the digest. Whole tables are copied in blocks and never held in memory.

    Args:
        directory: Directory of this training alone, with room for the file of each process and one table for each
            checkpoint. Several processes must share it.
        num_rows: N.
        dim: D.
        std: The weights are drawn from N(0, std^2), the same on all ranks and the same as for a tensor in memory. The
            momentum is 0.

    Attributes:
        tables: (N, 2, D) float32 on the CPU: ``[:, 0]`` are the weights, ``[:, 1]`` the momentum. Not a buffer.
        digest: SHA-256 of the table that was last saved or loaded, (32,) uint8; zeros before.

    Raises:
        OSError: If there is no room for the file, or for the table of a checkpoint.
    """

    digest: Tensor

    def __init__(self, directory: str, num_rows: int, dim: int, std: float) -> None:
        super().__init__()
        self.directory, self._size = Path(directory), 8 * num_rows * dim
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file: Any = tempfile.TemporaryFile(buffering=0, dir=self.directory)  # noqa: SIM115
        with self._room_for(f'its {num_rows} rows'):
            if hasattr(os, 'posix_fallocate'):
                os.posix_fallocate(self._file.fileno(), 0, self._size)  # fails before the disk is filled
            with self._whole('wb') as file:
                for start in range(0, num_rows, ROWS):
                    weight = std * torch.randn(min(ROWS, num_rows - start), dim)
                    broadcast(weight, src=0)
                    file.write(torch.stack([weight, torch.zeros_like(weight)], 1).numpy().data)
        mapped = mmap.mmap(self._file.fileno(), self._size)
        if hasattr(mmap, 'MADV_RANDOM'):
            mapped.madvise(mmap.MADV_RANDOM)  # a step reads single rows: do not read the pages around them
        self.tables = torch.frombuffer(mapped, dtype=torch.float32).view(num_rows, 2, dim)
        self.register_buffer('digest', torch.zeros(32, dtype=torch.uint8))
        self._saved_version = self.tables._version
        self._previous: Path | None = None  # table of the checkpoint before, whose file may not be written yet

    def path(self, digest: Tensor) -> Path:
        """Return the file of the table with ``digest`` (32,)."""
        return self.directory / f'{bytes(digest.tolist()).hex()}.rows'

    def prune(self, digests: Iterable[Tensor]) -> None:
        """Remove all tables but those with ``digests`` and those of the last two checkpoints of this process."""
        current = self.path(self.digest)
        needed = {current, self._previous, *map(self.path, digests)}
        for path in set(self.directory.glob('*.rows')) - needed:
            path.unlink(missing_ok=True)
        self._previous = current

    def _whole(self, mode: str) -> IO[bytes]:
        """Open the file at its start. The mapping sees what is written to it, and the other way round."""
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        return open(self._file.fileno(), mode, closefd=False)

    @contextmanager
    def _room_for(self, purpose: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            free = shutil.disk_usage(self.directory).free
            raise OSError(
                error.errno,
                f'head.rows_dir={str(self.directory)!r} has no room for {purpose}: {error.strerror}. It needs '
                f'{self._size / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free. Free some space, or set head.rows_dir '
                'to a directory on another disk',
            ) from error

    def _save_to_state_dict(self, *args: Any) -> None:
        if self.tables._version != self._saved_version:
            with self._whole('rb') as file:
                digest = _copy(file)
            if is_main_process():
                with (
                    self._room_for('the rows of a checkpoint'),
                    atomic_path(self.path(digest)) as temporary,
                    open(temporary, 'wb') as target,
                    self._whole('rb') as file,
                ):
                    _copy(file, target)
            self.digest, self._saved_version = digest.to(self.digest.device), self.tables._version
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f'{prefix}digest' not in state_dict:
            return
        path = self._previous = self.path(self.digest)
        if not path.is_file():
            raise FileNotFoundError(
                f'The weights of the checkpoint are in {path}, which does not exist. Set head.rows_dir to the '
                'directory of the training that wrote the checkpoint. A model that was not trained has no such file.'
            )
        whole = path.stat().st_size == self._size
        with open(path, 'rb') as file, self._whole('wb') as own:
            if not whole or not torch.equal(_copy(file, own), self.digest.cpu()):
                raise ValueError(
                    f'{path} is damaged, or of another number of instances: its name is not its SHA-256. Restore the '
                    'file, or resume from another checkpoint.'
                )
        self._saved_version = self.tables._version


def _copy(source: IO[bytes], target: IO[bytes] | None = None) -> Tensor:
    """Copy a file block by block, or only read it; return its SHA-256, (32,) uint8."""
    sha = hashlib.sha256()
    while block := source.read(BLOCK):
        sha.update(block)
        if target is not None:
            target.write(block)
    return torch.frombuffer(bytearray(sha.digest()), dtype=torch.uint8)
