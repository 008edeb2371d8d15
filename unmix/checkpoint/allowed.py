"""What the pickle of a checkpoint may make, each type with exactly the arguments and states that its library writes.

Tensors become a :class:`TensorInfo`: their sizes and strides are compared with the bytes in the file before anything is
allocated. Arrays are made, since their bytes are in the pickle itself. torch's unpickler for ``weights_only=True``
has no such rules; it calls torch's and numpy's functions with any arguments.
"""

import math
import reprlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from unmix.checkpoint.archive import FormError

SMALL = 2**24  # bytes of a tensor that may be larger than its storage, such as one that is expanded
_STORAGES = dict(
    DoubleStorage=torch.float64,
    FloatStorage=torch.float32,
    HalfStorage=torch.float16,
    BFloat16Storage=torch.bfloat16,
    LongStorage=torch.int64,
    IntStorage=torch.int32,
    ShortStorage=torch.int16,
    CharStorage=torch.int8,
    ByteStorage=torch.uint8,
    BoolStorage=torch.bool,
    ComplexFloatStorage=torch.complex64,
    ComplexDoubleStorage=torch.complex128,
)
_DTYPES = (
    *dict.fromkeys(_STORAGES.values()),
    *(getattr(torch, name) for name in ('uint16', 'uint32', 'uint64', 'float8_e4m3fn', 'float8_e5m2')),
)
_NUMERIC = {np.dtype(code).str[1:] for code in '?' + np.typecodes['AllInteger'] + np.typecodes['Float']}
_HISTORY = dict(max_length=int, _log_history=np.ndarray, _count_history=np.ndarray, statistics_methods=dict)
_STATISTICS = ('min', 'max', 'current', 'mean')


class RefusedError(FormError):
    """The pickle names a type or function that is not allowed.

    Attributes:
        what: Its dotted name.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f'it holds {what!r}')
        self.what = what


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a checkpoint, whose values were not read."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Storage:
    """The bytes of tensors.

    Attributes:
        key: Its name in the file.
        dtype: Type of its elements; None: bytes, for tensors of any type.
        numel: Number of its elements.
    """

    key: str
    dtype: torch.dtype | None
    numel: int

    @property
    def nbytes(self) -> int:
        """Number of its bytes."""
        return self.numel * (1 if self.dtype is None else self.dtype.itemsize)


@dataclass(frozen=True)
class Global:
    """A name that is allowed: ``call`` takes its arguments; None: it may only be named."""

    name: str
    call: Callable[..., Any] | None = None


@dataclass(frozen=True)
class StorageType:
    """What a class of storages, such as ``torch.FloatStorage``, says of the numbers; None: nothing, they are bytes."""

    dtype: torch.dtype | None


@dataclass(eq=False)
class _Dtype:
    code: str
    order: str = '='

    @property
    def value(self) -> np.dtype[Any]:
        return np.dtype(f'{self.order}{self.code}')


@dataclass(eq=False)
class Plain:
    """A HistoryBuffer or a Namespace."""

    kind: str
    state: dict[str, Any] = field(default_factory=dict)


def require(condition: object, what: str) -> None:
    """Raise :class:`FormError` with ``what`` if the condition is false."""
    if not condition:
        raise FormError(what)


def is_count(value: Any) -> bool:
    """Return whether a value is an integer from 0 up."""
    return type(value) is int and value >= 0


def check_key(key: Any, depth: int = 4) -> None:
    """Refuse keys that Python could not hash, or only by a deep recursion, which ends the process."""
    if type(key) is tuple and depth:
        for part in key:
            check_key(part, depth - 1)
    elif key is not None and type(key) not in (str, bytes, int, float, bool, complex, torch.Size):
        require(isinstance(key, np.generic), f'a key of a dict is a {type(key).__name__}')


def _ordered_dict(items: Any = ()) -> Any:
    require(type(items) in (list, tuple), 'an OrderedDict is not made of pairs')
    for item in items:
        require(type(item) in (list, tuple) and len(item) == 2, 'an OrderedDict is not made of pairs')
        check_key(item[0])
    return OrderedDict(items)


def _counter(counts: Any = None) -> Any:
    require(counts is None or type(counts) is dict, 'a Counter is not made of a dict')
    return Counter(counts)


def _set(items: Any = ()) -> Any:
    require(type(items) in (list, tuple), 'a set is not made of a list')
    for item in items:
        check_key(item)
    return set(items)


def _bytes(text: Any, encoding: Any) -> bytes:
    require(type(text) is str and encoding == 'latin1', 'bytes are not written as text in latin1')
    return str(text).encode('latin1')


def _empty_bytes() -> bytes:
    return b''


def _complex(real: Any, imaginary: Any) -> complex:
    require(type(real) is type(imaginary) is float, 'a complex number is not made of two floats')
    return complex(real, imaginary)


def _size(sizes: Any = ()) -> Any:
    require(type(sizes) is tuple and all(map(is_count, sizes)), 'a torch.Size is not made of sizes')
    return torch.Size(sizes)


def _device(kind: Any, index: Any = None) -> torch.device:
    require(type(kind) is str and (index is None or is_count(index)), 'a torch.device is not made of its name')
    return torch.device(kind) if index is None else torch.device(kind, index)


def _statistic(owner: Any, name: Any) -> Any:
    if isinstance(owner, Global) and owner.name.endswith('.HistoryBuffer') and name in _STATISTICS:
        return Plain('statistic')
    raise RefusedError(f'getattr({_name(owner)}, {reprlib.repr(name)})')


def _name(value: Any) -> str:
    return value.name.rpartition('.')[2] if isinstance(value, Global) else type(value).__name__.lstrip('_')


def _dtype(code: Any, align: Any = False, copy: Any = False) -> _Dtype:
    require(
        type(code) is str and code in _NUMERIC and type(align) in (int, bool) and not align,
        f'a numpy dtype is {reprlib.repr(code)}, not a number',
    )
    require(type(copy) in (int, bool), 'a numpy dtype has other arguments')
    return _Dtype(code)


def _empty_array(kind: Any, shape: Any, code: Any) -> Any:
    require(
        isinstance(kind, Global) and kind.name == 'numpy.ndarray' and shape == (0,) and code in (b'b', 'b'),
        'a numpy array is not made as numpy makes it',
    )
    return np.empty(0, np.int8)


def _raw(data: Any) -> bytes:
    # Python 2 writes bytes as text; read as latin1 these are the same bytes.
    return data.encode('latin1') if type(data) is str else bytes(data) if type(data) is bytearray else data


def _array_data(shape: Any, dtype: Any, data: Any) -> bytes:
    require(type(shape) is tuple and all(map(is_count, shape)), 'a numpy array has no shape')
    require(isinstance(dtype, _Dtype), 'a numpy array has no numeric dtype')
    data = _raw(data)
    require(type(data) is bytes, 'a numpy array is not made of bytes')
    require(
        len(shape) <= 32 and len(data) == math.prod(shape) * dtype.value.itemsize,
        f'a numpy array of shape {reprlib.repr(shape)} has {len(data)} bytes',
    )
    return bytes(data)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    data = _array_data(shape, dtype, data)
    require(order in ('C', 'F'), 'a numpy array has no order')
    return np.frombuffer(data, dtype.value).reshape(shape, order=order).copy(order)


def _scalar(dtype: Any, data: Any) -> Any:
    return np.frombuffer(_array_data((), dtype, data), dtype.value)[0]


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorInfo:
    require(isinstance(storage, Storage) and storage.dtype is not None, 'a tensor has no storage of its type')
    return _checked(storage, storage.dtype, offset, size, stride, *rest)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any) -> TensorInfo:
    require(isinstance(storage, Storage) and isinstance(dtype, torch.dtype), 'a tensor has no storage or type')
    return _checked(storage, dtype, offset, size, stride, grad, hooks)


def _checked(
    storage: Storage, dtype: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None
) -> TensorInfo:
    size, stride = (tuple(x) if type(x) is torch.Size else x for x in (size, stride))
    require(
        type(size) is type(stride) is tuple
        and len(size) == len(stride) <= 64
        and all(map(is_count, (offset, *size, *stride))),
        'a tensor has no shape, stride or offset',
    )
    require(type(grad) is bool and not hooks and type(hooks) in (OrderedDict, type(None)), 'a tensor has hooks')
    used = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    what = f'a tensor of shape {reprlib.repr(size)}, stride {reprlib.repr(stride)} and offset {reprlib.repr(offset)}'
    nbytes = storage.nbytes
    require((offset + used) * dtype.itemsize <= nbytes, f'{what} reaches beyond its {nbytes} bytes')
    needed = math.prod(size) * dtype.itemsize
    require(needed <= max(nbytes, SMALL), f'{what} would need {needed} bytes, and has {nbytes}')
    require(max((0, *size, *stride)) < 2**62, f'{what} is too large')
    return TensorInfo(dtype, size)


def _parameter(data: Any, grad: Any, hooks: Any) -> TensorInfo:
    require(isinstance(data, TensorInfo) and type(grad) is bool, 'a parameter has no tensor')
    require(type(hooks) is OrderedDict and not hooks, 'a parameter has hooks')
    return TensorInfo(data.dtype, data.shape)


def _table(*entries: Global) -> dict[str, Any]:
    return {entry.name: entry for entry in entries}


def _parameter_with_state(data: Any, grad: Any, hooks: Any, state: Any) -> TensorInfo:
    _check_attributes(state)
    return _parameter(data, grad, hooks)


def _with_attributes(function: Any, kind: Any, args: Any, state: Any) -> TensorInfo:
    """Make a tensor that has attributes, such as those that FSDP gives it."""
    require(
        isinstance(function, Global)
        and function.call in (_tensor, _tensor_v3, _parameter)
        and isinstance(kind, Global)
        and kind.name in _TENSOR_TYPES
        and type(args) is tuple,
        'a tensor is of another type',
    )
    _check_attributes(state)
    made: TensorInfo = function.call(*args)
    return made


def _check_attributes(state: Any) -> None:
    if type(state) is tuple and len(state) == 2 and not state[1]:
        state = state[0]
    require(
        type(state) in (dict, type(None))
        and all(
            type(name) is str
            and not name.startswith('__')
            and not hasattr(torch.nn.Parameter, name)
            and type(value) in (bool, int, float, str, type(None))
            for name, value in (state or {}).items()
        ),
        'a tensor has attributes that are no numbers or text',
    )


_TENSOR_TYPES = ('torch.Tensor', 'torch.nn.parameter.Parameter')
_CORES = ('numpy._core', 'numpy.core')  # of numpy 2 and 1
ARRAYS: Mapping[str, Any] = _table(
    Global('numpy.ndarray'),
    Global('numpy.dtype', _dtype),
    *(Global(f'{core}.multiarray._reconstruct', _empty_array) for core in _CORES),
    *(Global(f'{core}.multiarray.scalar', _scalar) for core in _CORES),
    *(Global(f'{core}.numeric._frombuffer', _from_buffer) for core in _CORES),
    Global('collections.OrderedDict', _ordered_dict),
    Global('_codecs.encode', _bytes),
    Global('builtins.bytes', _empty_bytes),
)
CHECKPOINTS: Mapping[str, Any] = {
    **ARRAYS,
    **_table(
        Global('collections.Counter', _counter),
        Global('builtins.set', _set),
        Global('builtins.complex', _complex),
        Global('builtins.getattr', _statistic),
        Global('torch.Size', _size),
        Global('torch.device', _device),
        Global('torch._utils._rebuild_tensor', _tensor),
        Global('torch._utils._rebuild_tensor_v2', _tensor),
        Global('torch._utils._rebuild_tensor_v3', _tensor_v3),
        Global('torch._utils._rebuild_parameter', _parameter),
        Global('torch._utils._rebuild_parameter_with_state', _parameter_with_state),
        Global('torch._tensor._rebuild_from_type_v2', _with_attributes),
        *map(Global, _TENSOR_TYPES),
        Global('mmengine.logging.history_buffer.HistoryBuffer', lambda: Plain('HistoryBuffer')),
        Global('argparse.Namespace', lambda: Plain('Namespace')),
    ),
    **{str(dtype): dtype for dtype in _DTYPES},
    **{f'torch.{name}': StorageType(dtype) for name, dtype in _STORAGES.items()},
    'torch.storage.UntypedStorage': StorageType(None),
}


def build(value: Any, state: Any) -> None:
    """Do what ``__setstate__`` of an allowed type does."""
    if type(value) is np.ndarray:
        require(type(state) is tuple and len(state) == 5 and state[0] == 1, 'a numpy array has another state')
        _, shape, dtype, fortran, data = state
        data = _array_data(shape, dtype, data)
        require(type(fortran) in (bool, int) and not value.size, 'a numpy array has another state')
        cast(Any, value).__setstate__((1, shape, dtype.value, bool(fortran), data))
    elif type(value) is _Dtype:
        require(
            type(state) is tuple
            and len(state) == 8
            and state[0] == 3
            and state[1] in ('<', '>', '|', '=')
            and state[2:] in ((None, None, None, -1, -1, 0), (None, None, None, -1, -1, 16)),
            f'a numpy dtype has the state {reprlib.repr(state)}',
        )
        value.order = state[1]
    elif type(value) is OrderedDict:
        require(type(state) is dict and state.keys() <= {'_metadata'}, 'an OrderedDict has attributes')
        require(type(state.get('_metadata', {})) in (dict, OrderedDict), 'the _metadata of a state dict are no dict')
    elif type(value) is Plain and value.kind == 'Namespace':
        require(
            type(state) is dict and all(type(key) is str and not key.startswith('__') for key in state),
            'a Namespace has no names',
        )
        value.state.update(state)
    elif type(value) is Plain and value.kind == 'HistoryBuffer':
        require(
            type(state) is dict and all(type(x) is _HISTORY.get(key) for key, x in state.items()),
            'a HistoryBuffer has another state',
        )
        value.state.update(state)
    else:
        raise FormError(f'a {_name(value)} has a state')
