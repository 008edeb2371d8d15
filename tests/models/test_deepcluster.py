"""DeepCluster-v2: bank, labels, hook; and ranks."""

import math

import pytest
import torch
from algorithms_under_test import ALGORITHMS
from torch.nn import functional as F

from unmix.models import DeepClusterV2Head
from unmix.models.algorithms.base import MIXTURE
from unmix.models.heads.deepcluster import IGNORED
from unmix.registry import MODELS

NUM_IMAGES = 24


def build(unmix=None, num_instances=NUM_IMAGES, norm=True, **head):
    torch.manual_seed(0)
    config = ALGORITHMS['deepclusterv2']
    head = dict(config['head'], num_instances=num_instances, **head)
    return MODELS.build(dict(config, head=head, unmix=unmix, neck=dict(config['neck'], norm=norm))).double()


def images(seed=0, size=NUM_IMAGES, num_crops=2):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=rng) for _ in range(num_crops)]


def clustered(**options):
    model = build(**options)
    model.remember(images(), torch.arange(NUM_IMAGES))
    model.cluster(epoch=0)
    return model


def test_head_is_the_formula():
    head = DeepClusterV2Head(num_instances=5, dim=4, num_prototypes=3, num_heads=2, temperature=0.2).double()
    head.labels = torch.tensor([[0, 1, 2, IGNORED, 1], [2, 2, 0, IGNORED, 1]])
    crops, index = F.normalize(torch.randn(4, 3, 4, dtype=torch.float64), dim=2), torch.tensor([4, 3, 0, 2])
    total, num = 0.0, 0
    for h in range(2):
        for n, i in enumerate(index):
            if head.labels[h, i] == IGNORED:
                continue
            for v in range(3):
                total -= (head.prototypes[h] @ crops[n, v] / 0.2).log_softmax(0)[head.labels[h, i]]
                num += 1
    assert num == 2 * 3 * 3
    torch.testing.assert_close(head(crops, index), total / num, rtol=0, atol=1e-12)
    torch.testing.assert_close(head.terms(crops, index).sum(), total / num, rtol=0, atol=1e-12)


def test_bank_holds_the_last_features_by_index():
    model = clustered()
    index = torch.tensor([7, 2, 11])
    inputs = [crop[:3] for crop in images(1)]
    before = model.head.bank.clone()
    for module in model.modules():
        module.training = module is model  # BatchNorm is in evaluation mode, so each crop can be encoded on its own
    model.loss(inputs, index)
    assert torch.equal(model.head.bank, before)
    model.after_step()
    for crop in range(2):
        torch.testing.assert_close(model.head.bank[crop, index], model.encode(inputs[crop]), rtol=0, atol=1e-12)
    others = [i for i in range(NUM_IMAGES) if i not in index]
    assert torch.equal(model.head.bank[:, others], before[:, others])


def test_clusterings_alternate_between_the_crops():
    model = clustered(num_heads=3, num_prototypes=4)
    for h in range(3):
        bank = model.head.bank[h % 2]
        nearest = (bank @ model.head.prototypes[h].T).argmax(1)
        assert torch.equal(model.head.labels[h], nearest)
    assert model.head.clustered_epoch == 0


def test_images_never_seen_have_no_label():
    model = build(num_instances=NUM_IMAGES + 3)
    model.remember(images(), torch.arange(3, NUM_IMAGES + 3))
    model.cluster(epoch=0)
    assert (model.head.labels[:, :3] == IGNORED).all()
    assert (model.head.labels[:, 3:] >= 0).all()
    loss = model.loss([crop[:3] for crop in images()], torch.arange(3))['loss_base']
    assert loss == 0


def test_unmix_gives_both_labels_their_share():
    model = clustered(unmix=dict(type='UnMix')).eval()
    index = torch.arange(NUM_IMAGES)
    head, index = model.head, torch.arange(NUM_IMAGES)
    record = {}
    model.unmix.register_forward_pre_hook(lambda unmix, args: record.update(lam=args[0]))
    encode_all = model.encode_all
    model.encode_all = lambda views: record.setdefault('queries', encode_all(views))
    loss = model.loss(images(1), index)['loss_unmix']
    mixture, lam, labels = record['queries'][MIXTURE], record['lam'], head.labels
    assert mixture.shape == (NUM_IMAGES, 1, 8)
    expected = 0.0
    for h in range(len(labels)):
        log_probability = (mixture[:, 0] @ head.prototypes[h].T / head.temperature).log_softmax(1)
        own, others = (F.nll_loss(log_probability, y) for y in (labels[h], labels[h].flip(0)))
        expected += (lam * own + (1 - lam) * others) / len(labels)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_collapsed_features_have_the_chance_loss():
    head = DeepClusterV2Head(num_instances=5, dim=4, num_prototypes=3, num_heads=2)
    head.prototypes = F.normalize(torch.ones(2, 3, 4, dtype=torch.float64), dim=2)
    head.labels = torch.zeros(2, 5, dtype=torch.long)
    same = F.normalize(torch.ones(5, 4, dtype=torch.float64), dim=1)
    assert head(same, torch.arange(5)).item() == pytest.approx(head.chance_loss, rel=1e-12)
    assert head.chance_loss == math.log(3)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match='no clusters yet'):
        build().loss(images(), torch.arange(NUM_IMAGES))
    with pytest.raises(ValueError, match='at least 2 crops'):
        clustered().loss(images()[:1], torch.arange(NUM_IMAGES))
    with pytest.raises(ValueError, match=r'from 1 to 24, but model\.head\.num_instances is 24'):
        build().remember(images(), torch.arange(1, NUM_IMAGES + 1))
    with pytest.raises(ValueError, match=r'num_prototypes is 30, but there are features of 24 images'):
        clustered(num_prototypes=30)
    with pytest.raises(ValueError, match=r'head\.num_heads is 0'):
        build(num_heads=0)
