"""Draw the features of images in the plane, by PCA, t-SNE or UMAP; colours are classes.

python tools/visualizations/vis_embedding.py work_dirs/NAME --out embedding.png             # of its test images
python tools/visualizations/vis_embedding.py work_dirs/NAME images --method pca
python tools/visualizations/vis_embedding.py features.npz --method umap                     # of 'unmix features'
"""

import argparse

import numpy as np

from unmix.apis.command import picture_file, run_tool
from unmix.apis.feature_tools import add_model, read_features
from unmix.utils.files import atomic_path
from unmix.utils.names import shown
from unmix.visualization.embedding import METHODS, project
from unmix.visualization.figure import new_figure

MOST = 20  # classes with a name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument('--method', choices=METHODS, default='tsne', help='default: tsne')
    parser.add_argument('--seed', type=int, default=0, help='of t-SNE and UMAP (default: 0)')
    parser.add_argument(
        '--out', type=picture_file, default='embedding.png', metavar='FILE', help='default: %(default)s'
    )
    args = parser.parse_args()
    found = read_features(args)
    points = project(found.features, args.method, args.seed)
    figure = new_figure(figsize=(7, 6), layout='constrained')
    from matplotlib import colormaps

    title = f'{METHODS[args.method]} of {len(points)} images, {shown(found.name)}'
    axes = figure.add_subplot(title=title, xticks=[], yticks=[])
    labels = np.zeros(len(points), int) if found.labels is None else found.labels
    own = np.unique(labels)
    for number, label in enumerate(own):
        name = found.class_name(int(label)) if found.labels is not None and len(own) <= MOST else None
        colour = colormaps['tab20'](number % 20) if len(own) > 10 else f'C{number}'
        axes.scatter(points[labels == label, 0], points[labels == label, 1], s=8, color=colour, label=name)
    if found.labels is not None and len(own) <= MOST:
        axes.legend(fontsize=8, markerscale=2)
    with atomic_path(args.out) as path:
        figure.savefig(path, dpi=120)
    print(f'{args.out}: {len(points)} images')


if __name__ == '__main__':
    run_tool(main)
