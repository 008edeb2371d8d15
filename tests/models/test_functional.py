"""The streamed log-sum-exp and its companions against their literal forms."""

import copy
import sys

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from unmix.models.functional import bank_chunks, bank_lse, eager_gradient, own_similarity, pair_cross_entropy
from unmix.models.functional.at_a_time import ON_ACCELERATORS

pair_module = sys.modules[pair_cross_entropy.__module__]
EXACT = dict(rtol=1e-12, atol=1e-12)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks that do not divide the banks of these tests."""
    monkeypatch.setattr(bank_chunks, 'CHUNK', 7)


def rows(*shape, seed=0, unit=True):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(x, dim=-1) if unit else x


def literal(query, bank, scale, valid=None, unit_rows=False):
    bank = F.normalize(bank, dim=1) if unit_rows else bank
    table = scale * query @ bank.T
    if valid is not None:
        table = table.masked_fill(~valid, -torch.inf)
    return table.logsumexp(1)


def both(query, bank, scale, **options):
    """Values and gradients of the streamed and the literal form, weighted differently for each query."""
    results = []
    for function in (bank_lse, literal):
        q, b = query.clone().requires_grad_(), bank.clone().requires_grad_()
        value = function(q, b, scale, **options)
        (value * torch.arange(1, len(q) + 1)).sum().backward()
        results.append((value.detach(), q.grad, b.grad))
    return zip(*results, strict=True)


@pytest.mark.parametrize('temperature', [0.01, 0.07, 1.0])
@pytest.mark.parametrize('num_rows', [1, 7, 50])
@pytest.mark.parametrize('unit_rows', [False, True])
def test_value_and_gradients_are_those_of_the_literal_form(temperature, num_rows, unit_rows):
    bank = rows(num_rows, 5, seed=1, unit=False)
    bank[num_rows // 2 :] = bank[0]  # duplicates
    for ours, theirs in both(rows(4, 5), bank, 1 / temperature, unit_rows=unit_rows):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 / temperature)


def test_a_bank_of_65536_rows(monkeypatch):
    monkeypatch.setattr(bank_chunks, 'CHUNK', 512)
    query, bank = rows(3, 8).requires_grad_(), rows(65536, 8, seed=1)
    ours, theirs = bank_lse(query, bank, 14.0), literal(query, bank, 14.0)
    torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), query)[0] for x in (ours, theirs)), **EXACT)


def test_zero_rows_and_hidden_rows():
    bank = rows(20, 5, seed=1, unit=False)
    bank[3] = 0
    valid = torch.arange(20) % 3 != 1
    for ours, theirs in both(rows(4, 5), bank, 5.0, valid=valid):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_no_row_that_counts_is_minus_infinity_without_gradient():
    query, bank = rows(2, 5).requires_grad_(), rows(9, 5, seed=1).requires_grad_()
    value = bank_lse(query, bank, 5.0, valid=torch.zeros(9, dtype=torch.bool))
    assert value.tolist() == [-torch.inf] * 2
    value.sum().backward()
    assert not query.grad.any()
    assert not bank.grad.any()


def test_float32_is_safe_at_a_temperature_of_a_hundredth():
    query = rows(4, 5).float().requires_grad_()
    bank = torch.cat([-query.detach(), rows(20, 5, seed=1).float()])  # exponents from -100 to 100
    value = bank_lse(query, bank, 100.0)
    exact = literal(query.double(), bank.double(), 100.0)
    torch.testing.assert_close(value, exact.float(), rtol=1e-5, atol=1e-5)
    gradient = torch.autograd.grad(exact.sum(), query)[0]
    torch.testing.assert_close(torch.autograd.grad(value.sum(), query)[0], gradient, rtol=1e-4, atol=1e-3)


def test_gradcheck():
    query, bank = rows(3, 4, unit=False).requires_grad_(), rows(9, 4, seed=1, unit=False).requires_grad_()
    valid, index, fixed = torch.arange(9) != 4, torch.tensor([0, 5, 5]), bank.detach()
    assert gradcheck(lambda q, b: bank_lse(q, b, 2.0, valid=valid, unit_rows=True), (query, bank))
    assert gradcheck(lambda q, b: own_similarity(q, b, index, 2.0, unit_rows=True), (query, bank))
    assert gradcheck(lambda q, b: pair_cross_entropy(q, b, index, index + 3, 2.0), (query, bank))
    assert gradcheck(lambda q: eager_gradient(lambda x, s: (x * fixed[s.start]).sum(1).exp(), q, 2), query)


def test_second_derivatives_are_refused():
    query = rows(3, 4).requires_grad_()
    index = torch.tensor([0, 5, 5])
    losses = (
        bank_lse(query, rows(9, 4)),
        own_similarity(query, rows(9, 4), index),
        pair_cross_entropy(query, rows(9, 4), index, index + 1, 2.0),
        eager_gradient(lambda x, _: x.exp().sum(1), query, 2),
    )
    for loss in losses:
        with pytest.raises(RuntimeError, match='no second derivatives'):
            torch.autograd.grad(loss.sum(), query, create_graph=True)


def test_autocast_and_half_precision_are_computed_in_float32():
    query, bank = rows(4, 8).bfloat16(), rows(30, 8, seed=1).float()
    with torch.autocast('cpu', torch.bfloat16):
        value = bank_lse(query, bank, 10.0)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, literal(query.float(), bank, 10.0))


def test_the_bank_may_be_overwritten_before_the_backward_pass():
    query, bank = rows(4, 5).requires_grad_(), rows(20, 5, seed=1)
    expected = torch.autograd.grad(literal(query, bank, 5.0).sum(), query)[0]
    value = bank_lse(query, bank, 5.0)
    bank.zero_()
    torch.testing.assert_close(torch.autograd.grad(value.sum(), query)[0], expected, **EXACT)


def test_nan_shows():
    bank = rows(20, 5, seed=1)
    bank[11, 2] = torch.nan
    assert bank_lse(rows(4, 5), bank).isnan().all()


@pytest.mark.parametrize('unit_rows', [False, True])
def test_cross_entropy_with_the_gradient_of_the_bank(unit_rows):
    query, bank, index = rows(4, 5), rows(20, 5, seed=1, unit=False), torch.tensor([0, 19, 7, 7])
    q, b = query.clone().requires_grad_(), bank.clone().requires_grad_()
    F.cross_entropy(5 * q @ (F.normalize(b, dim=1) if unit_rows else b).T, index).backward()
    ours, other = query.clone().requires_grad_(), bank.clone().requires_grad_()
    lse = bank_lse(ours, other, 5.0, unit_rows=unit_rows)
    (lse - own_similarity(ours, other, index, 5.0, unit_rows=unit_rows)).mean().backward()
    torch.testing.assert_close(ours.grad, q.grad, **EXACT)
    torch.testing.assert_close(other.grad, b.grad, **EXACT)


def test_eager_gradients_are_those_of_the_losses():
    query, other = rows(5, 2, 3), rows(5, 2, 3, seed=1)
    grads = []
    for eager in (True, False):
        x, y = query.clone().requires_grad_(), copy.copy(other)
        losses = lambda part, samples: (part * y[samples]).sum((1, 2)).exp()  # noqa: B023, E731
        value = eager_gradient(losses, x, 2) if eager else losses(x, slice(None))
        (value * torch.arange(5)).sum().backward()
        grads.append((value.detach(), x.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize('temperature', [0.01, 0.2, 1.0])
@pytest.mark.parametrize('at_a_time', [1, 40, 1 << 18])
def test_pairs_are_found_as_by_the_table(monkeypatch, temperature, at_a_time):
    """Rows some of which are the same, zero or longer than one; a few at a time, the last of them fewer."""
    monkeypatch.setattr(pair_module, 'AT_A_TIME', at_a_time)
    x, itself = rows(18, 5, unit=False), torch.arange(3, 17)
    x[9], x[4], x[11] = x[0], 0, 3 * x[11]
    partner = (itself + 7) % 18
    results = []
    for form in ('ours', 'table'):
        part, whole = x[3:17].clone().requires_grad_(), x.clone().requires_grad_()
        if form == 'ours':
            loss = pair_cross_entropy(part, whole, partner, itself, 1 / temperature)
        else:
            table = (part @ whole.T / temperature).masked_fill(itself[:, None] == torch.arange(18), -torch.inf)
            loss = F.cross_entropy(table, partner)
        (3 * loss).backward()
        results.append((loss.detach(), part.grad, whole.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 / temperature)


def test_pairs_keep_no_table_and_no_gradient_that_is_not_wanted():
    x, place = rows(400, 5).float(), torch.arange(400)
    for query_only in (False, True):
        kept = []
        part, whole = x.clone().requires_grad_(), x.clone().requires_grad_(not query_only)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):  # noqa: B023
            pair_cross_entropy(part, whole, place.roll(1), place, 5.0).backward()
        assert kept == [2000] * (2 - query_only)


@pytest.mark.parametrize(('num_rows', 'num_chunks'), [(200_000, 1), (1_281_167, 3)])
def test_an_accelerator_reads_a_bank_in_few_chunks(num_rows, num_chunks):
    query, bank = torch.empty(64, 128, device='meta'), torch.empty(num_rows, 128, device='meta')
    parts = list(bank_chunks.chunks(query, bank))
    assert len(parts) == num_chunks
    assert [part.start for part in parts[1:]] + [num_rows] == [part.stop for part in parts]
    assert all((part.stop - part.start) * 128 <= ON_ACCELERATORS for part in parts)
