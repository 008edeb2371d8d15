"""Load mutated and built checkpoint files in processes of their own: none may crash or run what a file says.

    python tools/misc/fuzz_checkpoints.py --mutated 20000 --built 500

Files are mutated copies of checkpoints of all forms (zip archive, the form of torch before 1.6, detectron2's .pkl), and
pickles built of random opcodes with the names, arguments and states that could do harm. A process loads many files, and
notes the number of each before it loads it, so that a crash has its file, which is kept. After a load that succeeds all
tensors and arrays are read, since bad pointers, sizes or strides show there.

The exit status is 1 if a process crashed, ran something, took more memory than --memory, or raised another error than
ValueError.
"""

import argparse
import functools
import io
import itertools
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from unmix.checkpoint.load import load_from_local
from unmix.converters.containers import read

WITNESS = 'witness'
BATCH = 500  # files of a process


class Call:
    """Pickles to a call, and a state."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def sample() -> dict[str, Any]:
    """Return a small checkpoint with all that ours hold."""
    weight = torch.arange(12.0).view(3, 4)
    state = OrderedDict(w=weight, t=weight.t(), b=weight[0], h=weight.half(), p=torch.nn.Parameter(weight.clone()))
    return dict(
        state_dict=state,
        meta=dict(iter=3, epoch=1, seed=0, time='20200101', args=Namespace(lr=0.1, names=['a'])),
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1])), best=np.float64(0.5)),
        optimizer=dict(state={0: dict(step=torch.tensor(1.0))}, param_groups=[dict(lr=0.1, params=[0])]),
        param_schedulers=[dict(milestones=Counter([1, 2]), size=torch.Size([2]))],
        array=np.arange(6, dtype=np.int32).reshape(2, 3),
    )


def seeds() -> list[tuple[str, bytes]]:
    """Return a whole file of each form, as (suffix, content)."""
    files = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(sample(), buffer, _use_new_zipfile_serialization=zipped)
        files.append(('.pth', buffer.getvalue()))
    arrays = dict(model={'stem.conv1.weight': np.arange(12, dtype=np.float32), 'x': np.float64(1)}, matching=True)
    return 4 * files + [('.pkl', pickle.dumps(arrays, protocol)) for protocol in (2, 4, 5)]


def mutated(random_: random.Random, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Return a file with changed, removed, repeated or moved bytes; half of the archives get new checksums."""
    suffix, content = random_.choice(files)
    archive = content[:4] == b'PK\x03\x04'
    if archive and random_.random() < 0.7:
        return suffix, rezipped(content, lambda data: _mutate(random_, data), random_)
    return suffix, _mutate(random_, content)


def _mutate(random_: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        at, length = random_.randrange(len(data)), random_.choice((1, 1, 2, 4, 8, 32))
        kind = random_.randrange(7)
        if kind == 0:
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            data[at : at + length] = random_.randbytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            other = random_.randrange(len(data))
            data[at : at + length] = data[other : other + length]
        elif kind == 5:
            data[at : at + 4] = random_.choice((b'\xff\xff\xff\x7f', b'\xff\xff\xff\xff', b'\0\0\0\0', b'\0\0\0\x80'))
        else:
            data[at] = random_.choice(b'()]}Rb\x81Q.0t\x85\x86\x87aeushqcjrKMJN\x88\x89G')
    return bytes(data)


def rezipped(content: bytes, change: Callable[[bytes], bytes], random_: random.Random) -> bytes:
    """Return an archive with a changed data.pkl and right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, 'w') as new:
        for entry in old.infolist():
            data = old.read(entry)
            target = entry.filename.endswith('data.pkl') or random_.random() < 0.02
            new.writestr(entry.filename, change(data) if target else data)
    return buffer.getvalue()


def built(random_: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield files made of parts that could do harm, alone and combined at random."""
    parts = hostile()
    for part in itertools.chain(parts, iter(lambda: _combined(random_, parts), None)):
        for form in ('zip', 'legacy', 'pkl'):
            try:
                content = _written(part, form)
            except (TypeError, AttributeError, pickle.PicklingError, RecursionError, ValueError):
                continue
            yield '.pkl' if form == 'pkl' else '.pth', content


def _combined(random_: random.Random, parts: list[Any]) -> Any:
    one, other = random_.choice(parts), random_.choice(parts)
    value = random_.choice(list(sample().values()))
    return random_.choice(
        (
            [one, other],
            {'state_dict': {'w': one, 'x': other}},
            (one, value, other),
            Call(OrderedDict, [('a', one), ('b', other)]),
            Call(torch._utils._rebuild_parameter, one, random_.choice((True, False, 3)), random_.choice((other, None))),
            Call(random_.choice(FUNCTIONS), *random_.choices([one, other, value, 0, -1, 2**40, 'a', ()], k=3)),
        )
    )


FUNCTIONS = (
    torch._utils._rebuild_tensor_v2,
    torch._utils._rebuild_parameter_with_state,
    torch._utils._rebuild_qtensor,
    torch._utils._rebuild_sparse_tensor,
    torch._utils._rebuild_nested_tensor,
    torch._utils._rebuild_meta_tensor_no_storage,
    torch._utils._rebuild_wrapper_subclass,
    torch._utils._rebuild_device_tensor_from_numpy,
    torch._tensor._rebuild_from_type_v2,
    torch.Tensor,
    torch.Size,
    torch.device,
    np.ndarray,
    np.dtype,
    np.empty(0).__reduce__()[0],
    np.float64(0).__reduce__()[0],
    bytearray,
    bytes,
    set,
    getattr,
)


def hostile() -> list[Any]:
    """Return objects whose pickles call what a file must not call, or call it with wrong arguments."""
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    data = b'ABCDEFGH' * 4
    objects = Call(np.dtype, 'O', False, True, state=(3, '|', None, None, None, -1, -1, 0))
    fields = (3, '|', None, ('a',), {'a': (np.dtype('f8'), 10**9)}, 8, 8, 0)
    field = Call(np.dtype, 'V8', False, True, state=fields)
    real = Call(np.dtype, 'f8', False, True, state=(3, '<', None, None, None, -1, -1, 63))
    storage = torch.arange(4.0).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    rebuild = torch._utils._rebuild_tensor_v2
    deep: Any = ()
    for _ in range(400):
        deep = (deep,)
    laughs: Any = [1]
    for _ in range(60):
        laughs = [laughs] * 10
    itself: list[Any] = []
    itself.append(itself)
    parts: list[Any] = [
        *(Call(np.ndarray, (4,), dtype, data) for dtype in (objects, field, real, np.dtype('f8'))),
        *(
            Call(reconstruct, np.ndarray, (0,), b'b', state=(1, shape, dtype, False, data))
            for shape in ((4,), (2**40,), (-4,), (2**31, 2**31), 4, None)
            for dtype in (objects, field, real, np.dtype('f8'), None)
        ),
        *(Call(scalar, dtype, data[:size]) for dtype in (objects, field, np.dtype('f8')) for size in (0, 4, 8, 32)),
        Call(reconstruct, np.ndarray, (2**40,), b'b'),
        *(
            Call(rebuild, typed, offset, size, stride, False, OrderedDict())
            for offset in (0, 3, 2**40, -1, 2**63)
            for size, stride in (
                ((4,), (1,)),
                ((2**40,), (1,)),
                ((2**40,), (0,)),
                ((2,), (2**62,)),
                ((2,), (-1,)),
                ((-1,), (1,)),
                ((2**32, 2**32), (1, 1)),
                ((1,) * 70, (1,) * 70),
                ((4,), ()),
            )
        ),
        Call(rebuild, typed, 0, (4,), (1,), True, OrderedDict(a=Call(exec, f'open({WITNESS!r}, "w")'))),
        Call(torch.Tensor, 2**40),
        Call(torch.FloatTensor, 2**40),
        Call(bytearray, 2**40),
        Call(bytes, 2**40),
        Call(exec, f'open({WITNESS!r}, "w")'),
        Call(getattr, HistoryBuffer, '__init__'),
        Call(getattr, np.ndarray, 'tofile'),
        Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (2**60,), (1,), False),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.eye(3).to_sparse(),
        torch.ones(3, device='meta'),
        {deep: 1},
        {(1, (2, 3)): 1},
        laughs,
        itself,
        OrderedDict({deep: 1}),
        {1, 2, (3, deep)},
        torch.device('cpu'),
        sample(),
    ]
    return parts


def _written(value: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == 'pkl':
        return pickle.dumps({'model': value}, 4)
    torch.save({'state_dict': value}, buffer, _use_new_zipfile_serialization=form == 'zip')
    return buffer.getvalue()


def bombs(depth: int = 1_000_000) -> list[tuple[str, bytes]]:
    """Return archives and pickles that would become much larger than the file, or recurse deeply."""
    buffer = io.BytesIO()
    torch.save({'state_dict': {'w': torch.zeros(2**20)}}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    deep = b'\x80\x02)' + b'\x85' * depth
    pickles = [
        deep + b'.',
        b'\x80\x02}' + deep[2:] + b'K\x01s.',  # a key whose hash recurses so often
        b'\x80\x02' + b']' * depth + b'a' * (depth - 1) + b'.',
        b'\x80\x02X\xff\xff\xff\xffabc.',
        b'\x80\x04B\xff\xff\xff\xffabc.',
        b'\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.',
        b'\x80\x02(' * depth,
    ]
    whole = buffer.getvalue()
    zips = [rezipped(whole, functools.partial(_instead, data), random.Random(0)) for data in pickles]
    return [
        ('.pth', packed.getvalue()),
        *(('.pth', x) for x in zips),
        *((s, x) for x in pickles for s in ('.pth', '.pkl')),
    ]


def _instead(data: bytes, _: bytes) -> bytes:
    return data


def _touch(value: Any) -> None:
    """Read all values, as a training would."""
    stack, left = [value], 10**5
    while stack and left:
        left -= 1
        part = stack.pop()
        if isinstance(part, Tensor):
            part.clone().double().sum()
        elif isinstance(part, np.ndarray):
            part.copy()
            repr(part)
        elif isinstance(part, dict):
            stack += part.values()
        elif isinstance(part, list | tuple):
            stack += part
        elif isinstance(part, HistoryBuffer | Namespace):
            stack += vars(part).values()
        else:
            repr(part)


def child(folder: Path, first: int, memory: int) -> None:
    """Load the files of a folder from number ``first`` on; write the number of each to ``at`` before."""
    torch.set_num_threads(1)
    load_from_local(str(folder / 'warm.pth'), map_location='cpu')
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = sorted(folder.glob('[0-9]*'))
    for number, file in enumerate(files[first:], first):
        (folder / 'at').write_text(f'{number} {file.name}', encoding='utf-8')
        result = 'loaded'
        try:
            _touch(read(file) if file.suffix == '.pkl' else load_from_local(str(file), map_location='cpu'))
        except ValueError:
            result = 'refused'
        except Exception as error:
            result = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) >> 10
        if grown > memory:
            result = f'took {grown} MiB'
        with open(folder / 'results', 'a', encoding='utf-8') as results:
            results.write(f'{file.name} {result}\n')


def load_all(files: list[tuple[str, bytes]], keep: Path, memory: int) -> Counter[str]:
    """Load all files in processes; return how many had which result. Files with another one are kept."""
    found: Counter[str] = Counter()
    for start in range(0, len(files), BATCH):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            torch.save(sample(), folder / 'warm.pth')
            batch = files[start : start + BATCH]
            for number, (suffix, content) in enumerate(batch):
                (folder / f'{number:06d}{suffix}').write_bytes(content)
            first = 0
            while first < len(batch):
                command = [sys.executable, str(Path(__file__).resolve()), '--child', name, str(first), str(memory)]
                status = subprocess.run(command, cwd=folder, capture_output=True, text=True)
                at, file = (folder / 'at').read_text(encoding='utf-8').split()
                if status.returncode == 0:
                    break
                with open(folder / 'results', 'a', encoding='utf-8') as results:
                    results.write(f'{file} crashed with status {status.returncode}\n')
                first = int(at) + 1
            if (folder / WITNESS).exists():
                found['ran something'] += 1
            for line in (folder / 'results').read_text(encoding='utf-8').splitlines():
                file, _, result = line.partition(' ')
                found[result] += 1
                if result not in ('loaded', 'refused'):
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f'{start + int(file[:6]):06d}{Path(file).suffix}').write_bytes((folder / file).read_bytes())
    return found


def main() -> int:
    """Make the files, load them, and print how many were loaded, refused, or worse."""
    if sys.argv[1:2] == ['--child']:
        child(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--mutated', type=int, default=20_000, help='number of mutated files (default: 20000)')
    parser.add_argument('--built', type=int, default=500, help='number of built files (default: 500)')
    parser.add_argument('--seed', type=int, default=0, help='of the random numbers (default: 0)')
    parser.add_argument(
        '--memory', type=int, default=256, help='MiB that the loads of a process may take (default: 256)'
    )
    parser.add_argument('--keep', type=Path, default=Path('fuzz'), help='folder for files that crash (default: fuzz)')
    args = parser.parse_args()
    random_ = random.Random(args.seed)
    whole = seeds()
    bad = 0
    for what, files in (
        ('bombs', bombs()),
        ('built', list(itertools.islice(built(random_), args.built))),
        ('mutated', [mutated(random_, whole) for _ in range(args.mutated)]),
    ):
        found = load_all(files, args.keep / what, args.memory)
        print(
            f'{what}: {len(files)} files; ' + ', '.join(f'{n} {result}' for result, n in found.most_common()),
            flush=True,
        )
        bad += sum(found.values()) - found['loaded'] - found['refused']
    return int(bad > 0)


if __name__ == '__main__':
    sys.exit(main())
