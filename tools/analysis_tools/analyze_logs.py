"""Write the log of a training as a table (CSV), or print its summary.

python tools/analysis_tools/analyze_logs.py work_dirs/NAME
python tools/analysis_tools/analyze_logs.py work_dirs/NAME --out logs          # logs/train.csv, logs/validation.csv

Training steps and validations are two tables: the step of the first counts iterations, that of the second epochs (or
iterations, where the training has no epochs). A resumed training gives one log. To read a table:
``pandas.read_csv('logs/train.csv')``.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from unmix.apis.command import run_tool
from unmix.utils.files import atomic_path
from unmix.utils.run_files import Record, RunFiles, read_scalars


def read_logs(work_dir: Path) -> tuple[list[Record], list[Record]]:
    """Return the records of the training in a work dir and of its validations; see :func:`read_scalars`.

    Raises:
        FileNotFoundError: If there is no log.
    """
    files = RunFiles(work_dir).logs
    if not files:
        raise FileNotFoundError(
            f'{work_dir} holds no log of a training (*/vis_data/scalars.json). Give the work dir of one.'
        )
    return read_scalars(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='where the tables go (default: print a summary)')
    args = parser.parse_args()
    tables = dict(zip(('train', 'validation'), read_logs(args.work_dir), strict=True))
    for name, records in tables.items():
        if args.out is None:
            _print_summary(name, records)
        elif records:
            args.out.mkdir(parents=True, exist_ok=True)
            write_table(records, args.out / f'{name}.csv')
            print(f'{args.out / name}.csv: {len(records)} rows')


def write_table(records: Sequence[Record], path: Path) -> None:
    """Write records as CSV, ``step`` first; a value that a record lacks is empty."""
    columns = ['step', *sorted({key for record in records for key in record} - {'step'})]
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)


def _print_summary(name: str, records: Sequence[Record]) -> None:
    print(f'{name}: {len(records)} records')
    for key in sorted({key for record in records for key in record} - {'step'}):
        points = [(record[key], record['step']) for record in records if isinstance(record.get(key), int | float)]
        if points:
            (low, at_low), (high, at_high) = min(points), max(points)
            print(f'  {key:32} last {points[-1][0]:.5g}, {low:.5g} (step {at_low}) to {high:.5g} (step {at_high})')


if __name__ == '__main__':
    run_tool(main)
