"""For programs on the null GPU: counters, the places where the host waits, and what replaces what cannot run there."""

import collections
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

# As enum counter in src/nullgpu.h, which has what each counts.
COUNTERS = ('launch', 'blas', 'nccl', 'copy', 'fill', 'pageable', 'aside', 'wait', 'other')
PACKAGES = ('unmix', 'mmengine')  # whose functions are named as places


def _library() -> ctypes.CDLL:
    path = Path(os.environ.get('NULLGPU_BUILD', ''), 'libnullgpu.so')
    if path.name not in os.environ.get('LD_PRELOAD', ''):
        raise RuntimeError('This program needs the null GPU: start it by `python -m tests.nullgpu PROGRAM`.')
    return ctypes.CDLL(str(path))


_lib = _library()
_lib.nullgpu_count.restype = ctypes.c_long
_Watcher = ctypes.CFUNCTYPE(None, ctypes.c_int)


@contextlib.contextmanager
def filled(byte: int) -> Iterator[None]:
    """Let new device memory be full of a byte. With ``PYTORCH_NO_CUDA_MEMORY_CACHING=1`` every tensor's memory is new.

    0x3f, the default, reads as true, as 0.747 and as an integer that is no index; 0 as false, 0.0 and index 0.
    """
    before = _lib.nullgpu_fill(byte)
    try:
        yield
    finally:
        _lib.nullgpu_fill(before)


def memory() -> tuple[int, int]:
    """Return how many bytes of device memory were held at most since the last call, and how many are now."""
    peak, now = ctypes.c_long(), ctypes.c_long()
    _lib.nullgpu_memory(ctypes.byref(peak), ctypes.byref(now))
    return peak.value, now.value


class Counted:
    """Count calls, measure the host's time and find where the host waits, within a with block.

    Attributes:
        calls: Number of calls by counter.
        seconds: Time of the host.
        waits: Places where the host waits for the device, and how often.
        pageable: Places from where memory that is not pinned is copied to the device, and how often.
    """

    def __enter__(self) -> 'Counted':
        self.waits: collections.Counter[str] = collections.Counter()
        self.pageable: collections.Counter[str] = collections.Counter()
        self._watcher = _Watcher(self._watch)
        self._begin = self._counts()
        _lib.nullgpu_watch(self._watcher)
        self._clock = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._clock
        _lib.nullgpu_watch(None)
        self.calls = {name: value - self._begin[name] for name, value in self._counts().items()}

    @staticmethod
    def _counts() -> dict[str, int]:
        return {name: _lib.nullgpu_count(i) for i, name in enumerate(COUNTERS)}

    def _watch(self, kind: int) -> None:
        places = self.waits if COUNTERS[kind] == 'wait' else self.pageable
        places[place()] += 1

    @property
    def kernels(self) -> int:
        """What a device would have in its queue: kernels, products, copies and fills."""
        return sum(self.calls[name] for name in ('launch', 'blas', 'copy', 'fill'))


def place() -> str:
    """Return file and name of the innermost running function that is of PACKAGES, else of the innermost of all."""
    frame, innermost = sys._getframe(1), 'the backward pass'  # whose thread has no Python frames
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        own = path.parent == Path(__file__).parent
        package = next((name for name in PACKAGES if name in path.parts and 'torch' not in path.parts), None)
        if package is not None:
            first = len(path.parts) - 1 - path.parts[::-1].index(package)
            return f'{"/".join(path.parts[first:])} {frame.f_code.co_name}'
        if not own and innermost == 'the backward pass':
            innermost = f'{path.name} {frame.f_code.co_name}'
        frame = frame.f_back  # type: ignore[assignment]
    return innermost


# ---------------------------------------------------------------- what cannot run as it is
_kept: list[Any] = []  # a registration ends with its object


class _Convolution(torch.autograd.Function):
    """Shapes, types, memory formats and kernels of a convolution: one forward, one for each gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
        if weight.device != x.device or weight.dtype != x.dtype:
            raise RuntimeError(f'convolution of {x.dtype} on {x.device} by {weight.dtype} on {weight.device}')
        sizes = [
            (size + 2 * pad - spread * (kernel - 1) - 1) // step + 1
            for size, pad, spread, kernel, step in zip(
                x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
            )
        ]
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        memory_format = torch.channels_last if last else torch.contiguous_format
        ctx.save_for_backward(x, weight)
        shape = (len(x), len(weight), *sizes)
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format).zero_()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        asked = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        return *(torch.empty_like(tensor).zero_() if needed else None for tensor, needed in asked), None, None, None


def without_cudnn() -> None:
    """Replace the convolution of ``Conv2d``: cuDNN needs a driver. BatchNorm and attention have kernels of PyTorch."""

    others = nn.Conv2d._conv_forward

    def convolve(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not x.is_cuda:
            return others(self, x, weight, bias)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        y: Tensor = _Convolution.apply(x, weight, self.stride, self.padding, self.dilation)
        return y if bias is None else y + bias.view(1, -1, 1, 1).to(y.dtype)

    torch.backends.cudnn.enabled = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    nn.Conv2d._conv_forward = convolve  # type: ignore[method-assign]


def without_linalg_errors() -> None:
    """Let no function of torch.linalg raise: kernels decide whether a matrix failed. The host still waits for them."""
    library = torch.library.Library('aten', 'IMPL')

    def check(infos: Tensor, api_name: str, *, is_matrix: bool) -> None:
        infos.any().item()

    library.impl('_linalg_check_errors', check, 'CUDA')
    _kept.append(library)


def integers_on_host() -> None:
    """Compute ``cat``, ``sum``, ``max`` and ``aminmax`` of integers on the host.

    Small integers that came from the host, such as labels, keep their values on the device. The size of a table and the
    collectives of objects depend on them.
    """

    def is_integer(x: Any) -> bool:
        return isinstance(x, Tensor) and x.is_cuda and x.dtype in (torch.uint8, torch.int64)

    def computed(function: Any) -> Any:
        def compute(x: Any, *args: Any, **kwargs: Any) -> Any:
            parts = x if isinstance(x, Tensor) else list(x)
            first = parts if isinstance(parts, Tensor) else parts[0]
            if not is_integer(first) or 'out' in kwargs:
                return function(parts, *args, **kwargs)
            host = parts.cpu() if isinstance(parts, Tensor) else [part.cpu() for part in parts]
            return tree_map_only(Tensor, lambda result: result.to(first.device), function(host, *args, **kwargs))

        return compute

    for owner, name in ((torch, 'cat'), (torch, 'sum'), (Tensor, 'max'), (Tensor, 'aminmax')):
        setattr(owner, name, computed(getattr(owner, name)))
