"""InstDisc, CMC and the memory bank: formulas, state, ranks, bad input."""

import copy
import math

import numpy as np
import pytest
import torch
from algorithms_under_test import ALGORITHMS

from unmix.models import CMCHead, NCEHead, QueueNCEHead, ResNet, TwoBranch
from unmix.models.color import ColorPreprocessor, rgb_to_lab, rgb_to_ycbcr
from unmix.models.functional.alias import AliasTable
from unmix.models.functional.random_bits import random_bits
from unmix.models.heads.instances import InstanceHead
from unmix.models.memory.bank import MemoryBank
from unmix.registry import MODELS
from unmix.utils.clock import Step
from unmix.utils.rng import uniforms


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(shape, dtype=torch.float64), dim=-1)


def build(name, **changes):
    torch.manual_seed(0)
    return MODELS.build(dict(ALGORITHMS[name], **changes)).double()


def images(seed, size, views=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(views)]


def naive(head, bank, contrast, query, target):
    """The loss of one bank, by loops."""
    total = 0.0
    for q, rows in zip(query.tolist(), target.tolist(), strict=True):
        scores = [math.exp(sum(a * b for a, b in zip(bank[row].tolist(), q, strict=True)) / 0.2) for row in rows]
        if contrast is None:
            total -= math.log(scores[0] / sum(scores))
            continue
        noise = (len(rows) - 1) / len(bank)
        p = [score / contrast for score in scores]
        total -= math.log(p[0] / (p[0] + noise + 1e-7))
        total -= sum(math.log(noise / (x + noise + 1e-7)) for x in p[1:])
    return total / len(query)


@pytest.mark.parametrize('form', ['softmax', 'nce'])
@pytest.mark.parametrize('num_instances', [9, 40], ids=['whole-bank', 'gathered'])
def test_loss_is_the_formula(form, num_instances):
    head = NCEHead(num_instances, dim=3, num_negatives=5, temperature=0.2, form=form).double()
    query = unit(4, 3)
    target = head.address(torch.arange(4))
    assert target.shape == (4, 6)
    assert torch.equal(target[:, 0], torch.arange(4))
    bank = head.banks[0].features
    scores = torch.stack([bank[rows] @ q / 0.2 for q, rows in zip(query, target, strict=True)])
    constant = None if form == 'softmax' else num_instances * scores.exp().mean().item()
    assert head(query, target).item() == pytest.approx(naive(head, bank, constant, query, target), abs=1e-12)
    head.update({0: query}, {0: target})
    other = unit(4, 3)
    bank = head.banks[0].features
    assert head(other, target).item() == pytest.approx(naive(head, bank, constant, other, target), abs=1e-12)


def test_banks_of_cmc_are_crossed():
    head = CMCHead(12, dim=3, num_negatives=5, temperature=0.2).double()
    query, target = unit(4, 2, 3), head.address(torch.arange(4))
    lightness, colour = (bank.features.clone() for bank in head.banks)
    expected = naive(head, colour, None, query[:, 0], target) + naive(head, lightness, None, query[:, 1], target)
    assert head(query, target).item() == pytest.approx(expected, abs=1e-12)
    head.update({0: query}, {0: target})
    for b, old in enumerate((lightness, colour)):
        moved = torch.nn.functional.normalize(old[:4] + query[:, b], dim=1)
        torch.testing.assert_close(head.banks[b].features, torch.cat([moved, old[4:]]), rtol=0, atol=1e-12)


def test_the_constant_is_that_of_the_first_batch_and_is_kept():
    head = NCEHead(20, dim=4, num_negatives=6, form='nce').double()
    target = head.address(torch.arange(5))
    first = unit(5, 4)
    constant = 20 * head.scores(first, target).exp().mean()
    for query in (first, unit(5, 4), unit(5, 4)):
        head.update({0: query}, {0: target})
        torch.testing.assert_close(head.contrasts[0].constant, constant, rtol=1e-12, atol=0)
    twin = NCEHead(20, dim=4, num_negatives=6, form='nce').double()
    twin.load_state_dict(head.state_dict())
    query = unit(5, 4)
    assert torch.equal(twin(query, target), head(query, target))


def test_truncated_constant_of_a_queue():
    head = QueueNCEHead(num_instances=50, truncate=True, dim=4, queue_size=8).double()
    query, key = unit(3, 4), unit(3, 4)
    scores = torch.cat([(query * key).sum(1, keepdim=True), query @ head.queue.features.T], 1) / head.temperature
    constant = int(50 * scores.exp().mean())
    head.update({0: query}, {1: key})
    assert head.contrast.constant == pytest.approx(constant, abs=1e-9)


@pytest.mark.parametrize('momentum', [0.0, 0.5])
def test_bank_takes_the_last_of_equal_instances(momentum):
    bank = MemoryBank(6, 3, momentum).double()
    before, features = bank.features.clone(), unit(4, 3)
    bank.update(torch.tensor([2, 5, 2, 0]), features)
    expected = before.clone()
    for row, feature in ((2, features[2]), (5, features[1]), (0, features[3])):
        expected[row] = torch.nn.functional.normalize(momentum * before[row] + (1 - momentum) * feature, dim=0)
    torch.testing.assert_close(bank.features, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(('init', 'norms'), [('unit', 1.0), ('columns', math.sqrt(16 / 4000)), ('uniform', 1.0)])
def test_initial_banks(init, norms):
    lengths = MemoryBank(4000, 16, init=init).features.norm(dim=1)
    assert (lengths**2).mean().sqrt().item() == pytest.approx(norms, rel=0.01)
    assert (lengths.std() < 1e-6) == (init == 'unit')


def test_random_bits_are_those_of_uniforms():
    index = torch.tensor([0, 5, 2**40])
    for key in (3, 2**63 + 11, 2**64 - 1):
        ours = random_bits(key, index, 4).numpy() * 2.0**-53
        np.testing.assert_array_equal(ours, uniforms(key, index.numpy(), 4))


def test_negatives_belong_to_the_instance_and_the_step():
    head = NCEHead(1000, dim=2, num_negatives=50)
    index = torch.tensor([3, 8, 5])
    draws = head.draw(index)
    assert torch.equal(draws[[2, 0]], head.draw(index[[2, 0]]))
    for step in (Step(seed=1), Step(iteration=1), Step(number=1)):
        head.step = step
        assert not torch.equal(draws, head.draw(index))
    assert 0 <= draws.min() < draws.max() < 1000


def test_negatives_follow_their_weights():
    weights = [0.0, 1.0, 3.0, 6.0]
    head = NCEHead(4, dim=2, num_negatives=5000, negative_weights=weights)
    share = torch.bincount(head.draw(torch.arange(4)).flatten(), minlength=4) / 20000
    torch.testing.assert_close(share, torch.tensor([0.0, 0.1, 0.3, 0.6]), rtol=0, atol=0.01)
    assert torch.equal(AliasTable([2.0] * 5).prob, torch.ones(5))


@pytest.mark.parametrize('name', ['instdisc', 'cmc'])
def test_step_moves_the_bank_by_the_clean_features(name):
    model = build(name, unmix=dict(type='UnMix'))
    views, index = images(0, 4), torch.tensor([4, 2, 9, 7])
    twin = copy.deepcopy(model)
    model.loss(views, index)
    assert all(torch.equal(old, new) for old, new in zip(twin.head.buffers(), model.head.buffers(), strict=True))
    model.after_step()
    queries = twin.encode(views[0]).view(4, len(twin.head.banks), -1)
    for b, (old, new) in enumerate(zip(twin.head.banks, model.head.banks, strict=True)):
        expected = old.features.clone()
        expected[index] = torch.nn.functional.normalize(old.features[index] + queries[:, b], dim=1)
        torch.testing.assert_close(new.features, expected, rtol=0, atol=1e-12)


def test_unmix_matches_the_mixture_with_the_instances_of_both_images():
    model = build('instdisc', unmix=dict(type='UnMix'))
    seen = {}
    mix, forward = model.unmix.mix, model.head.forward
    model.unmix.mix = lambda *arguments: seen.setdefault('mix', mix(*arguments))
    model.head.forward = lambda query, target: forward(query, seen.setdefault('target', target))
    bank = model.head.banks[0].features.clone()
    loss = model.loss(images(0, 4), torch.arange(4))['loss_unmix']
    (mixture, lam), target = seen['mix'], seen['target']
    expected = 0.0
    for n, q in enumerate(model.encode(mixture)):
        for share, row in ((lam, target[n]), (1 - lam, target[3 - n])):
            scores = bank[row] @ q / model.head.temperature
            expected += share * (scores.logsumexp(0) - scores[0]).item() / 4
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('name', ['instdisc-nce', 'cmc-nce', 'moco-nce', 'pic', 'pic-recent'])
def test_heads_keep_full_precision_under_autocast(name):
    heads = [build(name).float().head for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    query = unit(4, 2, 8).float().bfloat16() if 'cmc' in name else unit(4, 8).float().bfloat16()
    losses = []
    for head, enabled in zip(heads, (False, True), strict=True):
        head.enter(torch.arange(4))
        target = head.address(torch.arange(4)) if isinstance(head, InstanceHead) else query.flip(0)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            losses.append(head(query, target))
            head.update({0: query}, {1: target})
            losses.append(head(query, target))
    assert losses[0].dtype == torch.float32
    assert torch.equal(losses[0], losses[2])
    assert torch.equal(losses[1], losses[3])


# Bad input


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(temperature=0.0), 'head.temperature is 0'),
    (dict(num_negatives=0), 'num_negatives is 0'),
    (dict(form='triplet'), "head.form is 'triplet'"),
    (dict(bank_init='zeros'), "head.bank_init is 'zeros'"),
    (dict(momentum=1.5), 'head.momentum is 1.5'),
    (dict(negative_weights=[1.0, 2.0]), 'head.negative_weights are 9'),
    (dict(negative_weights=[0.0] * 9), 'not all 0'),
])  # fmt: skip
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        NCEHead(9, **arguments)


# Colours


def test_known_colours():
    rgb = torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=torch.float64)[:, :, None, None]
    lab = rgb_to_lab(rgb)[:, :, 0, 0]
    expected = [[100.0, 0.0, 0.0], [0.0, 0.0, 0.0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    torch.testing.assert_close(lab, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0.02)
    ycbcr = rgb_to_ycbcr(rgb)[:, :, 0, 0]
    expected = [[235.0, 128, 128], [16, 128, 128], [81.481, 90.203, 240], [40.966, 240, 109.786]]
    torch.testing.assert_close(ycbcr, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-3)


def test_grey_images_get_the_colours_of_the_palette():
    preprocess = ColorPreprocessor('lab', palette=[[10, 20, 30], [200, 150, 100]])
    grey = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3)
    rgb = torch.tensor([[10, 20, 30], [200, 150, 100], [48, 46, 44]]).T[None, :, None]
    torch.testing.assert_close(preprocess(dict(inputs=grey))['inputs'], preprocess(dict(inputs=rgb))['inputs'])
    with pytest.raises(ValueError, match=r'images have 1 channels.*palette'):
        ColorPreprocessor('lab')(dict(inputs=grey))
    with pytest.raises(ValueError, match="color_space is 'hsv'"):
        ColorPreprocessor('hsv')


def test_two_branches_see_their_channels():
    backbone = TwoBranch(dict(type='ResNet', depth=8, width=4)).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    features = backbone(x)
    assert features.shape == (2, backbone.out_dim)
    torch.testing.assert_close(features[:, :16], backbone.l_to_ab(x[:, :1]))
    torch.testing.assert_close(features[:, 16:], backbone.ab_to_l(x[:, 1:]))
    with pytest.raises(ValueError, match=r'images have 1 channels, backbone\.channels=\(1, 2\)'):
        backbone(x[:, :1])


def test_cmc_networks_have_the_published_size():
    """Two ResNet-50 of half width with 128 dimensions: 12.06 million parameters."""
    branch = dict(type='ResNet', depth=50, width=32, stem_width=64)
    size = sum(p.numel() for p in TwoBranch(branch).parameters()) + 2 * (1024 + 1) * 128
    assert size / 1e6 == pytest.approx(12.06, abs=0.005)


def test_zero_init_residual():
    net = ResNet(50, width=8, zero_init_residual=True)
    last = [module.weight for name, module in net.named_modules() if name.endswith('.bn3')]
    assert len(last) == 16
    assert all(not weight.any() for weight in last)
    assert all(module.weight.all() for name, module in net.named_modules() if name.endswith(('bn1', 'bn2')))
