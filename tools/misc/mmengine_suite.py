"""Run the tests of a checkout of MMEngine twice, without and with ``import unmix``, and compare.

python tools/misc/mmengine_suite.py ~/mmengine
python tools/misc/mmengine_suite.py ~/mmengine tests/test_config tests/test_runner/test_checkpoint.py

The checkout's own mmengine is tested. Tests that fail in both runs are no matter of ``unmix``. The exit status is 1 if
a test has a worse outcome with ``unmix`` than without.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from unmix.apis.command import run_tool

TESTS = [f'tests/test_{part}' for part in ('config', 'fileio', 'hooks', 'registry', 'runner', 'utils')]
OUTCOMES = ('passed', 'skipped', 'failed', 'error', 'not run')  # best first


def outcomes(checkout: Path, tests: Sequence[str], plugins: Sequence[str]) -> dict[str, str]:
    """Run tests with some modules imported before; return the outcome of each test.

    Raises:
        ValueError: If pytest could not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, 'report.xml')
        options = [part for plugin in ('no:cacheprovider', *plugins) for part in ('-p', plugin)]
        command = [sys.executable, '-m', 'pytest', '-q', *options, f'--junitxml={report}', *tests]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH')]))
        done = subprocess.run(command, cwd=checkout, env=dict(os.environ, PYTHONPATH=path), check=False)
        if not report.is_file():
            raise ValueError(f'pytest ended with status {done.returncode}, without a report: {" ".join(command)}')
        cases = ElementTree.parse(report).getroot().iter('testcase')
        found = {}
        for case in cases:
            parts = {part.tag for part in case}
            outcome = {'failure': 'failed', 'error': 'error', 'skipped': 'skipped'}
            kinds = [outcome[part] for part in parts if part in outcome]
            found[f'{case.get("classname")}.{case.get("name")}'] = max(kinds, key=OUTCOMES.index, default='passed')
        return found


def worse(without: dict[str, str], with_unmix: dict[str, str]) -> list[str]:
    """Return a line for each test whose outcome is worse in the second run."""
    pairs = {name: (outcome, with_unmix.get(name, 'not run')) for name, outcome in without.items()}
    return [
        f'{name}: {before} without, {after} with unmix'
        for name, (before, after) in sorted(pairs.items())
        if OUTCOMES.index(after) > OUTCOMES.index(before)
    ]


def main() -> None:
    """Run the tests twice and print which change.

    Raises:
        ValueError: If the folder has no such tests, or pytest could not run.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkout', type=Path, help='folder of a checkout of MMEngine')
    parser.add_argument('tests', nargs='*', default=TESTS, help=f'paths of tests (default: {" ".join(TESTS)})')
    args = parser.parse_args()
    missing = [test for test in args.tests if not (args.checkout / test.partition('::')[0]).exists()]
    if missing:
        raise ValueError(
            f'{args.checkout} has no {", ".join(missing)}. Give the folder of a checkout of MMEngine with its tests, '
            'of the version that is installed: git clone --branch v0.10.7, the packages have none.'
        )
    without = outcomes(args.checkout, args.tests, [])
    lines = worse(without, outcomes(args.checkout, args.tests, ['unmix']))
    passed = list(without.values()).count('passed')
    print('\n'.join([f'{len(without)} tests, {passed} pass without unmix, {len(lines)} are worse with it', *lines]))
    sys.exit(bool(lines))


if __name__ == '__main__':
    run_tool(main)
