"""Alignment and uniformity: hand-made values, pairs that are equal, ranks, bad input."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from unmix.models import AlignUniformHead
from unmix.models.heads import align, uniform
from unmix.testing.ranks import run_ranks


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def build(**arguments):
    head = AlignUniformHead(dim=2, queue_size=3, **arguments).double()
    head.queue.features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    return head


QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
KEY = torch.tensor([[0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize(('name', 'arguments', 'expected'), [
    ('align', dict(alpha=2), 0.8),
    ('align', dict(alpha=1), 0.894427),
    ('align', dict(alpha=4), 0.64),
    ('uniform', dict(intra_batch=False), -1.784339),
    ('uniform', dict(intra_batch=True), -1.936032),
    ('contrast', dict(contrast_weight=1.0, temperature=0.2), 1.114056),
])  # fmt: skip
def test_values_by_hand(name, arguments, expected):
    assert build(**arguments).parts(QUERY, KEY)[name].item() == pytest.approx(expected, abs=1e-6)


def test_terms_are_weighed_and_those_of_weight_zero_left_out():
    head = build(align_weight=3.0, uniform_weight=0.5, contrast_weight=0.0)
    terms = head.parts(QUERY, KEY)
    assert set(terms) == {'align', 'uniform'}
    torch.testing.assert_close(head(QUERY, KEY), 3 * terms['align'] + 0.5 * terms['uniform'], rtol=0, atol=1e-12)


@pytest.mark.parametrize('alpha', [0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_equal_pairs_are_aligned_for_every_alpha(alpha, dtype):
    x = unit(500, 8).to(dtype).requires_grad_()
    loss = align(x, x.detach(), alpha)
    loss.backward()
    assert loss == 0
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('alpha', [0.5, 1.0, 1.5, 3.0])
def test_nearly_equal_pairs_have_a_finite_gradient(alpha):
    x = unit(500, 8).float().requires_grad_()
    align(x, x.detach() * (1 + 1e-7), alpha).backward()
    assert x.grad.isfinite().all()


def test_uniformity_is_the_formula():
    x, queue, t = unit(5, 4), unit(7, 4), 3.0
    head = AlignUniformHead(dim=4, queue_size=7, t=t).double()
    head.queue.features = queue
    inside = [torch.exp(-t * (x[i] - x[j]).square().sum()) for i in range(5) for j in range(i)]
    across = [torch.exp(-t * (q - u).square().sum()) for q in x for u in queue]
    torch.testing.assert_close(uniform(x, t), torch.stack(inside).mean().log(), rtol=0, atol=1e-12)
    expected = torch.stack(inside + across).mean().log()
    torch.testing.assert_close(head.parts(x, x)['uniform'], expected, rtol=0, atol=1e-12)
    head.scope = 'global'
    torch.testing.assert_close(head.parts(x, x)['uniform'], expected, rtol=0, atol=1e-12)


def test_large_scales_do_not_underflow():
    head = AlignUniformHead(dim=2, queue_size=1, t=100.0)
    head.queue.features = torch.tensor([[-1.0, 0.0]])
    x = torch.tensor([[1.0, 0.0]])
    assert head.parts(x, x)['uniform'].item() == pytest.approx(-400)


def test_a_batch_of_one_has_no_pairs_inside():
    head = AlignUniformHead(dim=4, queue_size=7).double()
    query = unit(1, 4)
    alone = AlignUniformHead(dim=4, queue_size=7, intra_batch=False).double()
    alone.queue.features = head.queue.features
    assert head.parts(query, query)['uniform'] == alone.parts(query, query)['uniform']


def test_collapsed_features_have_the_chance_loss():
    head = build(contrast_weight=0.5)
    same = QUERY[:1].expand(2, 2)
    head.queue.features = QUERY[:1].expand(3, 2)
    assert head(same, same).item() == pytest.approx(head.chance_loss)


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(align_weight=0.0, uniform_weight=0.0), 'are all 0: there is no loss'),
    (dict(alpha=0.0), r'head\.alpha is 0'),
    (dict(t=-1.0), r'head\.t is -1'),
    (dict(scope='node'), r"head\.scope is 'node'"),
    (dict(temperature=0.0), r'head\.temperature is 0'),
])  # fmt: skip
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignUniformHead(dim=2, queue_size=3, **arguments)


def run_rank(rank: int, path: Path) -> None:
    torch.manual_seed(0)
    x, y = unit(2, 8, 4)
    results = {}
    for scope in ('rank', 'global'):
        head = scoped(scope)
        query = x[4 * rank : 4 * rank + 4].clone().requires_grad_()
        loss = head(query, y[4 * rank : 4 * rank + 4])
        loss.backward()
        loss = loss.detach()
        distributed.all_reduce(loss)
        results[scope] = loss / 2, query.grad / 2
    torch.save(results, path / f'{rank}.pth')


def scoped(scope):
    torch.manual_seed(1)
    return AlignUniformHead(dim=4, queue_size=5, scope=scope).double()


@pytest.mark.ranks
def test_scope_over_ranks(tmp_path):
    """Global: the loss and gradient of the whole batch. Rank: the mean of the ranks' own."""
    run_ranks(run_rank, 2, tmp_path, tmp_path)
    torch.manual_seed(0)
    x, y = unit(2, 8, 4)
    x.requires_grad_()
    halves = [scoped('rank')(x[half], y[half]) for half in (slice(4), slice(4, 8))]
    expected = {'global': scoped('rank')(x, y), 'rank': sum(halves) / 2}
    for rank in range(2):
        results = torch.load(tmp_path / f'{rank}.pth')
        for scope, loss in expected.items():
            gradient = torch.autograd.grad(loss, x, retain_graph=True)[0][4 * rank : 4 * rank + 4]
            torch.testing.assert_close(results[scope][0], loss, rtol=0, atol=1e-12)
            torch.testing.assert_close(results[scope][1], gradient, rtol=0, atol=1e-12)
