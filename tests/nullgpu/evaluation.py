"""Device memory of an evaluation at the size of ImageNet: python -m tests.nullgpu -m tests.nullgpu.evaluation

No number of a large tensor is read or written here, so its memory is only reserved, on the host too. Prints, as JSON,
how many bytes the extraction and each metric hold on the device at most, beside the bank. With
NULLGPU_FREE=0x200000000, 8 GiB, the bank has no room there.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import unmix.models  # noqa: F401
from tests.nullgpu.device import filled, memory
from unmix.evaluation import KNN, EuclideanKNN, Features, LinearProbe, LinearTraining, Shard
from unmix.evaluation.extraction import collect_features
from unmix.registry import MODELS

ROWS, QUERIES, WIDTH, CLASSES = 1_281_167, 50_000, 2048, 1000
METRICS: dict[str, Any] = {
    'knn': KNN(k=(10, 20, 100, 200), temperature=0.07),
    'euclidean': EuclideanKNN(),
    'linear': LinearProbe(max_iter=3),
    'few': LinearProbe(labels_per_class=13, draws=1, max_iter=3),
    'training': LinearTraining(lr=(0.1, 0.01), epochs=1, batch_size=10_000),
}


class Encoder:
    """ResNet-50 and its preprocessor, as in an evaluation."""

    def __init__(self, device: torch.device) -> None:
        model = dict(type='Classifier', backbone=dict(type='ResNet', depth=50))
        self.model = MODELS.build(model).to(device).eval()

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        features: Tensor = self.model.extract_feat(self.model.data_preprocessor(batch, False)['inputs'])
        return features


def batches() -> Iterator[dict[str, Any]]:
    """Yield two batches of 128 images."""
    for start in (0, 128):
        images = torch.zeros(128, 3, 224, 224, dtype=torch.uint8)
        yield dict(inputs=images, index=torch.arange(start, start + 128), label=torch.zeros(128, dtype=torch.long))


def main(names: list[str]) -> None:
    """Measure the metrics of these names, or all."""
    device = torch.device('cuda')
    labels = torch.arange(ROWS) % CLASSES
    bank = Shard(torch.empty(ROWS, WIDTH), torch.arange(ROWS), labels)
    found = {}
    if 'extraction' in names or not names:
        memory()
        collect_features(batches(), {'': Encoder(device)})
        found['extraction'] = memory()[0]
    for name in names or METRICS:
        if name == 'extraction':
            continue
        memory()
        test = Features(torch.empty(QUERIES, WIDTH, device=device), labels[:QUERIES].to(device))
        held = bank.to(device)
        METRICS[name](held, test)
        beside = bank.features.nbytes if held.features.is_cuda else 0
        found[name] = memory()[0] - beside
        del test, held
    print(json.dumps(found))
    sys.stdout.flush()


if __name__ == '__main__':
    with filled(int(os.environ.get('NULLGPU_FILL', '0'), 0)):
        main(sys.argv[1:])
