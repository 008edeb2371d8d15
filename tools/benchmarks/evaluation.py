"""What evaluation costs: kNN over the bare product and top-k, a linear epoch on cached features over a fresh one.

* kNN: 10,000 features against a bank of 50,000, of width 512, k = 200 and 100 classes. The bare form multiplies the
  same blocks and takes the top 200. The kNN also breaks ties by label, weighs and counts classes.
* Linear evaluation: an epoch of :class:`LinearTraining` on features from a file of the cache, the reading of the file
  included, against the same epoch with the features computed again, by a ResNet-18 on images of 32x32.

The last lines are ``GOAL <name> <ratio> <target> PASS|FAIL``: ratios of wall time on the first number of threads.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measure import Goal, argument_parser, interleave, print_goals
from torch.nn import functional as F

from unmix.datasets import ArrayDataset
from unmix.evaluation import Features, LinearTraining, Shard, knn_predict
from unmix.evaluation.extraction import collect_features
from unmix.evaluation.feature_cache import FeatureCache
from unmix.models import ResNet

Variants = dict[str, Callable[[], object]]


def knn(bank_size: int, size: int, device: str) -> Variants:
    """Return the bare form and the kNN."""
    bank, features = (F.normalize(torch.randn(n, 512), dim=1).to(device) for n in (bank_size, size))
    labels = torch.randint(100, (bank_size,)).to(device)
    rows = max(1, 2**25 // bank_size)  # as many at once as the kNN
    return {
        'bare': lambda: torch.cat([(chunk @ bank.T).topk(200, dim=1).indices for chunk in torch.split(features, rows)]),
        'kNN': lambda: knn_predict(features, bank, labels, 200, 0.1),
    }


def linear(size: int, device: str, directory: str) -> Variants:
    """Return a linear epoch with the features computed again, and one with those of a file in ``directory``."""
    dataset = ArrayDataset(torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8), torch.arange(size) % 10)
    backbone = ResNet(depth=18, stem='cifar').to(device).eval()
    encoders = {'': lambda batch: backbone(batch['inputs'].to(device).float() / 255)}
    metric, cache = LinearTraining(epochs=1, batch_size=256), FeatureCache(Path(directory))

    def batches() -> Iterator[Any]:
        return (dataset.__getitems__(range(start, min(start + 500, size))) for start in range(0, size, 500))

    def train(features: dict[str, Shard] | None) -> None:
        assert features is not None
        metric(features[''], Features(features[''].features[:500], features[''].labels[:500]))

    return {
        'computed': lambda: train(collect_features(batches(), encoders)),
        'cached': lambda: train(cache.collect(batches(), encoders, {'': 'ResNet-18'}, 'images', dataset)),
    }


def main() -> None:
    """Measure, print the tables and the goals."""
    parser = argument_parser(__doc__, rounds=3)
    parser.add_argument('--bank', type=int, default=50_000, help='features in the bank')
    parser.add_argument('--features', type=int, default=10_000, help='features to classify')
    parser.add_argument('--images', type=int, default=2_000, help='images of the linear evaluation')
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    options = dict(seed=args.seed, device=args.device)
    with tempfile.TemporaryDirectory() as directory:
        ours = interleave(knn(args.bank, args.features, args.device), args.rounds, args.threads, **options)
        ours.print('bare', f'kNN, {args.features} x {args.bank}')
        epochs = interleave(linear(args.images, args.device, directory), args.rounds, args.threads, **options)
        epochs.print('computed', f'linear epoch, {args.images} images')
    goals = [
        Goal('knn_over_bare', ours.ratio('kNN', 'bare', clock='wall').median, 1.2, at_most=True),
        Goal('cached_linear_speedup', epochs.ratio('computed', 'cached', clock='wall').median, 20.0),
    ]
    print_goals(goals, args.json, seconds=dict(knn=ours.seconds, linear=epochs.seconds), arguments=vars(args))


if __name__ == '__main__':
    main()
