"""Log of scalars on a disk that may be full."""

import logging
import os
from typing import Any

from mmengine.logging import print_log
from mmengine.visualization import LocalVisBackend

from unmix.registry import VISBACKENDS


@VISBACKENDS.register_module()
class PatientVisBackend(LocalVisBackend):
    """MMEngine's ``LocalVisBackend``, which drops lines of scalars that cannot be written.

    A full disk leaves no half line and does not end the run here: ``default_hooks.checkpoint.on_write_error`` decides.
    Arguments are those of ``LocalVisBackend``.
    """

    _incomplete = False

    def _dump(self, value_dict: dict[str, Any], file_path: str, file_format: str) -> None:
        size = os.path.getsize(file_path) if os.path.exists(file_path) else 0
        try:
            super()._dump(value_dict, file_path, file_format)
        except OSError as error:
            if os.path.exists(file_path):
                os.truncate(file_path, size)
            if not self._incomplete:
                self._incomplete = True
                message = (
                    f'Scalars cannot be written to {os.path.dirname(file_path)} ({error.strerror}); lines are lost'
                )
                print_log(message, 'current', logging.WARNING)
