"""Write the numbers of ``results/*.json`` into README, pages and metafiles, or compare them.

    python tools/results.py            # writes
    python tools/results.py --check    # writes nothing; status 1 if a page has other numbers

A page says where a number belongs by comments, ``<!-- results: value methods moco full knn -->98.1<!-- /results -->``,
in YAML by ``# results: ...`` and ``# /results`` on lines of their own. All between them is replaced. The first word is
one of the functions in ``REGIONS``, the second a file, the others are arguments. Published figures are no results of
ours: they have their source beside them, and no mark.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools.evidence import tables  # noqa: E402
from tools.evidence.estimates import Json  # noqa: E402

PAGES = ('README.md', 'docs/*.md', 'configs/*/README.md', 'configs/*/metafile.yml')
OPEN = {'.md': r'<!-- results: (?P<name>[^>\n]*?) -->', '.yml': r'(?P<indent> *)# results: (?P<name>[^\n]*)\n'}
CLOSE = {'.md': '<!-- /results -->', '.yml': ' *# /results'}


@cache
def load(table: str, folder: Path = ROOT / 'results') -> Json:
    """Return the content of a file of results.

    Raises:
        ValueError: If there is no such file, or it holds no results.
    """
    path = folder / f'{table}.json'
    if not path.is_file():
        known = ', '.join(sorted(file.stem for file in folder.glob('*.json') if file.is_file()))
        raise ValueError(f'there is no {path.name} in results; known: {known or "none"}.')
    try:
        content: Json = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(content, dict):
            raise ValueError(f'it holds a {type(content).__name__}; expected an object')
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        raise ValueError(
            f'results/{path.name} has no results ({error}). Restore it, or make it by tools/reproduce.py {table}.'
        ) from error
    return content


REGIONS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        tables.accuracies,
        tables.methods,
        tables.equal_compute,
        tables.verdicts,
        tables.half_price,
        tables.controls,
        tables.missing,
        tables.choices,
        tables.value,
        tables.values,
        tables.minus,
        tables.rows,
        tables.metrics,
    )
}


def render(text: str, suffix: str, where: str) -> str:
    """Return a page with all regions made anew.

    Raises:
        ValueError: If a region is not closed, or names what is not there.
    """
    pattern = re.compile(f'(?P<open>{OPEN[suffix]})(?P<text>.*?)(?P<close>{CLOSE[suffix]})', re.DOTALL)

    def new(match: re.Match[str]) -> str:
        name, *arguments = match['name'].split() or ['']
        if name not in REGIONS or not arguments:
            raise ValueError(
                f'{where}: results: {match["name"]}: expected a function ({", ".join(REGIONS)}) and a file of results.'
            )
        try:
            made = REGIONS[name](load(arguments[0]), *arguments[1:])
        except KeyError as error:
            raise ValueError(f'{where}: results: {match["name"]}: {error} is not there.') from error
        except (TypeError, ValueError) as error:
            raise ValueError(f'{where}: results: {match["name"]}: {error}') from error
        if suffix == '.yml':
            made = ''.join(f'{match["indent"]}{line}\n' for line in made.splitlines())
        elif '\n' in made:
            made = f'\n\n{made}\n\n'
        return match['open'] + made + match['close']

    opened = len(re.findall(OPEN[suffix], text))
    if opened != len(pattern.findall(text)) or opened != len(re.findall(CLOSE[suffix], text)):
        raise ValueError(f'{where}: {opened} comments "results: NAME" and as many "/results" are expected, in turns.')
    return pattern.sub(new, text)


def pages(root: Path) -> list[Path]:
    """Return all files that may have regions."""
    return [path for pattern in PAGES for path in sorted(root.glob(pattern)) if path.is_file()]


def stale(root: Path) -> dict[Path, tuple[str, str]]:
    """Return what pages are and what they should be, where these differ."""
    found = {}
    for path in pages(root):
        where = str(path.relative_to(root))
        try:
            text = path.read_text(encoding='utf-8')
        except ValueError as error:
            raise ValueError(f'{where} is not in UTF-8 ({error}). Save it so.') from error
        made = render(text, path.suffix, where)
        if made != text:
            found[path] = (text, made)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; status 1 if a page has other numbers')
    args = parser.parse_args(arguments)
    try:
        found = stale(ROOT)
    except ValueError as error:
        sys.exit(str(error))
    for path, (text, made) in found.items():
        name = path.relative_to(ROOT)
        if not args.check:
            path.write_text(made, encoding='utf-8')
            print(f'{name}: written')
            continue
        for line, (old, new) in enumerate(zip(text.splitlines(), made.splitlines(), strict=False), 1):
            if old != new:
                print(f'{name}:{line}: is       {old}\n{name}:{line}: should be {new}')
                break
    if args.check and found:
        sys.exit('These pages do not have the numbers of results/*.json: run python tools/results.py.')


if __name__ == '__main__':
    main()
