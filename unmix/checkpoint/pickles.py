"""Read a pickle without executing it.

:func:`read_pickle` interprets the opcodes of a pickle. It calls no function that the pickle names, but a rule of
:mod:`unmix.checkpoint.allowed` for each name that is allowed.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from unmix.checkpoint.allowed import Global, Plain, RefusedError, build, check_key, require
from unmix.checkpoint.archive import DamagedError, FormError

ENTRIES = 10**6  # how many entries a small pickle may have; a large one may have ten for each byte
DEPTH = 100  # how deep containers may be nested

# What torch.load reads with weights_only=True; torch.save writes protocol 2.
OF_TORCH = frozenset(
    {'PROTO', 'STOP', 'MARK', 'GLOBAL', 'NEWOBJ', 'REDUCE', 'BUILD', 'BINPERSID', 'NONE', 'NEWFALSE', 'NEWTRUE'}
    | {'APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'EMPTY_TUPLE'}
    | {'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE'}
    | {'SHORT_BINSTRING', 'BINGET', 'LONG_BINGET', 'BINPUT', 'LONG_BINPUT'}
)
_TEXTS = ('STRING', 'BINSTRING', 'SHORT_BINSTRING')  # of Python 2
_CONSTANTS: Mapping[str, Callable[[], Any]] = dict(
    NONE=lambda: None,
    NEWFALSE=lambda: False,
    NEWTRUE=lambda: True,
    EMPTY_TUPLE=tuple,
    EMPTY_LIST=list,
    EMPTY_DICT=dict,
    EMPTY_SET=set,
)
_ARGUMENTS = frozenset(
    {'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'INT', 'FLOAT', 'BINFLOAT', 'UNICODE', 'BINUNICODE'}
    | {'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'}
)


class _Machine:
    """The stack machine of pickles.

    Args:
        rules: What each allowed name stands for.
        storage: Takes the persistent id of a storage.
        encoding: Encoding of Python 2's strings.
    """

    def __init__(self, rules: Mapping[str, Any], storage: Callable[[Any], Any] | None, encoding: str) -> None:
        self.rules, self.storage, self.encoding = rules, storage, encoding
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, arg: Any) -> None:
        """Execute one opcode."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _ARGUMENTS:
            self.stack.append(arg)
        elif name in _TEXTS:
            self.stack.append(arg.encode('latin1').decode(self.encoding))
        elif name in _OPCODES:
            _OPCODES[name](self, arg)
        elif name not in ('PROTO', 'FRAME'):
            raise FormError(f'its pickle has the opcode {name}')

    def items(self) -> list[Any]:
        """Return what lies on the stack above the last mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def tuple_of(self, number: int) -> None:
        if len(self.stack) < number:
            raise DamagedError('its pickle takes from an empty stack')
        self.stack[-number:] = [tuple(self.stack[-number:])]

    def get(self, key: Any) -> None:
        self.stack.append(self.memo[key])

    def put(self, key: Any) -> None:
        self.memo[key] = self.stack[-1]

    def name(self, arg: str) -> None:
        """Find a name, in Python 3's spelling."""
        module, _, name = arg.partition(' ')
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[module, name]
        module = IMPORT_MAPPING.get(module, module)
        if f'{module}.{name}' not in self.rules:
            raise RefusedError(f'{module}.{name}')
        self.stack.append(self.rules[f'{module}.{name}'])

    def name_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        require(type(name) is type(module) is str, 'a name is no text')
        self.name(f'{module} {name}')

    def call(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        require(isinstance(function, Global) and function.call and type(args) is tuple, 'it calls what is no function')
        self.stack.append(function.call(*args))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        build(self.stack[-1], state)

    def storage_of(self, _: Any) -> None:
        require(self.storage is not None, 'it refers to another file')
        if self.storage is not None:
            self.stack.append(self.storage(self.stack.pop()))

    def append(self, items: list[Any]) -> None:
        require(type(self.stack[-1]) is list, 'it appends to what is no list')
        self.stack[-1].extend(items)

    def add(self, items: list[Any]) -> None:
        require(type(self.stack[-1]) is set, 'it adds to what is no set')
        for item in items:
            check_key(item)
        self.stack[-1].update(items)

    def set(self, items: list[Any]) -> None:
        require(type(self.stack[-1]) in (dict, OrderedDict, Counter), 'it sets an item of what is no dict')
        for key, value in pairs(items).items():
            self.stack[-1][key] = value


def pairs(items: list[Any]) -> dict[Any, Any]:
    """Return the dict of keys and values in turn."""
    if len(items) % 2:
        raise DamagedError('its pickle has a key without a value')
    for key in items[::2]:
        check_key(key)
    return dict(zip(items[::2], items[1::2], strict=True))


def _set_one(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set([key, value])


_OPCODES: Mapping[str, Callable[[_Machine, Any], None]] = dict(
    MARK=_Machine.mark,
    TUPLE=lambda machine, _: machine.push(tuple(machine.items())),
    TUPLE1=lambda machine, _: machine.tuple_of(1),
    TUPLE2=lambda machine, _: machine.tuple_of(2),
    TUPLE3=lambda machine, _: machine.tuple_of(3),
    LIST=lambda machine, _: machine.push(machine.items()),
    DICT=lambda machine, _: machine.push(pairs(machine.items())),
    APPEND=lambda machine, _: machine.append([machine.stack.pop()]),
    APPENDS=lambda machine, _: machine.append(machine.items()),
    ADDITEMS=lambda machine, _: machine.add(machine.items()),
    SETITEM=_set_one,
    SETITEMS=lambda machine, _: machine.set(machine.items()),
    POP=lambda machine, _: machine.stack.pop(),
    GET=_Machine.get,
    BINGET=_Machine.get,
    LONG_BINGET=_Machine.get,
    PUT=_Machine.put,
    BINPUT=_Machine.put,
    LONG_BINPUT=_Machine.put,
    MEMOIZE=lambda machine, _: machine.put(len(machine.memo)),
    GLOBAL=_Machine.name,
    STACK_GLOBAL=_Machine.name_on_stack,
    REDUCE=_Machine.call,
    NEWOBJ=_Machine.call,
    BUILD=_Machine.build,
    BINPERSID=_Machine.storage_of,
)


def read_pickle(
    file: Any,
    rules: Mapping[str, Any],
    opcodes: frozenset[str] | None = None,
    storage: Callable[[Any], Any] | None = None,
    encoding: str = 'utf-8',
) -> Any:
    """Return the content of a pickle.

    Args:
        file: Object with ``read``, ``readline`` and ``tell`` whose reads do not allocate more than is there: a BytesIO
            or an mmap. It is read up to the end of the pickle.
        rules: What each allowed name stands for: :data:`unmix.checkpoint.allowed.CHECKPOINTS` or ``ARRAYS``.
        opcodes: The opcodes that are allowed. None: those of all protocols.
        storage: Takes the persistent id of a storage and returns what stands for it.
        encoding: Encoding of Python 2's strings.

    Raises:
        DamagedError: If the pickle is cut or no pickle.
        FormError: If it makes something that is not allowed (:class:`RefusedError`), or in another way than its
            library does.
    """
    start = file.tell()
    machine = _Machine(rules, storage, encoding)
    try:
        for opcode, arg, _ in pickletools.genops(file):
            if opcode.name == 'STOP':
                return _bounded(machine.stack.pop(), file.tell() - start)
            if opcodes is not None and opcode.name not in opcodes:
                raise FormError(
                    f'its pickle has the opcode {opcode.name} of protocol {opcode.proto}, which torch cannot read '
                    'safely: save it again by torch.save with its default pickle_protocol'
                )
            machine.step(opcode.name, arg)
    except (DamagedError, FormError):
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, ArithmeticError, RuntimeError) as error:
        raise DamagedError(f'its pickle cannot be read ({" ".join(str(error).split())[:200]})') from error
    raise DamagedError('its pickle has no end')


def _bounded(content: Any, size: int) -> Any:
    """Refuse containers that are nested too deep or in themselves, or shared so often that they become too large."""
    left, stack = ENTRIES + 10 * size, [(content, 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, dict | Plain):
            parts: Any = (value.state if isinstance(value, Plain) else value).values()
        elif isinstance(value, list | tuple):
            parts = value
        else:
            continue
        left -= len(parts)
        require(depth < DEPTH and left >= 0, 'its containers are nested too deep, or too often')
        stack += [(part, depth + 1) for part in parts]
    return content
