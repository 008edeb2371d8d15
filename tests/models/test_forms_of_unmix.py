"""Forms of Un-Mix: i-Mix and MoCoMix against their published steps, as loops over samples; steps, sizes, refusals.

The contract test holds the forms of every method to their equation.
"""

from functools import partial

import pytest
import torch
from algorithms_under_test import METHODS

from unmix.config import load_config
from unmix.mixing import CutMix, Mixup, UnMix
from unmix.testing.method import MethodUnderTest, record
from unmix.utils.clock import Clock
from unmix.utils.rng import generator


def unmix_of(name: str) -> dict:
    return dict(load_config(f'relatives/{name}').model.unmix)


def softmax_loss(query, keys, own, temperature):
    """Minus the logarithm of the softmax of one query at key ``own``."""
    logits = torch.stack([query @ key for key in keys]) / temperature
    return logits.logsumexp(0) - logits[own]


def partners_of(view, mixture, lam):
    """The number of the image that each mixture has 1 - lam of, read from the pixels."""
    rest = [(m - share * x) / (1 - share) for m, x, share in zip(mixture, view, lam, strict=True)]
    return [min(range(len(view)), key=lambda k: float((r - view[k]).abs().max())) for r in rest]


def test_i_mix_is_its_published_step():
    """The mixture is the only query; each has a share of at least 1/2, and meets all keys of batch and queue."""
    method, unmix = METHODS['moco-batch'], unmix_of('imix-mocov2_resnet50_8xb32-coslr-800e_in1k')
    model = method.build(unmix)
    seen = record(model)
    losses = model.loss(method.views(), method.index)
    assert losses.keys() == {'loss_unmix'}
    assert seen.queries.keys() == {'mixture'}
    lam, queries, keys = seen.lam, seen.queries['mixture'], seen.targets[1]
    assert lam.shape == (6,)
    assert lam.min() >= 0.5
    partners = partners_of(seen.views[0], seen.mixture, lam)
    assert sorted(partners) == list(range(6))
    contrast = [*keys, *model.head.queue.features]
    expected = 0.0
    for n, partner in enumerate(partners):
        loss = partial(softmax_loss, queries[n], contrast, temperature=0.2)
        expected = expected + (lam[n] * loss(n) + (1 - lam[n]) * loss(partner)) / 6
    torch.testing.assert_close(losses['loss_unmix'], expected, rtol=0, atol=1e-10)


def test_mocomix_is_its_published_step():
    """One share for the batch, a permutation as partners, beside the loss of MoCo."""
    method, unmix = METHODS['moco-v2'], unmix_of('mocomix_resnet50_8xb32-coslr-200e_in1k')
    model = method.build(unmix)
    seen = record(model)
    losses = model.loss(method.views(), method.index)
    lam, queries, mixed, keys = seen.lam, seen.queries[0], seen.queries['mixture'], seen.targets[1]
    partners = partners_of(seen.views[0], seen.mixture, [lam] * 6)
    assert sorted(partners) == list(range(6))

    def loss(query, key):
        return softmax_loss(query, [key, *model.head.queue.features], 0, 0.2) / 6

    expected = [
        lam * loss(m, keys[n]) + (1 - lam) * loss(m, keys[k])
        for n, (m, k) in enumerate(zip(mixed, partners, strict=True))
    ]
    torch.testing.assert_close(losses['loss_unmix'], sum(expected), rtol=0, atol=1e-10)
    base = sum(loss(q, k) for q, k in zip(queries, keys, strict=True))
    torch.testing.assert_close(losses['loss_base'], base, rtol=0, atol=1e-10)


def test_every_kth_step_is_that_of_the_clock(monkeypatch):
    """A resumed run, whose model has counted no steps, mixes where the uninterrupted one does."""
    method = METHODS['moco-v2']
    for iteration in range(6, 10):
        monkeypatch.setattr('unmix.models.algorithms.base.read_clock', lambda i=iteration: Clock(0, i, 20, 2, 0))
        losses = method.build(dict(type='UnMix', every=3)).loss(method.views())
        assert ('loss_unmix' in losses) == (iteration in (6, 9))


def test_folded_shares_are_the_larger_ones():
    for seed in range(20):
        for kind in (Mixup, CutMix):
            plain, folded = kind(0.5).draw(generator(seed), (8, 8)), kind(0.5, fold=True).draw(generator(seed), (8, 8))
            assert folded == (max(plain[0], 1 - plain[0]), *plain[1:])


@pytest.mark.parametrize(
    ('wrong', 'words'),
    [
        (dict(pairs='half'), "unmix.pairs is 'half'; it is one of 'all', 'once'"),
        (dict(partner='next'), "unmix.partner is 'next'"),
        (dict(shares='pixel'), "unmix.shares is 'pixel'"),
        (dict(every=0), 'unmix.every is 0; it is a whole number from 1'),
        (dict(every=1.5), 'unmix.every is 1.5'),
        (dict(size=0), 'unmix.size is 0'),
        (dict(size=1.5), 'unmix.size is 1.5'),
        (dict(pairs='once', partner='random'), 'Leave one of them out'),
        (dict(replace=True, replay_bn_stats=True), 'Leave one of them out'),
    ],
)
def test_bad_keys_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        UnMix(**wrong)


@pytest.mark.parametrize(
    ('name', 'form', 'words'),
    [
        ('wmse', dict(shares='sample'), 'WMSEHead has no loss of a single sample'),
        ('barlow-twins', dict(shares='sample'), 'BarlowTwinsHead has no loss'),
        ('moco-align-uniform', dict(shares='sample'), 'AlignUniformHead has no loss'),
        ('instdisc', dict(replace=True), 'NCEHead remembers the features of view 0'),
        ('swav', dict(replace=True), 'SwAVHead remembers'),
        ('lejepa', dict(replace=True), 'LeJEPA needs it for the centre'),
        ('swav-released', dict(pairs='once'), "model.flip_mode is 'code_only'"),
    ],
)
def test_what_a_method_has_no_form_for_is_refused_when_it_is_built(name: str, form: dict, words: str):
    with pytest.raises(ValueError, match=words):
        METHODS[name].build(dict(type='UnMix', **form))


def test_several_crops_are_refused_where_one_is_mixed():
    method: MethodUnderTest = METHODS['pic']
    with pytest.raises(ValueError, match='PIC mixes the first of its 2 crops only'):
        method.build(dict(type='UnMix', replace=True)).loss(method.views(), method.index)


@pytest.mark.parametrize(('size', 'side'), [(0.75, 6), (0.5, 4), (0.1, 1)])
def test_mixtures_are_scaled_after_they_are_mixed(size, side):
    """The share is that of the full size, and a constant image stays constant."""
    view = torch.arange(4.0, dtype=torch.float64)[:, None, None, None].expand(4, 3, 8, 8)
    mixed, lam = UnMix(dict(type='Mixup'), size=size).mix(view, generator(0))
    whole, same = UnMix(dict(type='Mixup')).mix(view, generator(0))
    assert (mixed.shape, lam) == ((4, 3, side, side), same)
    torch.testing.assert_close(mixed, whole[..., :1, :1].expand_as(mixed), rtol=0, atol=1e-12)
