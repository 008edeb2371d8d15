"""The kNN monitor of the released CIFAR training."""

import numpy as np
import pytest
from fixtures import Golden

from unmix.evaluation import knn_scores


@pytest.mark.golden('c07_*')
def test_knn(golden: Golden) -> None:
    hp, expected = golden.hp, golden.arrays[golden.prefix + 'scores']
    bank, labels = golden.tensor('in_bank').T, golden.tensor('bank_labels')
    scores = knn_scores(golden.tensor('in_feature'), bank, labels, hp['k'], hp['t'], hp['classes'])
    golden.check(scores, 'scores')
    ranking = golden.arrays[golden.prefix + 'labels']
    for n, order in enumerate(scores.argsort(1, descending=True).cpu().numpy()):
        # Classes may change places only where their scores are equal.
        np.testing.assert_allclose(expected[n][order], expected[n][ranking[n]], atol=golden.tolerance)
    top1 = (scores.argmax(1) == golden.tensor('targets')).double().mean()
    golden.compare(top1 * (100 if golden['o64_top1'] > 1 else 1), golden['o64_top1'], 'top1')
