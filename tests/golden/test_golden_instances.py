"""Losses, gradients, banks and constants of InstDisc, CMC and PIC on given features."""

import numpy as np
import pytest
import torch
from fixtures import Golden
from logits import moco_logits
from torch import Tensor

from unmix.models import CMCHead, InfoNCEHead, NCEHead, PICHead, QueueNCEHead
from unmix.models.color import STATISTICS, ColorPreprocessor, rgb_to_lab, rgb_to_ycbcr
from unmix.models.functional.alias import AliasTable


def address(head: NCEHead, index: Tensor, rows: Tensor) -> Tensor:
    """The target of a batch whose negatives are recorded (N, 1 + K), with anything in column 0."""
    head.draw = lambda *_: rows[:, 1:]  # type: ignore[method-assign]
    return head.address(index)


def head_arguments(golden: Golden, num_instances: int, dim: int) -> dict:
    hp = golden.hp
    return dict(
        num_instances=num_instances,
        dim=dim,
        num_negatives=hp['K'],
        temperature=hp.get('T', hp.get('tau')),
        momentum=hp['momentum'],
    )


def is_nce(golden: Golden) -> bool:
    return 'o64_Z' in golden


@pytest.mark.golden('c09_instdisc_feat*')
def test_instdisc_of_pic(golden: Golden) -> None:
    features = golden.tensor('in_features')
    num_instances, dim = golden['in_memory0'].shape
    head = NCEHead(**head_arguments(golden, num_instances, dim)).to(**golden.factory)
    head.banks[0].features = golden.tensor('in_memory0')
    for step in range(len(features)):
        raw = features[step].clone().requires_grad_()
        query = torch.nn.functional.normalize(raw, dim=1)
        target = address(head, golden.tensor('ids')[step], golden.tensor('idx')[step])
        golden.check(head.scores(query, target)[:, 0], 'logits', step)
        loss = head(query, target)
        golden.check(loss, 'loss', step)
        head.update({0: query}, {0: target})
        loss.backward()
        golden.check(raw.grad, 'grad', step)
        golden.check(head.banks[0].features, 'memory', step)


@pytest.mark.golden('c12_cmc_*')
def test_cmc(golden: Golden) -> None:
    names = ('l', 'ab')
    num_instances, dim = golden['in_memory_l0'].shape
    form = 'nce' if is_nce(golden) else 'softmax'
    head = CMCHead(**head_arguments(golden, num_instances, dim), form=form).to(**golden.factory)
    for bank, name in zip(head.banks, names, strict=True):
        bank.features = golden.tensor(f'in_memory_{name}0')
    for step in range(len(golden['y'])):
        query = torch.stack([golden.tensor(f'in_{name}')[step] for name in names], 1).requires_grad_()
        target = address(head, golden.tensor('y')[step], golden.tensor('idx')[step])
        loss = head(query, target)
        total = sum(golden.arrays[f'{golden.prefix}loss_{name}'][step].astype(np.float64) for name in names)
        golden.compare(loss, total, f'loss[{step}]')
        scores = head.scores(query, target)
        head.update({0: query.detach()}, {0: target})
        loss.backward()
        for b, name in enumerate(names):
            golden.check(head.contrasts[b](scores[:, b]).mean(), f'loss_{name}', step)
            out = scores[:, b].exp() / head.contrasts[b].constant if is_nce(golden) else scores[:, b]
            golden.check(out, f'out_{name}', step)
            golden.check(query.grad[:, b], f'grad_{name}', step)
            golden.check(head.banks[b].features, f'memory_{name}', step)
            if is_nce(golden):
                golden.check(head.contrasts[b].constant, 'Z', (step, b))


@pytest.mark.golden('c12_memory_*')
def test_instdisc_and_moco_of_cmc(golden: Golden) -> None:
    hp = golden.hp
    (num_instances, dim), nce = golden['in_memory0'].shape, is_nce(golden)
    head = NCEHead(**head_arguments(golden, num_instances, dim), form='nce' if nce else 'softmax').to(**golden.factory)
    head.banks[0].features = golden.tensor('in_memory0')
    arguments = dict(dim=dim, queue_size=len(golden['in_queue0']), temperature=hp['T'])
    queue = (
        QueueNCEHead(num_instances=hp['n_data'], truncate=True, **arguments) if nce else InfoNCEHead(**arguments)
    ).to(**golden.factory)
    queue.queue.features = golden.tensor('in_queue0')
    for step in range(len(golden['y'])):
        for kind, module in (('ins', head), ('moco', queue)):
            query = golden.tensor('in_x')[step].clone().requires_grad_()
            if kind == 'ins':
                target = address(head, golden.tensor('y')[step], golden.tensor('idx')[step])
                scores, contrast = head.scores(query, target)[:, 0], head.contrasts[0]
            else:
                target = golden.tensor('in_k')[step]
                scores, contrast = moco_logits(queue, query, target), getattr(queue, 'contrast', None)
            loss = module(query, target)
            golden.check(loss, f'{kind}_loss', step)
            module.update({0: query.detach()}, {0: target})
            loss.backward()
            golden.check(query.grad, f'{kind}_grad', step)
            golden.check(scores.exp() / contrast.constant if nce else scores, f'{kind}_out', step)
            if nce:
                golden.check(contrast.constant, 'Z', (step, 0 if kind == 'ins' else 1))
        golden.check(head.banks[0].features, 'ins_memory', step)
        golden.check(queue.queue.features, 'moco_memory', step)


@pytest.mark.golden('c09_pic_feat*')
def test_pic(golden: Golden) -> None:
    hp = golden.hp
    num_crops = hp['num_large'] + hp['num_small']
    num_instances, dim = golden['in_W'].shape
    head = PICHead(num_instances, dim, temperature=hp['tau'], num_large=hp['num_large']).to(**golden.factory)
    head.weight.data = golden.tensor('in_W')
    raw = golden.tensor('in_features').requires_grad_()  # crop-major
    query = torch.nn.functional.normalize(raw, dim=1).view(num_crops, hp['N'], dim).transpose(0, 1)
    target = head.address(golden.tensor('ids'))
    golden.check(head.own_logits(query).transpose(0, 1).flatten(0, 1), 'logits')
    loss = head(query, target)
    golden.check(loss, 'loss')
    loss.backward()
    golden.check(raw.grad, 'grad_features')
    golden.check(head.weight.grad, 'grad_W')
    assert not np.allclose(head.weight.grad.cpu().numpy(), golden['x64_grad_W_if_not_blocked'], rtol=1e-3)


@pytest.mark.golden('c12_alias*')
def test_alias_table(golden: Golden) -> None:
    for i in range(len(golden.named('in_weights_'))):
        table = AliasTable(golden.tensor(f'in_weights_{i}')).to(golden.device)
        expected = {name: golden.arrays[f'{golden.prefix}{name}_{i}'] for name in ('prob', 'alias')}
        if golden.dtype == torch.float64:
            np.testing.assert_array_equal(table.alias.cpu().numpy(), expected['alias'])
            golden.compare(table.prob, expected['prob'], f'prob_{i}')
            # A Bernoulli draw of 1 keeps the cell: a uniform number below its share.
            uniform = torch.where(golden.tensor(f'bern_{i}') > 0, 0.0, 1.0)
            drawn = table(golden.tensor(f'kk_{i}'), uniform)
            kept = (table.prob[golden.tensor(f'kk_{i}')] > 0) | (uniform > 0)
            np.testing.assert_array_equal(drawn[kept].cpu().numpy(), golden[f'draw_{i}'][kept.cpu().numpy()])
        golden.compare(
            implied(table), golden.tensor(f'in_weights_{i}') / golden.tensor(f'in_weights_{i}').sum(), f'p_{i}'
        )


def implied(table: AliasTable) -> Tensor:
    """The distribution that a table stands for."""
    share = table.prob / len(table.prob)
    return share.index_add(0, table.alias, 1 / len(table.prob) - share)


@pytest.mark.golden('c12_lab*')
def test_color_spaces(golden: Golden) -> None:
    images = golden.tensor('rgb').to(**golden.factory).permute(2, 0, 1)[None]
    for name, convert in (('lab', rgb_to_lab), ('ycbcr', rgb_to_ycbcr)):
        golden.check(convert(images)[0].permute(1, 2, 0), f'{name}_raw')
        for which, published in enumerate(('mean', 'std')):
            golden.compare(STATISTICS[name][which], golden[f'{name}_{published}'], f'{name}_{published}')
        converted = ColorPreprocessor(name).to(golden.device)(dict(inputs=images))['inputs'][0]
        golden.check(converted[:1], f'{name}_first')
        golden.check(converted[1:], f'{name}_rest')
