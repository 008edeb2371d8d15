"""Copying the next batch to a device while the present one is computed on."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor


class Prefetcher:
    """Iterate over batches on the host; each is copied to the device on a stream of its own, one batch ahead.

    The copies of the next batch are queued when a batch is delivered, so they run beside its step. The host does not
    wait for them if the batches are pinned. The next batch is taken one iteration early; an error there, or the end,
    is raised when that batch is asked for. So a batch that was copied and not used is as one that was never loaded.

    Args:
        batches: Batches on the host.
        preprocessor: Whose ``cast_data`` copies a batch to its device.
    """

    def __init__(self, batches: Iterator[Any], preprocessor: BaseDataPreprocessor) -> None:
        self._batches, self._preprocessor = batches, preprocessor
        self._stream = torch.cuda.Stream(preprocessor.device)
        self._copies: Any = None
        self._ahead: tuple[Any, Any, torch.cuda.Event] | None = None
        self._error: Exception | None = None  # None at the end: a StopIteration would keep all frames that it left
        self._take()

    def __iter__(self) -> 'Prefetcher':
        return self

    def __next__(self) -> Any:
        """Return the next batch on the host, and begin to copy the one after it."""
        if self._ahead is None:
            self._copies = None
            raise StopIteration if self._error is None else self._error
        batch, self._copies, copied = self._ahead
        self._compute().wait_event(copied)
        self._take()
        return batch

    def on_device(self) -> Any:
        """Return the copy of the batch that was delivered last; work queued from now on finds it complete."""
        return self._copies

    def _take(self) -> None:
        """Take a batch and queue its copies.

        They may get memory that the batch before the last one has freed, while its step is still computed; therefore
        they wait for what is queued.
        """
        self._ahead = None
        try:
            batch = next(self._batches)
            self._stream.wait_stream(self._compute())
            with torch.cuda.stream(self._stream):
                copies = self._preprocessor.cast_data(batch)
            self._ahead = batch, copies, self._stream.record_event()
        except StopIteration:
            pass
        except Exception as error:
            self._error = error

    def _compute(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._preprocessor.device)
