"""Draw what a training will see: the views of some images, and mixtures of them. Nothing is trained.

python tools/visualizations/browse_dataset.py quickstart/unmix-moco_digits --out views.png
python tools/visualizations/browse_dataset.py moco/NAME --images 12 --mixtures 4 --cfg-options data_root=DIR

The images are the first that a training reads, with the draws of its seed. Below their views stand the partners, and
mixtures as the first steps draw them, of both kinds if there are: a box has an outline, and lambda is the share of the
image itself. The names of both are above the views and the partners.
The colours are those of the images, also where the network sees Lab or normalised values.
"""

from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from unmix.apis.command import argument_parser, configure, picture_file, run_tool
from unmix.models import BaseAlgorithm
from unmix.registry import MODELS
from unmix.visualization import draw_views, draws_of_a_run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument('--out', type=picture_file, default='views.png', metavar='FILE', help='default: %(default)s')
    parser.add_argument('--images', type=int, default=8, help='number of images, even (default: 8)')
    parser.add_argument('--mixtures', type=int, default=2, help='number of mixtures of each kind (default: 2)')
    args = parser.parse_args()
    if args.images < 2 or args.images % 2:
        raise ValueError(f'--images is {args.images}; each image needs a partner: give an even number from 2.')
    if args.mixtures < 0:
        raise ValueError(f'--mixtures is {args.mixtures}; expected 0 or more.')
    cfg = configure(args)
    init_default_scope(cfg.default_scope)
    seed = cfg.get('randomness', {}).get('seed') or 0
    loader = dict(cfg.train_dataloader, batch_size=args.images, num_workers=0, persistent_workers=False)
    built = Runner.build_dataloader(loader, seed=seed)
    batch = next(iter(built))
    preprocessor = MODELS.build(dict(type='DataPreprocessor') | dict(cfg.model.get('data_preprocessor') or {}))
    inputs = preprocessor(batch, True)['inputs']
    inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
    with torch.device('meta'):  # no memory for weights and banks, which mixing does not need
        model = MODELS.build(cfg.model)
    mixtures = draws_of_a_run(model, inputs, seed, args.mixtures) if isinstance(model, BaseAlgorithm) else []
    draw_views(
        [preprocessor.restore(view) for view in inputs],
        args.out,
        [mixture._replace(images=preprocessor.restore(mixture.images)) for mixture in mixtures],
        f'{Path(cfg.filename).stem}, seed {seed}',
        [built.dataset.name(index) or f'image {index}' for index in batch['index'].tolist()],
    )
    print(f'{args.out}: {args.images} images, {len(inputs)} views, {len(mixtures)} mixtures')


if __name__ == '__main__':
    run_tool(main)
