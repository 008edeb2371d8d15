"""The documentation site is built strictly; it is complete: each public name, each config key, no link into nothing."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from torch.utils.data import DataLoader

from unmix.config import config_files, load_config
from unmix.config.check import BUILDER_KEYS, LITERAL, RUNNER_KEYS, UNTYPED, arguments, dicts, find_type

ROOT = Path(__file__).parents[1]
KEYS = (ROOT / 'docs' / 'config_keys.md').read_text(encoding='utf-8')
needs_docs = pytest.mark.skipif(
    importlib.util.find_spec('mkdocstrings') is None, reason="the site needs pip install -e '.[docs]'"
)


def tables(page: str) -> dict[str, dict[str, str]]:
    """Return the keys of each table of a page, with their defaults, by the heading above it."""
    found: dict[str, dict[str, str]] = {}
    heading = ''
    for line in page.splitlines():
        if line.startswith('#'):
            heading = line.lstrip('# ').replace('`', '')
        _, *cells = map(str.strip, line.split('|'))
        for key in re.findall(r'`([\w.]+)`', cells[0]) if cells and line.startswith('| `') else ():
            found.setdefault(heading, {})[key] = cells[2].strip('`')
    return found


LIBRARIES = tables(KEYS)


def library_class(name: str) -> tuple[Callable[..., Any], str]:
    """Return the class of a heading of the page of libraries, and its registry."""
    if name == 'DataLoader':
        return DataLoader, 'dataloader'
    function, registry = find_type(name)
    assert function is not None, f'docs/config_keys.md: {name} is not registered'
    return function, registry


CLASSES = [name for name in LIBRARIES if name[0].isupper() and name not in ('Top level', 'Variables')]


@pytest.mark.parametrize('name', CLASSES)
def test_keys_of_libraries_are_theirs(name: str) -> None:
    """With their defaults."""
    function, registry = library_class(name)
    known, _ = arguments(function)
    for key, default in LIBRARIES[name].items():
        if key not in known:
            assert key in BUILDER_KEYS.get(registry, set()), f'{name} has no argument {key}'
            continue
        own = known[key].default
        stated = getattr(own, 'value', own)  # torchvision's enumeration of interpolations
        assert default == ('required' if own is inspect.Parameter.empty else repr(stated)), f'{name}.{key}'


def test_keys_without_a_type_are_those_that_are_read() -> None:
    assert LIBRARIES['Top level'].keys() == RUNNER_KEYS
    for path in ('env_cfg', 'randomness', 'log_processor', 'auto_scale_lr'):
        for key in LIBRARIES[path]:
            place, _, name = f'{path}.{key}'.rpartition('.')
            assert name in UNTYPED[place], f'{path}.{key}'


def table_without_type(path: str) -> tuple[str, str]:
    """Return the table for the keys of a dict without a type, and what stands before the keys there."""
    place = next(part for part in reversed(path.split('.')) if not part.isdigit())
    if '.custom_keys' in path:  # by names of modules
        return 'optim_wrapper.paramwise_cfg', 'custom_keys.'
    if place == 'data_preprocessor':
        return 'DataPreprocessor', ''
    top, _, rest = path.partition('.')
    return next(
        ((table, prefix) for table, prefix in ((path, ''), (place, ''), (top, f'{rest}.')) if table in LIBRARIES),
        (path, ''),
    )


@needs_docs
@pytest.mark.slow
def test_every_key_of_the_configs_is_in_the_reference() -> None:
    """That of a class is in the table of the class, or of a base class that gets what it passes on."""
    import config_reference

    reference = dict(LIBRARIES)
    for page in config_reference.pages(config_reference.load(ROOT)).values():
        for name, keys in tables(page).items():
            reference[name] = reference.get(name, {}) | keys

    @cache
    def keys_of(function: Callable[..., Any]) -> set[str]:
        classes = inspect.getmro(function) if inspect.isclass(function) else (function,)
        names = {name for name in reference if find_type(name)[0] in classes} | {cls.__name__ for cls in classes}
        return {key for name in names for key in reference.get(name, ())}

    missing, seen = set(), 0
    for file in config_files():
        cfg = load_config(str(file))
        missing |= cfg.keys() - reference['Top level'].keys() - reference['Variables'].keys()
        for path, node in dicts(cfg._cfg_dict):
            place = path.rpartition('.')[2]
            seen += len(node)
            if place.endswith('dataloader'):
                missing |= {f'DataLoader.{key}' for key in node.keys() - reference['DataLoader'].keys() - {'type'}}
            elif 'type' in node and place not in LITERAL:
                function, registry = find_type(node['type'])
                allowed = keys_of(function) | {'type'} | BUILDER_KEYS.get(registry, set())
                missing |= {f'{node["type"]}.{key}' for key in node.keys() - allowed}
            elif (
                path.partition('.')[0] in RUNNER_KEYS and path != 'default_hooks' and not path.endswith('.custom_keys')
            ):
                table, prefix = table_without_type(path)
                missing |= {
                    f'{table}.{prefix}{key}' for key in node if f'{prefix}{key}' not in reference.get(table, ())
                }
    assert missing == set()
    assert seen > 10_000


@needs_docs
@pytest.mark.slow
def test_arguments_in_the_reference_are_those_of_the_code() -> None:
    """What griffe reads of the source is what ``inspect`` finds."""
    import config_reference

    entries = list(config_reference.entries(config_reference.load(ROOT)))
    assert len(entries) > 85
    for entry in entries:
        function, _ = find_type(entry.name)
        if getattr(function, '__module__', '').startswith('unmix'):
            stated, further = config_reference.arguments(entry)
            known, _ = arguments(function)
            passed = config_reference.PASSED.get(entry.registry, set())
            own = {key: known[key] for key in stated}
            assert further or known.keys() - passed == stated.keys(), entry.name
            assert all(text for _, _, text in stated.values()), f'{entry.name}: an argument is not described'
            for key, parameter in own.items():
                assert (stated[key][1] == 'required') == (parameter.default is parameter.empty), f'{entry.name}.{key}'


def public_names() -> Iterator[str]:
    """Yield the public classes and functions of the modules, and the methods of these classes."""
    for path in sorted(ROOT.glob('unmix/**/*.py')):
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
        if '.mim' not in path.parts and '._' not in module:
            yield module
            yield from below(module, ast.parse(path.read_text(encoding='utf-8')).body)


def below(prefix: str, body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith('_'):
            yield f'{prefix}.{node.name}'
            if isinstance(node, ast.ClassDef):
                yield from below(f'{prefix}.{node.name}', node.body)


class Page(HTMLParser):
    """Anchors of a page, its links, and what it loads."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ('id', 'name') if name in values}
        if tag == 'a' and 'href' in values:
            self.links.append(values['href'])
        elif tag in ('script', 'img', 'iframe', 'link') and values.get('rel') not in ('canonical', 'prev', 'next'):
            self.loaded += [values[name] for name in ('src', 'href') if name in values]


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope='module')
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding='utf-8')) for path in site.rglob('*.html') if path.name != '404.html'}


@needs_docs
@pytest.mark.slow
def test_every_public_name_has_an_entry(site: Path) -> None:
    inventory = (site / 'objects.inv').read_bytes().split(b'zlib.\n', 1)[1]
    entries = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    assert [name for name in public_names() if name not in entries] == []


@needs_docs
@pytest.mark.slow
def test_links_of_the_site_lead_somewhere(pages: dict[Path, Page]) -> None:
    wrong = set()
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= 'index.html'
            anchors = pages[target].anchors if target in pages else set()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                wrong.add(f'{path.name}: {link}')
    assert wrong == set()


@needs_docs
@pytest.mark.slow
def test_the_site_needs_no_network(site: Path, pages: dict[Path, Page]) -> None:
    """Pages load files of the site only, and the search has its index as a script, for pages opened as files."""
    loaded = {link for page in pages.values() for link in page.loaded}
    assert [link for link in loaded if urlsplit(link).netloc] == []
    assert any(link.endswith('iframe-worker.js') for link in loaded)
    assert 'Un-Mix' in (site / 'search' / 'search_index.js').read_text(encoding='utf-8')


@needs_docs
@pytest.mark.slow
def test_markdown_of_the_pages_is_read_as_on_github(pages: dict[Path, Page]) -> None:
    """No list, table, fence or role of Sphinx is left as text."""
    wrong = []
    for path in pages:
        text = re.sub(r'<(pre|code|script|style)\b.*?</\1>', '', path.read_text(encoding='utf-8'), flags=re.DOTALL)
        wrong += [
            f'{path.name}: {found[0]}'
            for found in re.finditer(r'(?m)^(?:\* |\d\. |\|--|```).*|:(?:class|func|meth):.*', text)
        ]
    assert wrong == []
