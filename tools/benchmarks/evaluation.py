"""What evaluation costs: kNN over the bare product and top-k, a linear epoch on cached features over a fresh one.

* kNN: 10,000 features against a bank of 50,000, of width 512, k = 200 and 100 classes. The bare form multiplies the
  same blocks and takes the top 200; the kNN also breaks ties by label, weighs and counts classes.
* Linear evaluation: an epoch of :class:`LinearTraining` on features from a file of the cache, the reading of the file
  included, against the same epoch with the features computed again, by a ResNet-18 on images of 32x32.

The two forms take turns, so that both meet the same machine, and the least time of each counts. The last lines are
``GOAL <name> <ratio> <target> PASS|FAIL``.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.datasets import ArrayDataset
from unmix.evaluation import Features, LinearTraining, knn_predict
from unmix.evaluation.extraction import collect_features
from unmix.evaluation.feature_cache import FeatureCache
from unmix.models import ResNet

GOALS = {'knn_over_bare': 1.2, 'cached_linear_speedup': 20.0}


def alternate(first: Callable[[], Any], second: Callable[[], Any], repeats: int, device: str) -> tuple[float, float]:
    """Return the least seconds of each of two functions that take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, spent in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            if device != 'cpu':
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def measure_knn(bank_size: int, size: int, repeats: int, device: str) -> dict[str, float]:
    """Seconds of the bare form and of the kNN."""
    rng = torch.Generator().manual_seed(0)
    bank, features = (F.normalize(torch.randn(n, 512, generator=rng), dim=1).to(device) for n in (bank_size, size))
    labels = torch.randint(100, (bank_size,), generator=rng).to(device)
    rows = max(1, 2**25 // bank_size)  # as many at once as the kNN

    def bare() -> Tensor:
        return torch.cat([(chunk @ bank.T).topk(200, dim=1).indices for chunk in features.split(rows)])

    def knn() -> Tensor:
        return knn_predict(features, bank, labels, 200, 0.1)

    bare_s, knn_s = alternate(bare, knn, repeats, device)
    return dict(bare_s=bare_s, knn_s=knn_s, ratio=knn_s / bare_s)


def measure_linear(size: int, repeats: int, device: str) -> dict[str, float]:
    """Seconds of a linear epoch with the features computed again, and with those of a file."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (size, 3, 32, 32), generator=rng, dtype=torch.uint8)
    dataset = ArrayDataset(images, torch.arange(size) % 10)
    backbone = ResNet(depth=18, stem='cifar').to(device).eval()
    metric = LinearTraining(epochs=1, batch_size=256)
    encoders = {'': lambda batch: backbone(batch['inputs'].to(device).float() / 255)}

    def batches() -> Any:
        return (dataset.__getitems__(range(start, min(start + 500, size))) for start in range(0, size, 500))

    def train(features: dict[str, Features] | None) -> None:
        assert features is not None
        metric(features[''], Features(features[''].features[:500], features[''].labels[:500]))

    with tempfile.TemporaryDirectory() as directory:
        cache = FeatureCache(Path(directory))

        def cached() -> None:
            train(cache.collect(batches(), encoders, {'': 'ResNet-18'}, 'images', dataset))

        cached()  # fills the cache
        again_s, cached_s = alternate(lambda: train(collect_features(batches(), encoders)), cached, repeats, device)
    return dict(again_s=again_s, cached_s=cached_s, ratio=again_s / cached_s)


def main() -> None:
    """Measure, print the times and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bank', type=int, default=50_000, help='features in the bank')
    parser.add_argument('--features', type=int, default=10_000, help='features to classify')
    parser.add_argument('--images', type=int, default=2_000, help='images of the linear evaluation')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    args = parser.parse_args()
    knn = measure_knn(args.bank, args.features, args.repeats, args.device)
    linear = measure_linear(args.images, args.repeats, args.device)
    print(f'kNN, {args.features} x {args.bank} x 512: bare {knn["bare_s"]:.3f} s, kNN {knn["knn_s"]:.3f} s')
    print(f'linear epoch, {args.images} images: computed {linear["again_s"]:.3f} s, cached {linear["cached_s"]:.4f} s')
    ratios = dict(knn_over_bare=knn['ratio'], cached_linear_speedup=linear['ratio'])
    passed = {
        'knn_over_bare': ratios['knn_over_bare'] <= GOALS['knn_over_bare'],
        'cached_linear_speedup': ratios['cached_linear_speedup'] >= GOALS['cached_linear_speedup'],
    }
    if args.json:
        report: dict[str, Any] = dict(knn=knn, linear=linear, ratios=ratios, goals=GOALS, passed=passed)
        report |= dict(device=args.device, threads=torch.get_num_threads(), torch=torch.__version__)
        args.json.write_text(json.dumps(report | dict(machine=platform.platform()), indent=2))
    for name, ratio in ratios.items():
        print(f'GOAL {name} {ratio:.3f} {GOALS[name]} {"PASS" if passed[name] else "FAIL"}')


if __name__ == '__main__':
    main()
