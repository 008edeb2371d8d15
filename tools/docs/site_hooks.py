"""What mkdocs asks for when it builds the site: pages made of the code, and links to files outside of ``docs``.

A page links to README, configs, tools and sources as on GitHub, by a relative path. Each file that is linked to becomes
a page of the site, so the site is complete without a network and without an address of the repository.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import config_reference
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
FILES = 'repository'  # the folder of the site for the files of the repository
CONTRIBUTING = ['CONTRIBUTING.md', 'AGENTS.md', 'CHANGELOG.md', 'SECURITY.md', 'CODE_OF_CONDUCT.md']
LINK = re.compile(r'(\]\()([^)\s#]+)(#[^)\s]*)?(\))')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.yml': 'yaml', '.yaml': 'yaml', '.toml': 'toml', '.json': 'json'}


def page_of(path: Path) -> str:
    """Return the page of a file or folder of the repository, a path in the site as mkdocs names it.

    A folder is shown by its README, if it has one.
    """
    if path.is_dir() and (path / 'README.md').is_file():
        path /= 'README.md'
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = PurePosixPath(FILES, path.relative_to(ROOT).as_posix())
    if path.is_dir():
        return str(name / 'index.md')
    return str(name) if name.suffix == '.md' else f'{name}.md'


def target_of(source: Path, link: str) -> Path | None:
    """Return the file or folder of the repository that a link of a file leads to; None for any other link."""
    if re.match(r'[a-z]+:', link):
        return None
    path = Path(os.path.normpath(source.parent / link))
    return path if path.exists() and path.is_relative_to(ROOT) else None


def rewritten(markdown: str, source: Path) -> str:
    """Return the Markdown of a file with its links as of its page in the site."""
    here = PurePosixPath(page_of(source)).parent

    def link(match: re.Match[str]) -> str:
        target = target_of(source, match[2])
        if target is None:
            return match[0]
        return f'{match[1]}{os.path.relpath(page_of(target), here)}{match[3] or ""}{match[4]}'

    return LINK.sub(link, markdown)


def linked(source: Path) -> Iterator[Path]:
    """Yield the files and folders of the repository that a file or folder links to."""
    if source.is_dir():
        yield from (path for path in sorted(source.iterdir()) if path.suffix in {*LANGUAGES, '.md'})
    elif source.suffix == '.md':
        targets = [target_of(source, match[2]) for match in LINK.finditer(source.read_text(encoding='utf-8'))]
        yield from (target for target in targets if target is not None)


def reached(start: list[Path]) -> list[Path]:
    """Return the files and folders outside of ``docs`` that can be reached from some files by links."""
    found, waiting = dict.fromkeys(start), list(start)
    while waiting:
        for path in linked(waiting.pop()):
            if page_of(path) not in {page_of(known) for known in found}:
                found[path] = None
                waiting.append(path)
    return [path for path in found if not path.is_relative_to(DOCS)]


def content_of(path: Path) -> str:
    """Return the page of a file or folder of the repository."""
    if path.is_dir() and (path / 'README.md').is_file():
        path /= 'README.md'
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        here = PurePosixPath(FILES, name)
        items = [f'* [{item.name}]({os.path.relpath(page_of(item), here)})' for item in linked(path)]
        return '\n'.join([f'# {name}', '', *items, ''])
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.md':
        return rewritten(text, path)
    fence = '`' * max([3, *(len(ticks) + 1 for ticks in re.findall('`+', text))])
    return f'# {name}\n\n{fence}{LANGUAGES.get(path.suffix, "text")}\n{text.rstrip()}\n{fence}\n'


def api_pages() -> dict[str, str]:
    """Return the pages of the API reference: one for each package, with the modules that are directly in it."""
    pages = {}
    for init in sorted(ROOT.glob('unmix/**/__init__.py')):
        package = '.'.join(init.parent.relative_to(ROOT).parts)
        modules = [package, *(f'{package}.{path.stem}' for path in sorted(init.parent.glob('[!_]*.py')))]
        pages[package] = '\n\n'.join([f'# `{package}`', *(f'::: {module}' for module in modules)]) + '\n'
    return pages


def generated() -> dict[str, str]:
    """Return the content of all pages that are made of code, by the page as mkdocs names it."""
    reference = config_reference.pages(config_reference.load(ROOT))
    return {
        **{f'reference/{name}.md': content for name, content in reference.items()},
        **{f'api/{name}.md': content for name, content in api_pages().items()},
    }


def on_config(config: Any) -> Any:
    """Add the pages that are made of code to the navigation."""
    for part in config.nav:
        (title, children), *_ = part.items()
        if title == 'Configuration reference':
            children += [{heading: f'reference/{name}.md'} for name, (heading, _) in config_reference.PAGES.items()]
        elif title == 'API reference':
            children += [{package: f'api/{package}.md'} for package in api_pages()]
        elif title == 'Contributing':
            children[:0] = [{path.removesuffix('.md'): page_of(ROOT / path)} for path in CONTRIBUTING]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made of code, and the files of the repository that pages link to."""
    start = [*DOCS.glob('*.md'), *(ROOT / path for path in CONTRIBUTING)]
    pages = {page_of(path): content_of(path) for path in reached(start)}
    for name, content in (pages | generated()).items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrite the links of the pages of ``docs``; those of the other pages are as they must be."""
    source = DOCS / page.file.src_uri
    return rewritten(markdown, source) if source.is_file() else markdown
