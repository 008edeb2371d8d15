"""Build the null GPU for the installed PyTorch: two libraries, in two seconds.

``libnullgpu.so`` is preloaded and stands in for libcudart, cuBLAS, cuSOLVER, cuSPARSE and NCCL. ``libcuda.so.1`` is the
driver, which PyTorch opens by name. The functions to define are those that PyTorch's libraries import. Those that no
source here defines are generated: such a function counts its call and returns 0, success. Where NVIDIA's header has its
prototype, it also sets to 0 what PyTorch reads on the host: sizes of workspaces (``*_bufferSize``), and ``info`` of
factorisations, an int or one for each matrix of a batch.
"""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / 'src'
LIBRARIES = ('libtorch_cuda.so', 'libtorch_cuda_linalg.so', 'libc10_cuda.so', 'libtorch_python.so')
HEADERS = ('cublas_api.h', 'cublasLt.h', 'cusolverDn.h', 'cusparse.h')
STANDS_IN = re.compile(r'cublas|cusolver|cusparse|nccl')  # libcudart is written by hand
COMPUTES = re.compile(r'cu\w*(gemm|Gemm|gemv|Matmul$|trsm|dot|Dot|potr|getr|geqr|syev|gesvd)')
COLLECTIVE = re.compile(r'nccl(All|Reduce|Broad|Send|Recv|Bcast)')


class Unavailable(Exception):
    """The null GPU cannot be built here; the message has the reason."""


def build(folder: Path) -> None:
    """Build the libraries into a folder.

    Raises:
        Unavailable: If the system is not Linux on x86-64, PyTorch is built without CUDA, or gcc, nm or one of NVIDIA's
            headers is missing.
    """
    if (sys.platform, platform.machine()) != ('linux', 'x86_64'):
        raise Unavailable(f'the null GPU needs Linux on x86-64; this is {sys.platform} on {platform.machine()}')
    if torch.version.cuda is None:
        raise Unavailable(f'the null GPU needs a PyTorch with CUDA; {torch.__version__} is built without it')
    for tool in ('gcc', 'nm'):
        if shutil.which(tool) is None:
            raise Unavailable(f'the null GPU is built with {tool}, which is not installed')
    runtime, crt = _include_folders()
    library = Path(torch.__file__).parent / 'lib'

    def compiled(source: Path) -> Path:
        target = folder / f'{source.stem}.o'
        options = ['-O1', '-fPIC', '-w', f'-I{SOURCES}', f'-I{runtime}', f'-I{crt}']
        _run('gcc', *options, '-c', str(source), '-o', str(target))
        return target

    def generated(name: str, functions: Iterable[str]) -> Path:
        source = folder / f'{name}.c'
        source.write_text('\n'.join(['#include "nullgpu.h"', '#include <string.h>', *functions, '']))
        return compiled(source)

    objects = [compiled(SOURCES / f'{name}.c') for name in ('runtime', 'libraries', 'nccl')]
    defined = set().union(*(_symbols(path, '--defined-only') for path in objects))
    wanted = set().union(*(_symbols(library / name, '-D', '--undefined-only') for name in LIBRARIES))
    known = _prototypes(runtime)
    missing = sorted(name for name in wanted - defined if STANDS_IN.match(name))
    objects.append(generated('library_stubs', [_stub(name, known.get(name, [])) for name in missing]))
    _link(folder / 'libnullgpu.so', objects, '-lrt', '-lpthread')

    own = compiled(SOURCES / 'driver.c')
    wanted = _symbols(library / 'libcaffe2_nvrtc.so', '-D', '--undefined-only') - _symbols(own, '--defined-only')
    missing = sorted(name for name in wanted if re.match('cu[A-Z]', name))
    stubs = generated('driver_stubs', [f'int {name}(void) {{ return 0; }}' for name in missing])
    _link(folder / 'libcuda.so.1', [own, stubs], '-Wl,-soname,libcuda.so.1')
    _link(folder / 'libnvidia-ml.so.1', [compiled(SOURCES / 'nvml.c')])


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)}\n{done.stderr}')
    return done.stdout


def _link(target: Path, objects: Iterable[Path], *options: str) -> None:
    _run('gcc', '-shared', '-o', str(target), *map(str, objects), *options)


def _include_folders() -> tuple[Path, Path]:
    """Folders of cuda_runtime_api.h and crt/host_defines.h, of PyTorch's CUDA: structures differ between versions.

    The first comes with the packages of PyTorch's CUDA, the second with Triton's.
    """
    packages = Path(torch.__file__).parents[1]
    found = []
    for name in ('cuda_runtime_api.h', 'crt/host_defines.h'):
        paths = [path for place in ('nvidia', 'triton') for path in sorted((packages / place).rglob(name))]
        if not paths:
            raise Unavailable(
                f'the null GPU needs the header {name}, which is in none of the packages nvidia-* and triton'
            )
        found.append(paths[0].parents[name.count('/')])
    return found[0], found[1]


def _symbols(path: Path, *options: str) -> set[str]:
    """Names in a library or an object, without versions."""
    lines = _run('nm', *options, str(path)).splitlines() if path.is_file() else []
    return {line.split()[-1].split('@')[0] for line in lines if line.strip()}


def _prototypes(include: Path) -> dict[str, list[str]]:
    """Parameters, as text, of the functions in the headers that are there."""
    found = {}
    for path in (include / header for header in HEADERS):
        text = re.sub(r'/\*.*?\*/|//[^\n]*', '', path.read_text(errors='replace'), flags=re.S) if path.is_file() else ''
        for name, parameters in re.findall(r'\b(cu\w+)\s*\(([^()]*)\)\s*;', text):
            found[name] = [' '.join(parameter.split()) for parameter in parameters.split(',')]
    return found


def _stub(name: str, parameters: list[str]) -> str:
    """C code of a function. Integers, enumerations and pointers are all passed as long; floats have other registers."""
    sizes = 'buffer' in name.lower()
    counter = 'N_BLAS' if COMPUTES.match(name) and not sizes and 'Create' not in name else 'N_OTHER'
    body = [f'nullgpu_hit("{name}", {"N_NCCL" if COLLECTIVE.match(name) else counter});']
    declared, batch = [], '1'
    for i, parameter in enumerate(parameters):
        real = re.match(r'(float|double) \w+$', parameter)
        declared.append(f'{real[1] if real else "long"} a{i}')
        if re.search('batchSize|batchCount', parameter) and '*' not in parameter:
            batch = f'(int)a{i}'
    for i, parameter in enumerate(parameters):
        pointer = re.match(r'(int|size_t) ?\* ?(\w+)(\[\])?$', parameter)
        if pointer and sizes:
            body.append(f'if (a{i}) *({pointer[1]} *)a{i} = 0;')
        elif pointer and re.fullmatch(r'(dev|d_)?[iI]nfo(Array)?', pointer[2]):
            body.append(f'if (a{i}) memset((void *)a{i}, 0, sizeof(int) * {batch});')
    return f'int {name}({", ".join(declared) or "void"}) {{ {" ".join(body)} return 0; }}'
