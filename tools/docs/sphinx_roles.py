"""Docstrings in the form that the site reads: griffe calls :class:`SphinxRoles` when it has read the package.

The docstrings have Google's sections with Sphinx's marks in them, and the site is Markdown. So the name in a role, such
as ``:class:`MoCo```, becomes a link to its entry, if there is exactly one, and code otherwise; a link with a text
becomes that of Markdown; and of two colons before an indented block one stays.
"""

import re
from collections.abc import Iterator
from typing import Any

import griffe

ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):`~?([^`]+)`')
NAMED_LINK = re.compile(r'`([^`<]+?)\s+<([^`>]+)>`__?')
BLOCK = re.compile(r'::$', re.MULTILINE)


def public(found: Any) -> Iterator[Any]:
    """Yield a module, class or function and all below it that have an entry: none begins with an underscore."""
    yield found
    for name, member in found.members.items():
        if not name.startswith('_') and not member.is_alias and not member.is_attribute:
            yield from public(member)


def all_below(found: Any) -> Iterator[Any]:
    """Yield a module, class, function or attribute and all that is defined in it."""
    yield found
    for member in found.members.values():
        if not member.is_alias:
            yield from all_below(member)


class Names:
    """Finds the path of an object by the last parts of it.

    Args:
        package: The package, as griffe has read it.
    """

    def __init__(self, package: griffe.Object) -> None:
        self.paths: dict[str, set[str]] = {}
        for found in public(package):
            parts = found.path.split('.')
            for start in range(len(parts)):
                self.paths.setdefault('.'.join(parts[start:]), set()).add(found.path)

    def path(self, name: str, inside: str = '') -> str | None:
        """Return the whole path of ``name``, as seen from the object ``inside``; None if there is none or several."""
        name = name.removesuffix('()')
        while inside:
            if f'{inside}.{name}' in self.paths.get(name, ()):
                return f'{inside}.{name}'
            inside = inside.rpartition('.')[0]
        found = self.paths.get(name, set())
        return next(iter(found)) if len(found) == 1 else None

    def markdown(self, text: str, inside: str = '') -> str:
        """Return a docstring as Markdown."""

        def link(match: re.Match[str]) -> str:
            path = self.path(match[1], inside)
            return f'[`{match[1]}`][{path}]' if path else f'`{match[1]}`'

        return BLOCK.sub(':', NAMED_LINK.sub(r'[\1](\2)', ROLE.sub(link, text)))


class SphinxRoles(griffe.Extension):
    """Turns all docstrings of a package to Markdown."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Do so when the package has been read."""
        names = Names(pkg)
        for found in all_below(pkg):
            if found.docstring is not None:
                found.docstring.value = names.markdown(found.docstring.value, found.path)
