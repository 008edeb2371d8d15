"""Draw how flat the predictions of models are on the same images: their softmax over the other images, sorted.

python tools/visualizations/vis_predictions.py work_dirs/moco_digits work_dirs/unmix-moco_digits --out predictions.png
python tools/visualizations/vis_predictions.py work_dirs/A work_dirs/B --data images --temperature 0.1

Un-Mix is said to make predictions flatter (2020 paper, Fig. 3): the entropy answers, in nats and as a share of the
flat distribution. The images are the test images of the first model, or those of a folder.
"""

import argparse
from pathlib import Path

from unmix.apis.command import picture_file, run_tool
from unmix.apis.features import extract_features, features_of_test_set
from unmix.visualization.predictions import draw_predictions, predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', metavar='MODEL', help='runs, checkpoints, or models of the zoo')
    parser.add_argument('--data', metavar='FOLDER', help='images (default: those that each model is tested on)')
    parser.add_argument('--stage', choices=['backbone', 'neck'], default='neck', help='features (default: neck)')
    parser.add_argument('--temperature', type=float, default=0.2, help='of all models (default: 0.2)')
    parser.add_argument(
        '--out',
        type=picture_file,
        default='predictions.png',
        metavar='FILE',
        help='default: %(default)s',
    )
    args = parser.parse_args()
    found = {}
    for model in args.models:
        if args.data is None:
            features, _ = features_of_test_set(model, stage=args.stage)
        else:
            features = extract_features(model, args.data, stage=args.stage)['features']
        name = Path(model).name if Path(model).name not in found else model
        found[name] = predictions(features, args.temperature)
    numbers = {name: len(one.sorted) + 1 for name, one in found.items()}
    if len(set(numbers.values())) > 1:
        raise ValueError(f'The models are tested on different images ({numbers}): give the same by --data FOLDER.')
    draw_predictions(found, args.temperature, args.out)
    for name, one in found.items():
        print(f'{name:32} entropy {one.entropy:.4f} nats, {one.share:.2%} of the flat distribution')
    print(args.out)


if __name__ == '__main__':
    run_tool(main)
