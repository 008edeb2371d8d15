"""Train what a table of results lacks, and write the table: Markdown, CSV, a figure, and ``results/TABLE.json``.

    python tools/reproduce.py tune                    # learning rates, chosen on writers that are not tested on
    python tools/reproduce.py methods --seeds 5       # all methods without and with Un-Mix, on the digits
    python tools/reproduce.py tune-vit                # likewise on a small ViT
    python tools/reproduce.py vit --seeds 3           # the newer methods on a small ViT
    python tools/reproduce.py cost --seeds 16         # cheaper forms of the mixture, on the digits
    python tools/reproduce.py fashion-mnist --seeds 5

Finished runs, in --work-dir or recorded in --results, are not repeated, interrupted ones are resumed, and tables share
runs. A run is known by what determines its result (model, data, optimiser, schedules, evaluation): after a change of a
recipe it is another run; after a change of the code that moves results, delete their seeds in --results and their
folders in --work-dir. To repeat all, give an empty folder as --results. The order is by seed, so that an interrupted
table has all rows with fewer seeds. Each call writes all runs of the table that are there, and prints those that are
missing; with --no-train it does only that. Then ``python tools/results.py`` puts the numbers into the pages.

Give one --work-dir to one process at a time. Results depend on --threads.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools.evidence.files import draw, to_csv, to_json, to_markdown  # noqa: E402
from tools.evidence.plan import TABLES  # noqa: E402
from tools.evidence.runs import Place, collect, missing, recorded, train  # noqa: E402


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('table', choices=TABLES)
    parser.add_argument('--seeds', type=int, help='train seeds 0 to N - 1 (default: as planned for the table)')
    parser.add_argument('--rows', nargs='+', help='train some of the rows of the table only: methods')
    parser.add_argument('--columns', nargs='+', help='train some of the columns of the table only')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'reproduce')
    parser.add_argument('--results', type=Path, default=ROOT / 'results', help='folder of TABLE.json')
    parser.add_argument('--jobs', type=int, default=1, help='runs at once')
    parser.add_argument('--threads', type=int, default=1, help='threads of each run; results depend on it')
    parser.add_argument('--device', default='cpu', help='where to train, as cuda (default cpu)')
    parser.add_argument('--no-train', action='store_true', help='print what is missing, and write what is there')
    args = parser.parse_args()
    place = Place(args.work_dir, args.threads, args.device, recorded(args.results, args.threads, args.device))
    failed: set[tuple[str, str, int]] = set()
    while True:  # the values that a search tries last depend on the first ones
        arms = list(TABLES[args.table](*[place.score][: args.table in ('tune', 'tune-vit', 'vit', 'cost')]))
        chosen = arms
        for key in ('row', 'column'):
            wanted, known = getattr(args, f'{key}s'), list(dict.fromkeys(getattr(arm, key) for arm in arms))
            if wrong := sorted(set(wanted or []) - set(known)):
                parser.error(f'--{key}s {" ".join(wrong)}: the table {args.table} has {", ".join(known)}.')
            chosen = [arm for arm in chosen if getattr(arm, key) in (wanted or known)]
        todo = [run for run in missing(chosen, args.seeds, place) if (run[0].row, run[0].column, run[1]) not in failed]
        for arm, seed in todo:
            print(f'missing: {arm.row}, {arm.column}, seed {seed}: {place.of(arm, seed).name}', flush=True)
        if args.no_train or not todo:
            break
        with ThreadPoolExecutor(args.jobs) as pool:
            ended = list(pool.map(lambda run: train(run[0], run[1], place), todo))
        failed |= {(arm.row, arm.column, seed) for (arm, seed), good in zip(todo, ended, strict=True) if not good}
    content = collect(args.table, arms, place)
    args.results.mkdir(parents=True, exist_ok=True)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    file = args.results / f'{args.table}.json'
    file.write_text(to_json(content), encoding='utf-8')
    (args.work_dir / f'{args.table}.csv').write_text(to_csv(content), encoding='utf-8')
    (args.work_dir / f'{args.table}.md').write_text(to_markdown(content), encoding='utf-8')
    draw(content, args.work_dir / f'{args.table}.png')
    print('\n' + to_markdown(content))
    print(f'Written: {file}, and {args.table}.csv, .md and .png in {args.work_dir}.')
    if failed:
        sys.exit(f'{len(failed)} runs failed: ' + '; '.join(f'{row}, {column}, seed {n}' for row, column, n in failed))


if __name__ == '__main__':
    main()
