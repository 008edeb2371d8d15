"""Top-k accuracy through MMEngine's evaluator."""

import pytest
import torch
from mmengine.evaluator import Evaluator

from unmix.evaluation import Accuracy
from unmix.evaluation.accuracy import NO_RANK, rank_of_class


def test_ranks_ties_and_batches():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.5, 0.5, 0.1], [0.5, 0.5, 0.1], [3.0, 2.0, 1.0]])
    label = torch.tensor([2, 0, 1, 2])  # ranks 1, 0 (tie, smaller label first), 1, 2
    evaluator = Evaluator(Accuracy(topk=(1, 2, 5)))
    for rows in (slice(0, 3), slice(3, 4)):
        evaluator.process([dict(scores=s, label=y) for s, y in zip(scores[rows], label[rows], strict=True)])
    # the last image of a fifth, padded by a sampler, is dropped
    evaluator.process([dict(scores=scores[0], label=torch.tensor(1))])
    assert evaluator.evaluate(size=4) == {'accuracy/top1': 25.0, 'accuracy/top2': 75.0, 'accuracy/top5': 100.0}


def test_a_score_that_is_no_number_is_no_hit():
    nan, inf = float('nan'), float('inf')
    scores = torch.tensor([[nan, nan, nan], [nan, 1.0, 0.0], [nan, 0.0, 1.0], [-inf, 1.0, -inf], [inf, inf, 0.0]])
    label = torch.tensor([0, 0, 2, 2, 1])
    assert rank_of_class(scores, label).tolist() == [NO_RANK, NO_RANK, 0, NO_RANK, 1]
    evaluator = Evaluator(Accuracy(topk=(1, 5)))
    evaluator.process([dict(scores=s, label=y) for s, y in zip(scores, label, strict=True)])
    assert evaluator.evaluate(size=5) == {'accuracy/top1': 20.0, 'accuracy/top5': 40.0}


def test_several_layers_have_each_their_own():
    rng = torch.Generator().manual_seed(0)
    scores, label = torch.randn(20, 3, 6, generator=rng), torch.randint(6, (20,), generator=rng)
    evaluator = Evaluator(Accuracy(topk=(1, 5)))
    names = ('lr30', 'lr3', 'lr0.3')
    evaluator.process([dict(scores=s, label=y, names=names) for s, y in zip(scores, label, strict=True)])
    got = evaluator.evaluate(size=20)
    for i, name in enumerate(names):
        single = Evaluator(Accuracy(topk=(1, 5)))
        single.process([dict(scores=s, label=y) for s, y in zip(scores[:, i], label, strict=True)])
        alone = single.evaluate(size=20)
        assert {k: got[f'accuracy_{name}/{k}'] for k in ('top1', 'top5')} == {
            k: alone[f'accuracy/{k}'] for k in ('top1', 'top5')
        }
    best = max(range(3), key=lambda i: got[f'accuracy_{names[i]}/top1'])
    assert (got['accuracy/top1'], got['accuracy/head']) == (got[f'accuracy_{names[best]}/top1'], best)


def test_without_labels_it_refuses():
    with pytest.raises(ValueError, match='needs labels'):
        Accuracy().process(None, [dict(scores=torch.zeros(3), label=None)])
