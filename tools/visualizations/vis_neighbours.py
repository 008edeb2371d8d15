"""Draw images and those nearest to them by their features; a frame is green if the class is the same.

python tools/visualizations/vis_neighbours.py work_dirs/NAME --out neighbours.png           # among its test images
python tools/visualizations/vis_neighbours.py work_dirs/NAME images --queries 12 --neighbours 6
"""

import argparse

import numpy as np

from unmix.apis.command import picture_file, run_tool
from unmix.apis.feature_tools import add_model, read_features
from unmix.utils.names import shown
from unmix.visualization.neighbours import Neighbourhood, draw_neighbours, nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument('--queries', type=int, default=8, help='number of images (default: 8)')
    parser.add_argument('--neighbours', type=int, default=8, help='number of neighbours of each (default: 8)')
    parser.add_argument('--seed', type=int, default=0, help='of the choice of images (default: 0)')
    parser.add_argument(
        '--out', type=picture_file, default='neighbours.png', metavar='FILE', help='default: %(default)s'
    )
    args = parser.parse_args()
    if args.queries < 1:
        raise ValueError(f'--queries is {args.queries}; expected 1 or more.')
    found = read_features(args)
    number = min(args.queries, len(found.features))
    queries = np.sort(np.random.default_rng(args.seed).choice(len(found.features), number, replace=False)).tolist()
    rows = []
    for query, near in zip(queries, nearest(found.features, found.features[queries], args.neighbours + 1), strict=True):
        others = [row for row in near.tolist() if row != query][: args.neighbours]
        same = None if found.labels is None else [bool(found.labels[row] == found.labels[query]) for row in others]
        name = '' if found.labels is None else found.class_name(int(found.labels[query]))
        rows.append(Neighbourhood(found.image(query), [found.image(row) for row in others], same, name))
    draw_neighbours(rows, args.out, f'Nearest of {len(found.features)} images, {shown(found.name)}')
    right = [equal for row in rows for equal in row.same or ()]
    print(f'{args.out}: {number} images' + (f', {sum(right)} of {len(right)} of the same class' if right else ''))


if __name__ == '__main__':
    run_tool(main)
