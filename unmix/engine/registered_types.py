"""Types that a file may name, and those it may not."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

from unmix import registry as unmix_registry

_NAMES_A_TYPE = ('type', 'constructor')


def refuse_unregistered(config: Any, source: str) -> None:
    """Refuse a config, which a file has brought along, if it names anything but registered types.

    MMEngine's ``Registry.build`` imports and calls whatever it does not know: ``dict(type='os.system', command=...)``.

    Raises:
        ValueError: If it does.
    """
    known = set(_registered())
    for name in _named(config):
        if name not in known:
            raise ValueError(
                f'{source} is refused: it names the type {name!r}, which nothing here has registered, and to build it '
                'could execute code. Types of your own are registered by --imports MODULE.'
            )


def _named(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        yield from (value for key, value in node.items() if key in _NAMES_A_TYPE and value is not None)
    if isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _named(value)


def _registered() -> Iterator[str]:
    """Names of all types: alone, with their scope, and with their module, as configs in pure Python have them."""
    for module in (unmix_registry, mmengine_registry):
        for registry in vars(module).values():
            if not isinstance(registry, Registry):
                continue
            registry.import_from_location()
            for child in (registry, *registry.children.values()):
                for name, item in child.module_dict.items():
                    yield from (
                        name,
                        f'{child.scope}.{name}',
                        f'{item.__module__}.{getattr(item, "__qualname__", name)}',
                    )
