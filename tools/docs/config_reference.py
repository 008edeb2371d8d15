"""The pages of the configuration reference: what each registered class of ``unmix`` takes from a config.

griffe reads the signatures and docstrings from the source, so nothing of it is imported and the pages are always those
of the code. ``docs/config_keys.md`` has the keys of MMEngine, PyTorch and torchvision.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import griffe
from sphinx_roles import SphinxRoles

# Title of a page and its file; the place of a class in a config, by the package that it is in, in order.
PAGES: dict[str, tuple[str, dict[str, str]]] = {
    'model': (
        'Model',
        {
            'unmix.models.algorithms': '`model`',
            'unmix.mixing': '`model.unmix`, its `mixing`, and `mixing` of `MixtureDataset`',
            'unmix.models.backbones': '`model.backbone`',
            'unmix.models.necks': '`model.neck`, `model.predictor`',
            'unmix.models.heads': '`model.head`',
            'unmix.models': '`model.data_preprocessor`, `init_cfg`',
        },
    ),
    'data': (
        'Data',
        {
            'unmix.datasets.transforms': '`dataset.pipeline`, and its `transforms`',
            'unmix.datasets.samplers': '`train_dataloader.sampler`',
            'unmix.datasets': '`dataset` of a data loader',
        },
    ),
    'training': (
        'Training',
        {
            'unmix.engine.loops': '`train_cfg`, `val_cfg`, `test_cfg`',
            'unmix.engine.optimizers': '`optim_wrapper`, its `optimizer` and `constructor`',
            'unmix.engine.schedulers': '`param_scheduler`',
            'unmix.engine.hooks': '`default_hooks`, `custom_hooks`',
            'unmix.checkpoint': '`default_hooks`, `custom_hooks`',
            'unmix.engine': '`strategy`, `log_processor`',
            'unmix.visualization': '`visualizer.vis_backends`',
        },
    ),
    'evaluation': ('Evaluation', {'unmix.evaluation': '`val_evaluator`, `test_evaluator`'}),
}
# What the Runner and the builders pass, so that no config has it, by registry.
PASSED = {
    'LOOPS': {'runner', 'dataloader', 'evaluator'},
    'OPTIMIZERS': {'params'},
    'PARAM_SCHEDULERS': {'optimizer'},
    'OPTIM_WRAPPER_CONSTRUCTORS': {'optim_wrapper_cfg', 'paramwise_cfg'},
    'FUNCTIONS': {'items'},
}
# What docstrings leave out, since it is the same everywhere.
EVERYWHERE = {'init_cfg': "MMEngine's: how the weights begin, e.g. `dict(type='Pretrained', checkpoint=FILE)`."}
WITHOUT_KEYS = {'Hook'}
# Keys that MMEngine's builders and base classes add to all of a registry: type, default, description.
ADDED: dict[str, dict[str, tuple[str, str, str]]] = {
    'HOOKS': {
        'priority': ('int | str', 'of the class', "From 0, first, to 100, or a name of MMEngine's such as `'LOW'`.")
    },
    'PARAM_SCHEDULERS': {
        'by_epoch': ('bool', '`True`', 'Whether its numbers count epochs; else iterations.'),
        'convert_to_iter_based': ('bool', '`False`', 'Whether numbers in epochs are turned to iterations.'),
    },
    'OPTIM_WRAPPERS': {
        'constructor': ('str', 'none', 'Class that gives the optimiser its parameters.'),
        'paramwise_cfg': ('dict', 'none', 'Rates for some parameters.'),
    },
}
REGISTERED = re.compile(r'(\w+)\.register_module\((?:.*?name=[\'"]([\w.]+)[\'"])?')


@dataclass
class Entry:
    """A class or function that a config names by ``type``."""

    name: str
    registry: str
    found: griffe.Class | griffe.Function

    @property
    def package(self) -> str:
        """The longest package or module of :data:`PAGES` that it is in."""
        places = [place for _, packages in PAGES.values() for place in packages]
        inside = [place for place in places if f'{self.found.path}.'.startswith(f'{place}.')]
        return max(inside, key=len, default='')


def load(root: Path) -> griffe.Module:
    """Read the package ``unmix`` of a checkout."""
    extensions = griffe.load_extensions(SphinxRoles)
    return cast(
        griffe.Module, griffe.load('unmix', search_paths=[root], docstring_parser='google', extensions=extensions)
    )


def entries(package: Any) -> Iterator[Entry]:
    """Yield what the package registers."""
    for member in package.members.values():
        if member.is_alias:
            continue
        if member.is_module:
            yield from entries(member)
        elif isinstance(member, griffe.Class | griffe.Function):
            for decorator in member.decorators:
                registered = REGISTERED.match(str(decorator.value))
                if registered and registered[1].isupper():
                    yield Entry(registered[2] or member.name, registered[1], member)


def arguments(entry: Entry) -> tuple[dict[str, tuple[str, str, str]], str]:
    """Return type, default and description of each key, and what is said of further ones; '' if there are none.

    A class that passes ``**kwargs`` on takes the arguments of its base classes too.
    """
    found: dict[str, tuple[str, str, str]] = {}
    further, passed = '', PASSED.get(entry.registry, set())
    classes: list[Any] = [entry.found]
    if isinstance(entry.found, griffe.Class):
        classes += entry.found.mro()
        others = {str(base) for cls in classes for base in cls.bases} - {cls.name for cls in classes} - WITHOUT_KEYS
        further = f'those of {", ".join(f"`{name}`" for name in sorted(others))}.' if others else ''
    for cls in classes:
        init: Any = cls.members.get('__init__') if isinstance(cls, griffe.Class) else cls
        if init is None or init.is_alias:
            continue
        described = EVERYWHERE | descriptions(cls) | descriptions(init)
        rest = None
        for parameter in init.parameters:
            if parameter.kind is griffe.ParameterKind.var_keyword:
                rest = f'**{parameter.name}'
            elif (
                parameter.kind is not griffe.ParameterKind.var_positional
                and parameter.name != 'self'
                and parameter.name not in passed
            ):
                default = 'required' if parameter.default is None else f'`{parameter.default}`'
                kind, default, text = found.get(parameter.name, (str(parameter.annotation or ''), default, ''))
                found[parameter.name] = (kind, default, text or described.get(parameter.name, ''))
        if rest is None:
            return found, ''
        further = described.get(rest, further)
    return found, further


def descriptions(found: Any) -> dict[str, str]:
    """Return what a docstring says of each argument."""
    sections = found.docstring.parsed if found.docstring is not None else []
    return {
        item.name: ' '.join(item.description.split())
        for section in sections
        if section.kind is griffe.DocstringSectionKind.parameters
        for item in section.value
    }


def summary(found: griffe.Object) -> str:
    """Return the first paragraph of a docstring."""
    return found.docstring.value.split('\n\n')[0] if found.docstring is not None else ''


def cell(text: str) -> str:
    """Return text for a cell of a table: a pipe outside of code would end it."""
    return re.sub(r'(`+.*?`+)|\|', lambda match: match[1] or r'\|', text)


def section(entry: Entry) -> str:
    """Return the entry as Markdown."""
    found, further = arguments(entry)
    found = found | ADDED.get(entry.registry, {})
    lines = [f'### {entry.name}', '', summary(entry.found), '', f"`type='{entry.name}'`: [`{entry.found.path}`][]", '']
    if found:
        lines += ['| key | type | default | |', '|---|---|---|---|']
        for name, (kind, default, text) in found.items():
            lines.append(f'| `{name}` | {f"`{kind}`" if kind else ""} | {default} | {cell(text)} |')
    else:
        lines.append('It has no keys.')
    if further:
        lines += ['', f'Further keys: {further}']
    return '\n'.join(lines)


def pages(package: griffe.Module) -> dict[str, str]:
    """Return the content of each page of the reference by its name.

    Raises:
        ValueError: If a registered class is in none of the packages of :data:`PAGES`.
    """
    found = sorted(entries(package), key=lambda entry: entry.name.lower())
    lost = [entry.found.path for entry in found if not entry.package]
    if lost:
        raise ValueError(f'{", ".join(lost)}: no page of the reference has this package; add it to PAGES.')
    content = {}
    for name, (title, packages) in PAGES.items():
        parts = [f'# {title}: keys of a config']
        for place, keys in packages.items():
            parts.append(f'## {keys}')
            parts.extend(section(entry) for entry in found if entry.package == place)
        content[name] = '\n\n'.join(parts) + '\n'
    return content
