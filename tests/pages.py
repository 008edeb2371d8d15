"""Code that is printed in docs/, as a reader would take it from there."""

import re
import sys
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[1] / 'docs'


def blocks(page: str, name: str) -> list[str]:
    """Code blocks of a page that begin with the name of a file."""
    return re.findall(rf'```python\n# {re.escape(name)}\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)


def load_module(page: str, name: str) -> ModuleType:
    """Import the only module ``name`` of a page, as ``custom_imports`` would: once in a process."""
    stem = name.removesuffix('.py')
    if stem not in sys.modules:
        (code,) = blocks(page, name)
        module = ModuleType(stem)
        exec(compile(code, f'{page}: {name}', 'exec'), vars(module))
        sys.modules[stem] = module
    return sys.modules[stem]
