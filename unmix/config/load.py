"""Find, read and complete a config."""

import copy
import difflib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import ConfigParsingError
from mmengine.fileio import YamlHandler
from mmengine.fileio.handlers import file_handlers
from torch.utils.data import IterableDataset

import unmix
from unmix.config.check import (
    check_config,
    check_kinds,
    check_stages,
    dicts,
    find_type,
)
from unmix.config.combinations import check_combinations, drop_options_of_workers
from unmix.config.options import check_options, check_variables, merge_options
from unmix.utils.run_files import leaves


def config_root() -> Path:
    """Return the directory of the configs: the checkout's, or the copy inside an installed package.

    Raises:
        FileNotFoundError: If neither is there.
    """
    package = Path(unmix.__file__).resolve().parent
    for root in (package.parent / 'configs', package / '.mim' / 'configs'):
        if (root / '_base_').is_dir():
            return root
    raise FileNotFoundError(
        f'No configs beside or inside {package}; install unmix again, or give the path of a config.'
    )


def find_config(name: str) -> Path:
    """Return the file of a config given by path or by name.

    Names are those of this project's configs, from any directory: ``moco/NAME``, or ``NAME`` alone, with or without
    ``.py``. A file of that path comes first, unless the name begins with ``unmix::``.

    Raises:
        FileNotFoundError: If there is none; it names the nearest configs.
    """
    own = name.removeprefix('unmix::')
    if name == own and Path(name).expanduser().is_file():
        return Path(name).expanduser()
    file = own if own.endswith('.py') else f'{own}.py'
    for path in (config_root() / file, *(path for path in config_files() if path.name == file)):
        if path.is_file():
            return path
    raise FileNotFoundError(f'The config {name} does not exist. {_near(own)}')


def config_files() -> list[Path]:
    """Return all configs of the project but the bases, sorted by path; no two have the same name."""
    return sorted(path for path in config_root().rglob('*.py') if '_base_' not in path.parts)


def _near(name: str) -> str:
    root = config_root()
    names = {path.stem: path.relative_to(root) for path in config_files()}
    near = difflib.get_close_matches(Path(name).stem, names, n=3)
    return f'Did you mean {" or ".join(f"unmix::{names[stem]}" for stem in near)}?' if near else f'See {root}.'


def load_config(name: str, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config, merge ``--cfg-options`` into it, and check it.

    A top-level ``data_root`` option reaches every data set that used the old value, and a top-level
    ``data_preprocessor`` becomes the model's. The keys of ``OVERLAYS``, such as ``accelerator`` of
    ``_base_/accelerator.py``, are merged into the config, before all options. The option ``_base_`` adds a base, or
    several, to the config.

    Raises:
        FileNotFoundError: If the config does not exist.
        ValueError: If it, or an option, has an unknown key, type or argument.
    """
    cfg = _read(find_config(name))
    given = dict(options or {})
    options = dict(given)
    _add_bases(cfg, option_bases(options.pop('_base_', [])))
    content = cfg._cfg_dict
    check_kinds(content)
    for _, node in dicts(content):
        if node.get('_scope_') == 'unmix':  # set by `_base_ = 'unmix::...'`; functions do not take it
            del node['_scope_']
    if options:
        before = copy.deepcopy(content)
        merge_options(cfg, options)
        content = cfg._cfg_dict
        check_options(before, content)
        check_kinds(content)
        check_variables(before, options)
        if 'data_root' in options:
            _move_data(content, before.get('data_root'), options['data_root'])
    if 'data_preprocessor' in cfg and isinstance(cfg.get('model'), Mapping):
        cfg.model.setdefault('data_preprocessor', cfg.pop('data_preprocessor'))
    for path, node in dicts(content):
        if path.endswith('dataloader'):
            complete_loader(path.rpartition('.')[2], node)
            drop_options_of_workers(path, node)
    check_config(content)
    check_stages(cfg)
    check_combinations(content)
    note_reading(cfg, given)
    return cfg


class Reading(NamedTuple):
    """How a config was read.

    Attributes:
        options: That were merged into it.
        values: A copy of all, as they were read; a program may have set others since.
    """

    options: dict[str, Any]
    values: dict[str, Any]


# Keys whose dicts are merged into a config at the end, the first one first, and a base that has it.
OVERLAYS = {'overlay': '_base_/vit_digits.py', 'accelerator': '_base_/accelerator.py'}
_READING = '_unmix_reading'  # attribute of a config, which copies of it keep


def note_reading(cfg: Config, options: dict[str, Any]) -> None:
    """Keep the options and values of a config with it; they are no keys."""
    vars(cfg)[_READING] = Reading(options, copy.deepcopy(dict(leaves(cfg._cfg_dict))))


def reading(cfg: Config) -> Reading | None:
    """Return how :func:`load_config` has read a config; None for others."""
    found: Reading | None = vars(cfg).get(_READING)
    return found


def option_bases(value: Any) -> list[str]:
    """Return the names of configs that the option ``_base_`` has, one or several.

    Raises:
        ValueError: If it has something else.
    """
    names = [*value] if isinstance(value, list | tuple) else [value]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(
            f'--cfg-options _base_ is {value!r}; expected the path or name of a config, or several: '
            '_base_=unmix::_base_/accelerator.py.'
        )
    return names


def _add_bases(cfg: Config, names: list[str]) -> None:
    """Merge bases into a config, and then its :data:`OVERLAYS`."""
    for name in names:
        cfg.merge_from_dict(_read(find_config(name))._cfg_dict)
    for key, example in OVERLAYS.items():
        overlay = cfg.pop(key, {})
        if not isinstance(overlay, Mapping):
            raise ValueError(
                f'{key} is {overlay!r}; expected a dict, which is merged into the config, as in configs/{example}.'
            )
        cfg.merge_from_dict(overlay)


def _read(file: Path) -> Config:
    """Read a config and its bases, and import the modules of its ``custom_imports``.

    YAML is data: of its tags for Python only tuples are read, which MMEngine writes.

    Raises:
        FileNotFoundError: If a base does not exist.
        ValueError: If a file cannot be read, mixes the two styles of configs, or an import fails.
    """
    try:
        with patch.dict(file_handlers, yaml=_SAFE, yml=_SAFE):
            return Config.fromfile(str(file))
    except SyntaxError as error:
        line = f'line {error.lineno}: {error.msg}: {(error.text or "").strip()}'
        raise ValueError(f'{file}, or one of its _base_, is no valid Python: {line}') from error
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f'{file}, or one of its _base_: {_line(error)}. YAML is read as data: numbers, texts, lists, mappings and '
            '!!python/tuple. Objects of Python are not made, since that can execute any code; write such a config as '
            '.py.'
        ) from error
    except FileNotFoundError as error:
        base = re.search(r'[^\s\'"]+\.(py|ya?ml|json)\b', str(error))
        if base and base[0].endswith('/.mim/model-index.yml'):
            package = Path(base[0]).parents[1]
            raise FileNotFoundError(
                f'{file}: {package.name}:: in its _base_ names the configs in {package}/.mim, which its installation '
                f'makes. Run "pip install -e ." in {package.parent}.'
            ) from error
        what = f'its _base_ {base[0]} does not exist. {_near(base[0])}' if base else _line(error)
        raise FileNotFoundError(f'{file}: {what}') from error
    except ImportError as error:
        cause = error
        while isinstance(cause.__context__, ImportError):
            cause = cause.__context__
        raise ValueError(
            f'{file}: its custom_imports failed: {cause}. Modules of your own are found in the folders of PYTHONPATH, '
            'e.g. PYTHONPATH=. for the current one.'
        ) from error
    except RecursionError as error:
        raise ValueError(f'{file}: its _base_ lead back to a file that is being read.') from error
    except Exception as error:  # a config is code of the user
        advice = '' if file.suffix == '.py' else ' Expected a mapping of keys to values, in UTF-8.'
        if isinstance(error, ConfigParsingError | RuntimeError) or b'read_base' in file.read_bytes():
            advice = _STYLES
        raise ValueError(
            f'{file}, or one of its _base_, cannot be read: {type(error).__name__}: {_line(error)}.{advice}'
        ) from error


_STYLES = (
    ' A file with read_base(), or with imports of packages, inherits only from files of its own style. All configs of '
    "this project have the other one: inherit from them by _base_ = 'unmix::METHOD/NAME.py' in a file without "
    'read_base() and such imports; give changes as dicts, e.g. train_cfg = dict(max_epochs=100), and classes by name, '
    "type='MoCo'."
)


def _line(error: Exception) -> str:
    """Return the message of an error in one line, without an address at its end."""
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    return text.partition(' See more information in')[0].rstrip('.')


class _Loader(yaml.SafeLoader):
    """``SafeLoader`` that reads tuples."""


_Loader.add_constructor('tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node)))


class _SafeYaml(YamlHandler):
    """MMEngine's YAML, which its own handler lets call any function."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Read data."""
        return yaml.load(file, _Loader)


_SAFE = _SafeYaml()


def _move_data(content: ConfigDict, old: str | None, new: str) -> None:
    """Change the folder of the data sets at ``old`` to ``new``."""
    nodes = [node for path, node in dicts(content) if path and 'data_root' in node]
    moved = [node for node in nodes if node['data_root'] == old]
    if not moved:
        has = f'only {", ".join(sorted({str(node["data_root"]) for node in nodes}))}' if nodes else 'none'
        raise ValueError(
            f'--cfg-options data_root={new}: of the data sets in the config none is at its data_root, which is {old}; '
            f'their folders: {has}. Set those one by one, e.g. train_dataloader.dataset.data_root={new}'
        )
    for node in moved:
        node['data_root'] = new


def complete_loader(name: str, loader: Any) -> None:
    """Add ``collate_fn`` and ``sampler`` to a loader's config that has none.

    MMEngine's defaults do not fit this project's data sets: batches are lists of items, and no sampler shuffles, or
    divides the images among processes. A stream (``IterableDataset``) has no sampler.
    """
    loader.setdefault('collate_fn', dict(type='collate'))
    dataset = loader.get('dataset')
    kind = find_type(dataset.get('type'))[0] if isinstance(dataset, Mapping) else None
    if inspect.isclass(kind) and issubclass(kind, IterableDataset):
        loader.setdefault('sampler', None)
    elif loader.get('batch_sampler') is None and not loader.get('sampler'):
        loader['sampler'] = dict(type='EpochSampler', shuffle=name.startswith('train'))


def use_amp(cfg: Config) -> None:
    """Turn on automatic mixed precision: float16 with loss scaling on CUDA, bfloat16 elsewhere."""
    cfg.optim_wrapper.type = 'AmpOptimWrapper' if torch.cuda.is_available() else 'AutocastOptimWrapper'
