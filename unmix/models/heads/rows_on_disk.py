"""A table that lies on disk, and its way into a checkpoint. Shapes: N rows, D numbers each."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmix.utils.files import atomic_path

BLOCK = 1 << 24  # bytes that are read, hashed and written at a time


class RowsOnDisk(nn.Module):
    """Weights and momentum (2, N, D) in float32, mapped into memory from a file.

    The system keeps in memory what it has room for; a step reads and writes the rows of its batch. The file has no
    name and goes with the process. A state dict holds the SHA-256 of the table, and the table itself stands beside, in
    ``<directory>/<SHA-256>.rows``, written when the state dict is made (so by each checkpoint; not again if nothing has
    changed), whole or not at all. Loading copies it back and compares the digest. The newest ``kept`` files stay.

    Args:
        directory: On a file system with room for ``kept + 2`` tables; with several processes one that all of them see.
        num_rows: N.
        dim: D.
        std: Weights start at N(0, std^2), with the numbers that a tensor of this size would get; momentum at 0.
        kept: How many checkpoints can be resumed from.

    Attributes:
        tables: (2, N, D) on the CPU, not a buffer: it does not move with the model, and is not in the state dict.
        digest: (32,) uint8, of the table that was saved or loaded last.

    Raises:
        OSError: If there is no room for the file.
    """

    digest: Tensor

    def __init__(self, directory: str, num_rows: int, dim: int, std: float, kept: int = 3) -> None:
        super().__init__()
        self.directory, self.kept = Path(directory), kept
        self.directory.mkdir(parents=True, exist_ok=True)
        size = 2 * num_rows * dim
        descriptor, path = tempfile.mkstemp('.live', '.', self.directory)
        try:
            if hasattr(os, 'posix_fallocate'):
                os.posix_fallocate(descriptor, 0, 4 * size)  # a full disk is an error here, and a crash later on
            tables = torch.from_file(path, shared=True, size=size, dtype=torch.float32)
        except OSError as error:
            raise OSError(
                error.errno, f'head.rows_dir={directory!r} has no room for {4 * size / 2**30:.1f} GiB: {error.strerror}'
            ) from error
        finally:
            os.close(descriptor)
            os.unlink(path)
        self.tables = tables.view(2, num_rows, dim)
        for rows in self.tables[0].split(1 << 16):
            rows.copy_(std * torch.randn(rows.shape))
        self.register_buffer('digest', torch.zeros(32, dtype=torch.uint8))
        self.register_state_dict_post_hook(RowsOnDisk._save)

    def _blocks(self) -> Iterator[memoryview]:
        whole = self.tables.view(-1).numpy().data.cast('B')
        return (whole[start : start + BLOCK] for start in range(0, len(whole), BLOCK))

    def path(self, digest: Tensor) -> Path:
        """Return where the table with a digest is kept."""
        return self.directory / f'{bytes(digest.tolist()).hex()}.rows'

    def _save(self, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
        sha = hashlib.sha256()
        for block in self._blocks():
            sha.update(block)
        self.digest = torch.frombuffer(bytearray(sha.digest()), dtype=torch.uint8).to(self.digest.device)
        state_dict[f'{prefix}digest'] = self.digest
        path = self.path(self.digest)
        if path.exists():
            os.utime(path)
        else:
            with atomic_path(path) as temporary, open(temporary, 'wb') as file:
                for block in self._blocks():
                    file.write(block)
        by_age = sorted(self.directory.glob('*.rows'), key=lambda old: old.stat().st_mtime_ns)
        for old in by_age[: -self.kept]:
            old.unlink(missing_ok=True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f'{prefix}digest' in state_dict:
            self._load(self.path(self.digest))

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f'The weights of the checkpoint lie in {path}, which is not there: head.rows_dir must be the directory '
                f'of the training that wrote it, which keeps the newest {self.kept} (head.rows_kept).'
            )
        sha = hashlib.sha256()
        with open(path, 'rb') as file:
            whole = file.seek(0, os.SEEK_END) == 4 * self.tables.numel()
            file.seek(0)
            for block in self._blocks() if whole else ():
                file.readinto(block)
                sha.update(block)
        if not whole or sha.hexdigest() != path.stem:
            raise ValueError(f'{path} is damaged, or of another number of instances: its SHA-256 is not its name.')
