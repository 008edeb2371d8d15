"""Memory that a call needs beyond what was there before it."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def extra_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes of tensors, on the CPU, that are alive at a time during ``call`` and were not before it.

    Counted by PyTorch's profiler, allocation by allocation, so nothing of the machine is in it. Buffers inside of
    matrix products are not counted; :func:`extra_resident` sees them.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    alive = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def extra_resident(call: Callable[[], object]) -> int:
    """Return by how many bytes the process's resident set rises above where it stands, at most, during ``call``.

    The call is made in a fork of this process, whose peak the system counts from zero (Linux).
    """
    gc.collect()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            Path('/proc/self/clear_refs').write_text('5')
            before = _status('VmRSS')
            call()
            os.write(writing, str(_status('VmHWM') - before).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text:
        raise RuntimeError('The process that measured memory ended early; it may have been killed for want of it.')
    return int(text)


def _status(key: str) -> int:
    """Return a size of this process in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f'{key}:'))
