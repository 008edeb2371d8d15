"""Tensors of a file by the names of the library's network that they are of, or what to do if the names are others."""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unmix.converters.library_networks import CLASSIFIERS, Recipe, library_of
from unmix.converters.networks import below
from unmix.converters.told import preference
from unmix.utils.matching import check_match, flat_tensors, places, unwrapped

REST = 4  # tensors of a classifier, which come last, at most
DOCS = 'docs/custom_data.md#files-with-other-names'
COUNTER = 'num_batches_tracked'  # of BatchNorm; files of PyTorch before 0.4.1 lack it


class Entry(NamedTuple):
    """The dict of a file that holds the most tensors, and the keys that lead to it."""

    keys: tuple[str, ...]
    tensors: dict[str, Tensor]


def entry_of(content: Any, depth: int = 4) -> Entry:
    """Return the dict of a file that directly holds the most tensors; of DINO's the teacher's."""
    if not isinstance(content, Mapping):
        return Entry((), {})
    found = [Entry((), {str(key): x for key, x in content.items() if isinstance(x, Tensor)})]
    for key, value in content.items() if depth else ():
        inner = entry_of(value, depth - 1)
        found.append(Entry((str(key), *inner.keys), inner.tensors))
    return min(found, key=lambda entry: (-len(entry.tensors), preference('.'.join(entry.keys))))


def own_names(content: Any, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file without the beginning of their names that a network does not have, by most matches.

    Classifiers, which the network lacks, are left out.
    """
    tensors = flat_tensors(content)
    counts = places(own, tensors)
    most = max(counts.values(), default=0)
    place = min((place for place, count in counts.items() if count == most), key=preference, default='')
    found = below(tensors, place) if most else {unwrapped(name): x for name, x in entry_of(content).tensors.items()}
    return without_classifier(found, own)


def without_classifier(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without those of a classifier that a network does not have."""
    return {name: x for name, x in tensors.items() if name in own or not name.startswith(CLASSIFIERS)}


def completed(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a file by the names of a library's network, as far as the library or PyTorch knows how.

    timm translates the original files of some of its networks, such as ConvNeXt and DINOv2. Counters of BatchNorm
    are zeros if the file lacks them, as those of PyTorch before 0.4.1; no output depends on them.
    """
    own, found = network.state_dict(), dict(tensors)
    translate = getattr(sys.modules[type(network).__module__], 'checkpoint_filter_fn', None)
    if translate is not None and not fits(own, found):
        try:
            translated = without_classifier(translate(dict(found), network), own)
        except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            translated = found  # it is of yet another code
        found = translated if fits(own, translated) else found
    if any(name in found for name in own):
        found = {name: torch.tensor(0) for name in own if name.endswith(COUNTER)} | found
    return found


def fits(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Return whether tensors have the names and shapes of a network, counters of BatchNorm aside."""
    first, second = ({name: x.shape for name, x in each.items() if not name.endswith(COUNTER)} for each in (own, found))
    return first == second


def check_names(
    found: Mapping[str, Tensor], content: Any, source: str, config: Mapping[str, Any], backbone: Any
) -> None:
    """Compare the tensors of a file with those of the library's network that the user has named.

    Args:
        found: The tensors, as :func:`completed` gives them.
        content: Of the file.
        source: Its path.
        config: Of the backbone.
        backbone: The backbone, whose network is the library's.

    Raises:
        ValueError: If they differ. If few names are the same, it says what is expected, and how to rename the tensors.
    """
    own = backbone.network.state_dict()
    library, name = str(library_of(config)), config['model_name']
    if 2 * sum(key in found for key in own) >= len(own):
        advice = f'Name the network of the file by --backbone {library}:NAME, or give a file of {name}'
        check_match(own, found, source, advice=advice)
        return
    entry = entry_of(content)
    theirs = entry.tensors
    counted = any(key.endswith(COUNTER) for key in theirs)
    ours = {key: x for key, x in own.items() if counted or not key.endswith(COUNTER)}
    call = str(Recipe(library, config, backbone))
    first = [tuple(x.shape) for x in ours.values()]
    given = [tuple(x.shape) for x in theirs.values()]
    if first == given[: len(first)] and len(given) - len(first) <= REST:
        keys = ''.join(f'[{key!r}]' for key in entry.keys)
        names = 'new' if counted else f'[k for k in new if not k.endswith({COUNTER!r})]'
        code = (
            f'import torch, {library}; from unmix.converters.containers import read; new = {call}.state_dict(); '
            f'old = [x for x in read({source!r}){keys}.values() if torch.is_tensor(x)]; '
            f"torch.save(dict(zip({names}, old)), 'renamed.pth')"
        )
        way = (
            'The shapes are the same in the same order, so it is probably this network. Rename its tensors by\n\n'
            f'python -c {shell_quoted(code)}\n\nand give renamed.pth with the same --backbone. Then compare its '
            'features with those of the code that wrote the file, since shapes do not show padding, activation and '
            f'order of equal layers: {DOCS}.'
        )
    elif not (lacking := Counter(first) - Counter([*given, *[()] * len(own)])):
        way = (
            'All its shapes are there, in another order, so it may be this network. Rename the tensors by a function '
            f'of your own, and give the new file with the same --backbone: {DOCS}.'
        )
    else:
        way = (
            f'{sum(lacking.values())} tensors of {name} have shapes that the file lacks, as {next(iter(lacking))}, so '
            'the file is of another network, or its code divides the tensors in another way. Name its network by '
            f'--backbone {library}:NAME, or save it with the names of {library} by the code that wrote it: {DOCS}.'
        )
    raise ValueError(
        f'{source} does not have the names of {library}:{name}. Expected are {len(ours)} tensors, {listed(ours)}; the '
        f'file has {len(theirs)}, {listed(theirs)}. {way}'
    )


def listed(tensors: Mapping[str, Tensor], number: int = 3) -> str:
    """Return the first names of tensors with their shapes, in words."""
    words = [f'{name} {tuple(x.shape)}' for name, x in list(tensors.items())[:number]]
    return ', '.join(words) + (', ...' if len(tensors) > number else '') if words else 'no tensors'


def shell_quoted(code: str) -> str:
    """Return Python code, which has single quotes, in the double quotes of a shell."""
    escaped = ''.join(f'\\{x}' if x in '\\"$`' else x for x in code)
    return f'"{escaped}"'
