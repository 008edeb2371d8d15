"""The log of a run's scalars, where the disk may be full."""

import errno
import logging
import os
from typing import Any

from mmengine.fileio import dump
from mmengine.logging import print_log
from mmengine.visualization import LocalVisBackend

from unmix.registry import VISBACKENDS


@VISBACKENDS.register_module()
class PatientVisBackend(LocalVisBackend):
    """MMEngine's ``LocalVisBackend``, whose lines of scalars wait in memory while they cannot be written.

    So a full disk neither ends a run (``default_hooks.checkpoint.on_write_error`` says what does) nor leaves half a
    line. Arguments are those of ``LocalVisBackend``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[str, list[str]] = {}

    def _dump(self, value_dict: dict, file_path: str, file_format: str) -> None:
        lines = self._waiting.setdefault(file_path, [])
        lines.append(dump(value_dict, file_format=file_format) + '\n')
        try:
            _append(file_path, ''.join(lines).encode())
        except OSError as error:
            if len(lines) == 1:
                message = f'{file_path} cannot be written ({error.strerror}); its lines wait in memory'
                print_log(message, 'current', logging.WARNING)
        else:
            lines.clear()


def _append(path: str, data: bytes) -> None:
    """Append all of ``data``, or nothing.

    Raises:
        OSError: If it cannot be written.
    """
    with open(path, 'ab', buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if file.write(data) < len(data):  # the rest does not fit
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
