"""Temperatures that are learned or scheduled: every head against plain autograd of the literal formula, in float64."""

import math
import sys

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn import functional as F

from unmix.mixing import UnMix
from unmix.models import (
    AlignUniformHead,
    CMCHead,
    DeepClusterV2Head,
    InfoNCEHead,
    LearnableTemperature,
    NCEHead,
    NTXentHead,
    PICHead,
    QueueNCEHead,
    SwAVHead,
)
from unmix.models.functional import bank_chunks, bank_lse, eager_gradient, own_similarity, pair_cross_entropy
from unmix.models.heads.instances import InstanceHead
from unmix.models.layers import noise_contrast
from unmix.registry import MODELS
from unmix.testing.ranks import run_ranks

N, D = 20, 6
EXACT = dict(rtol=1e-10, atol=1e-11)
LEARNED = dict(type='LearnableTemperature', init=0.3, min=0.02)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks of rows, of pairs and of samples, the last of each a part of one."""
    monkeypatch.setattr(bank_chunks, 'CHUNK', 7)
    monkeypatch.setattr(sys.modules[pair_cross_entropy.__module__], 'AT_A_TIME', 120)
    monkeypatch.setattr(noise_contrast, 'AT_A_TIME', 8)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, dtype=torch.float64, generator=generator), dim=-1)


def find_first(scores):
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


def noise(contrast, scores, num_instances):
    """InstDisc, Eq. 7, as written, with Z of these scores before the first step and the stored one later."""
    constant = num_instances * scores.detach().exp().mean() if contrast.pending else contrast.constant
    share, ratio = scores.exp() / constant, (scores.shape[1] - 1) / num_instances
    positive = (share[:, 0] / (share[:, 0] + ratio + 1e-7)).log()
    return -(positive + (ratio / (share[:, 1:] + ratio + 1e-7)).log().sum(1)).mean()


def info_nce(head, query, key, temperature):
    return find_first(torch.cat([(query * key).sum(1, keepdim=True), query @ head.queue.features.T], 1) / temperature)


def align_uniform(head, query, key, temperature):
    far = (2 - 2 * query @ head.queue.features.T).flatten()  # squared distances of unit rows
    uniform = torch.cat([far, torch.pdist(query).square()]).mul(-head.t).exp().mean().log()
    return info_nce(head, query, key, temperature) + (query - key).square().sum(1).mean() + uniform


def nt_xent(head, query, key, temperature, candidates=lambda both: both):
    both = torch.cat([query, key])
    logits = (both @ candidates(both).T / temperature).masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * N).roll(N))


def nce(head, query, target, temperature):
    total = 0.0
    banks = list(head.banks)[::-1]
    for bank, contrast, part in zip(banks, head.contrasts, query.view(N, len(banks), D).unbind(1), strict=True):
        scores = (bank.features[target] * part[:, None]).sum(2) / temperature
        softmax = isinstance(contrast, noise_contrast.SoftmaxContrast)
        total = total + (find_first(scores) if softmax else noise(contrast, scores, head.num_instances))
    return total


def queue_nce(head, query, key, temperature):
    scores = torch.cat([(query * key).sum(1, keepdim=True), query @ head.queue.features.T], 1) / temperature
    return noise(head.contrast, scores, 50)


def pic(head, query, target, temperature):
    weight = F.normalize(head.weight, dim=1)
    logits = torch.cat([query[:, :2] @ weight.T, query[:, 2:] @ weight.detach().T], 1) / temperature
    if head.recent is not None:
        logits = logits.masked_fill(head.recent.ids < 0, -torch.inf)
    return F.cross_entropy(logits.flatten(0, 1), target.repeat_interleave(3))


def swav(head, query, target, temperature):
    weight = head.prototypes.weight
    codes = [head.assign(crops[:, 0] @ weight.T, i) for i, crops in enumerate((query, target))]
    crops = torch.stack([query[:, 0], target[:, 0], query[:, 1], target[:, 1]], 1)
    predictions = (crops @ weight.T / temperature).log_softmax(2)
    terms = [(codes[i] * predictions[:, v]).sum(1).mean() for i in range(2) for v in range(4) if v != i]
    return -sum(terms) / 6


def deepcluster(head, query, target, temperature):
    logits = torch.einsum('nvd,hkd->nvhk', query, head.prototypes) / temperature
    labels = head.labels[:, target].T[:, None].expand(N, 3, 2)
    return F.cross_entropy(logits.flatten(0, 2), labels.flatten())


def settle(contrasts):
    for contrast in contrasts:
        contrast.constant, contrast.pending = torch.tensor(30.0, dtype=torch.float64), False


QUEUE = dict(dim=D, queue_size=40)
INSTANCES = dict(num_instances=50, dim=D)
CASES = {  # head, literal formula, number of crops
    'InfoNCE': (lambda t: InfoNCEHead(**QUEUE, temperature=t), info_nce, 0),
    'AlignUniform': (
        lambda t: AlignUniformHead(**QUEUE, align_weight=1.0, contrast_weight=1.0, temperature=t), align_uniform, 0,
    ),
    'NTXent': (lambda t: NTXentHead(t), nt_xent, 0),
    'NTXent, query only': (
        lambda t: NTXentHead(t, gradient='query_only'), lambda *x: nt_xent(*x, candidates=torch.Tensor.detach), 0,
    ),
    'NCE, softmax': (lambda t: NCEHead(**INSTANCES, num_negatives=9, temperature=t), nce, 0),
    'NCE, first step': (lambda t: NCEHead(**INSTANCES, num_negatives=9, temperature=t, form='nce'), nce, 0),
    'NCE': (lambda t: NCEHead(**INSTANCES, num_negatives=9, temperature=t, form='nce'), nce, 0),
    'CMC': (lambda t: CMCHead(**INSTANCES, num_negatives=9, temperature=t), nce, 2),
    'QueueNCE, first step': (lambda t: QueueNCEHead(50, **QUEUE, temperature=t), queue_nce, 0),
    'QueueNCE': (lambda t: QueueNCEHead(50, **QUEUE, temperature=t), queue_nce, 0),
    'PIC': (lambda t: PICHead(**INSTANCES, num_large=2, temperature=t), pic, 3),
    'PIC, recent': (lambda t: PICHead(**INSTANCES, num_large=2, temperature=t, num_recent=45), pic, 3),
    'SwAV': (lambda t: SwAVHead(D, 11, temperature=t), swav, 2),
    'DeepClusterV2': (lambda t: DeepClusterV2Head(50, D, 11, 2, temperature=t), deepcluster, 3),
}  # fmt: skip


def build(name, temperature):
    torch.manual_seed(0)
    make, formula, crops = CASES[name]
    head = make(temperature).double()
    if name == 'NCE':
        settle(head.contrasts)
    if name == 'QueueNCE':
        settle([head.contrast])
    if name == 'DeepClusterV2':
        head.labels.random_(11)
    if name == 'PIC, recent':
        head.follow(torch.optim.SGD(head.parameters(), lr=0.1))
    shape = (N, crops, D) if crops else (N, D)
    if isinstance(head, InfoNCEHead):
        head.queue.features.copy_(unit(40, D, seed=4))
    targets = [unit(*shape, seed=1), unit(*shape, seed=2)]
    if head.num_instances is not None:
        targets = [torch.randperm(50)[:N], torch.randperm(50)[:N]]
    if isinstance(head, InstanceHead):  # a second batch of recent instances would push out some of the first: one only
        targets = targets[:1] if name == 'PIC, recent' else targets
        for index in targets:
            head.enter(index)
        targets = [head.address(index) for index in targets]
    return head, formula, unit(*shape, seed=3).requires_grad_(), targets


def gradients(loss, head, query):
    return torch.autograd.grad(loss, [query, *(p for p in head.parameters() if p.requires_grad)])


@pytest.mark.parametrize('unmix', [False, True])
@pytest.mark.parametrize('kind', ['parameter', 'learned'])
@pytest.mark.parametrize('name', CASES)
def test_loss_and_gradients_are_those_of_the_literal_formula(name, kind, unmix):
    """With Un-Mix, what the losses share is used for two targets and for both orders of the batch."""
    head, formula, query, targets = build(name, LEARNED if kind == 'learned' else 0.3)
    if kind == 'parameter':
        head.temperature = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        temperature = head.temperature
        parameter = 'temperature'
    else:
        temperature = 0.02 + torch.exp(-head.temperature.logit_scale.squeeze())
        parameter = 'temperature.logit_scale'
    assert parameter in dict(head.named_parameters())
    shared = head.shared(query)
    if unmix:
        reverse, reversed_shared = query.flip(0), None if shared is None else shared.flip(0)
        prepared = [head.prepare(target) for target in targets]
        terms = [(head.terms(query, t, shared), head.terms(reverse, t, reversed_shared)) for t in prepared]
        ours = UnMix()(0.3, terms)
        literal = sum(
            0.3 * formula(head, query, target, temperature) + 0.7 * formula(head, query.flip(0), target, temperature)
            for target in targets
        )
    else:
        ours = head.terms(query, head.prepare(targets[0]), shared).sum()
        literal = formula(head, query, targets[0], temperature)
    torch.testing.assert_close(ours, literal, **EXACT)
    for one, other in zip(gradients(ours, head, query), gradients(literal, head, query), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
        assert other.any()


@pytest.mark.parametrize('name', CASES)
def test_a_number_has_no_parameter_and_a_schedule_changes_the_next_loss(name):
    head, _, query, targets = build(name, 0.3)
    assert not [key for key in head.state_dict() if 'temperature' in key]
    gradients(head(query, targets[0]), head, query)
    head.temperature = 0.7
    other = build(name, 0.7)[0]
    later, expected = head(query, targets[0]), other(query, targets[0])
    assert torch.equal(later, expected)
    for one, two in zip(gradients(later, head, query), gradients(expected, other, query), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize('name', CASES)
def test_a_scheduled_module(name):
    class Schedule(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('value', torch.tensor(0.3, dtype=torch.float64))

        def forward(self):
            return self.value

    head, formula, query, targets = build(name, Schedule())
    for value in (0.3, 0.7):
        head.temperature.value.fill_(value)
        torch.testing.assert_close(head(query, targets[0]), formula(head, query, targets[0], value), **EXACT)


@pytest.mark.parametrize('name', CASES)
def test_bfloat16_autocast_changes_nothing_but_the_rounding_of_the_queries(name):
    head, _, query, targets = build(name, LEARNED)
    query = query.detach().bfloat16()
    targets = [target.bfloat16() if target.is_floating_point() else target for target in targets]
    head = head.float()
    results = []
    for rounded in (True, False):
        x = (query if rounded else query.float()).requires_grad_()
        target = targets[0].float() if targets[0].is_floating_point() and not rounded else targets[0]
        with torch.autocast('cpu', torch.bfloat16, enabled=rounded):
            loss = head(x, target)
        results.append((loss, torch.autograd.grad(loss, head.temperature.logit_scale)[0]))
    assert results[0][0].dtype == torch.float32
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def gradients_of_a_rank(rank, path):
    for name in ('PIC', 'NTXent'):
        head, query, target = over_ranks(name, sharded=True)
        own = slice(4 * rank, 4 * rank + 4)
        part = query[own].clone().requires_grad_()
        loss = head(part, target[own])
        torch.save((loss.detach(), *gradients(loss, head, part)), f'{path}/{name}-{rank}.pth')


def over_ranks(name, sharded):
    torch.manual_seed(0)
    if name == 'PIC':
        head = PICHead(11, D, num_large=2, temperature=LEARNED, sharded=sharded)
        return head.double(), unit(8, 3, D), torch.tensor([10, 3, 3, 0, 9, 4, 7, 1])
    return NTXentHead(LEARNED).double(), unit(8, D), unit(8, D, seed=1)


@pytest.mark.slow
def test_over_ranks_the_mean_gradient_is_that_of_the_whole_batch(tmp_path):
    """The sharded softmax of PIC, and NT-Xent with the candidates of all ranks; DDP averages as here."""
    run_ranks(gradients_of_a_rank, 2, tmp_path, tmp_path)
    for name in ('PIC', 'NTXent'):
        head, query, target = over_ranks(name, sharded=False)
        loss = head(query.requires_grad_(), target)
        expected = gradients(loss, head, query)
        ranks = [torch.load(tmp_path / f'{name}-{rank}.pth') for rank in range(2)]
        torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, loss.detach(), **EXACT)
        for one, other, whole in zip(ranks[0][2:], ranks[1][2:], expected[1:], strict=True):
            torch.testing.assert_close((one + other) / 2, whole, **EXACT)


# The functions


@pytest.mark.parametrize('unit_rows', [False, True])
@pytest.mark.parametrize('wanted', ['query', 'bank', 'scale', 'all'])
def test_gradients_of_the_scale(wanted, unit_rows):
    tensors = dict(query=unit(5, D), bank=2 * unit(40, D, seed=1), scale=torch.tensor(7.0, dtype=torch.float64))
    for name, tensor in tensors.items():
        tensor.requires_grad_(wanted in (name, 'all'))
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    query, bank, scale = tensors.values()
    index, valid, weight = torch.tensor([3, 3, 0, 39, 8]), torch.arange(40) % 3 != 1, torch.arange(1, 6)
    rows = F.normalize(bank, dim=1) if unit_rows else bank
    itself = (index + 1) % 40
    others = (scale * query @ bank.T).masked_fill(F.one_hot(itself, 40).bool(), -torch.inf)
    table = (scale * query @ rows.T).masked_fill(~valid, -torch.inf)
    pairs = [
        (bank_lse(query, bank, scale, valid=valid, unit_rows=unit_rows), table.logsumexp(1)),
        (own_similarity(query, bank, index, scale, unit_rows=unit_rows), scale * (query * rows[index]).sum(1)),
        (pair_cross_entropy(query, bank, index, itself, scale), F.cross_entropy(others, index)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **EXACT)
        ours, theirs = (torch.autograd.grad((x * weight).sum(), leaves, retain_graph=True) for x in (ours, theirs))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, **EXACT)


def test_second_derivatives_of_the_scale_are_refused():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 5, 5])
    losses = (
        bank_lse(unit(3, D), unit(9, D), scale),
        own_similarity(unit(3, D), unit(9, D), index, scale),
        pair_cross_entropy(unit(3, D), unit(9, D), index, index + 1, scale),
        eager_gradient(lambda x, _: x.exp().sum(1), scale * unit(3, D), 2),
    )
    for loss in losses:
        with pytest.raises(RuntimeError, match='no second derivatives'):
            torch.autograd.grad(loss.sum(), scale, create_graph=True)


@pytest.mark.parametrize('wanted', [False, True])
def test_eager_gradients_of_another_tensor_are_refused(wanted):
    """It would get none, without a message."""
    query, scale = unit(3, D).requires_grad_(wanted), torch.ones(1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r'depend on a tensor of shape \(1,\) that needs a gradient'):
        eager_gradient(lambda x, _: (2 * scale * x).sum(1), query, 2)


# The module


def test_learned_temperature_starts_at_init_and_stays_above_min():
    temperature = LearnableTemperature(init=0.3, min=0.02)
    assert temperature().item() == pytest.approx(0.3)
    assert temperature().shape == ()
    assert LearnableTemperature(init=0.07, min=0.0).logit_scale.item() == pytest.approx(math.log(1 / 0.07))  # CLIP
    optimizer = torch.optim.SGD(temperature.parameters(), lr=1.0)
    for _ in range(1000):
        optimizer.zero_grad()
        temperature().backward()
        optimizer.step()
    assert 0.02 < temperature().item() < 0.03
    assert temperature.logit_scale.grad.abs() > 0  # the way back


def test_learned_temperature_is_trained_and_saved():
    backbone = dict(type='ResNet', depth=8, width=4, stem='cifar')
    neck = dict(type='LinearNeck', in_dim=16, out_dim=8)
    config = dict(
        type='SimCLR', backbone=backbone, neck=neck, unmix=dict(type='UnMix'),
        head=dict(type='NTXentHead', temperature=dict(type='LearnableTemperature', init=0.2)),
    )  # fmt: skip
    model = MODELS.build(config)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train_step(dict(inputs=[torch.randn(4, 3, 8, 8) for _ in range(2)]), wrapper)
    assert model.head.temperature().item() != pytest.approx(0.2, abs=1e-4)
    other = MODELS.build(config)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.head.temperature(), model.head.temperature())


@pytest.mark.parametrize(('temperature', 'message'), [
    (0.0, r'head\.temperature is 0\.0; it must be positive'),
    (float('nan'), r'head\.temperature is nan'),
    ('0.1', r"head\.temperature is '0\.1'"),
    (None, r'head\.temperature is None'),
    (torch.ones(3), r'head\.temperature is a tensor of shape \(3,\)'),
    (torch.tensor(1), r'type torch\.int64; it must have one floating-point element'),
    (lambda: -1.0, r'head\.temperature is -1\.0'),
    (dict(type='LearnableTemperature', init=0.01, min=0.01), r'head\.temperature\.min is 0\.01'),
])  # fmt: skip
@pytest.mark.parametrize('name', ['InfoNCE', 'NTXent', 'NCE', 'PIC', 'SwAV', 'DeepClusterV2'])
def test_what_is_no_temperature_is_refused(name, temperature, message):
    with pytest.raises(ValueError, match=message):
        CASES[name][0](temperature)


def test_a_learned_temperature_without_a_term_that_has_one_is_refused():
    with pytest.raises(ValueError, match=r'head\.temperature is learned, but head\.contrast_weight is 0'):
        AlignUniformHead(**QUEUE, temperature=LEARNED)
