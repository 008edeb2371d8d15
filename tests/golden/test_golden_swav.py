"""SwAV and Un-Mix SwAV of the released code on given scores and features."""

from pathlib import Path

import pytest
import torch
from fixtures import Golden
from swav_networks import build_swav, newest_first, record_unmix, replay_mixing

from unmix.models import SwAVHead
from unmix.models.heads import sinkhorn
from unmix.models.heads.swav import Look
from unmix.testing.ranks import run_ranks


@pytest.mark.golden('c10_sinkhorn', 'c10_sinkhorn_[!0-9]*')
def test_sinkhorn(golden: Golden) -> None:
    for i, config in enumerate(golden.hp['configs']):
        codes = sinkhorn(golden.tensor(f'in_scores_{i}'), config['epsilon'], config['iterations'])
        golden.check(codes, f'old_{i}')
        golden.check(codes, f'stab_{i}')
        if config['iterations']:  # without any, the newer released form does not scale rows to sum 1
            golden.check(codes, f'new_{i}')
        else:
            newer = golden.arrays[f'{golden.prefix}new_{i}']
            golden.compare(codes, newer / newer.sum(1, keepdims=True), f'new_{i}, rows of sum 1')
    if 'in_inf_scores' in golden:
        check_overflow(golden)


def check_overflow(golden: Golden) -> None:
    """Where exp overflows in float32 the released code takes its largest finite value; a limit of the scores does so.

    Without the limit ours is the exact result, which float64 gives to the direct formula.
    """
    scores, epsilon, iterations = golden['in_inf_scores'], golden.hp['inf_epsilon'], golden.hp['inf_iterations']
    scores = torch.from_numpy(scores).to(golden.device)
    limit = scores[(scores / epsilon).exp().isfinite()].max()
    if golden.dtype == torch.float32:
        # The exponent is up to 88, so its rounding, u = 6e-8, is one of 88 u in the codes of either.
        golden.check(sinkhorn(scores.clamp(max=limit), epsilon, iterations), 'inf_old', scale=10)
    q = (scores.double() / epsilon).exp()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    golden.compare(sinkhorn(scores.to(**golden.factory), epsilon, iterations), q.cpu().numpy(), 'inf, exact', scale=10)


def sinkhorn_of_rank(rank: int, golden: Golden, directory: Path) -> None:
    codes = [
        sinkhorn(golden.tensor(f'in_scores_{i}')[rank], config['epsilon'], config['iterations'])
        for i, config in enumerate(golden.hp['configs'])
    ]
    torch.save(codes, directory / f'{rank}.pth')


@pytest.mark.golden('c10_sinkhorn_[0-9]*rank*')
@pytest.mark.ranks
def test_sinkhorn_over_ranks(golden: Golden, tmp_path: Path) -> None:
    world_size = len(golden['in_scores_0'])
    run_ranks(sinkhorn_of_rank, world_size, tmp_path, golden, tmp_path)
    for rank in range(world_size):
        for i, codes in enumerate(torch.load(tmp_path / f'{rank}.pth')):
            golden.check(codes, f'new_{i}', rank)
            golden.check(codes, f'old_{i}', rank)


@pytest.mark.golden('c10_swav_loss_*')
def test_loss_on_scores(golden: Golden) -> None:
    """One evaluation of the loss in every situation of the queue, in order and reversed."""
    hp = golden.hp
    num_crops, batch_size = sum(hp['nmb_crops']), hp['bs']
    embedding = golden.tensor('in_embedding').unflatten(0, (num_crops, batch_size))
    prefix = len(golden.prefix)
    names = [key[prefix:].removesuffix('_loss') for key in golden.arrays if key.startswith(golden.prefix)]
    for name in dict.fromkeys(name for name in names if f'{golden.prefix}{name}_loss' in golden):
        situation = name.removesuffix('_rev')
        head = build_head(golden, situation)
        scores = golden.tensor('in_scores').unflatten(0, (num_crops, batch_size)).requires_grad_()
        order = slice(None) if name == situation else torch.arange(batch_size - 1, -1, -1)
        codes = head.assign(scores[0][order], 0), head.assign(scores[1], 1)
        crops, predictions = (x.transpose(0, 1) for x in (scores, (scores / head.temperature).log_softmax(2)))
        query, target = (Look(crops[:, i::2], predictions[:, i::2], codes[i]) for i in range(2))
        loss = head.terms(crops[:, 0::2], target, query).sum()
        golden.check(loss, f'{name}_loss')
        golden.check(torch.autograd.grad(loss, scores)[0].flatten(0, 1), f'{name}_grad_scores')
        golden.check(torch.stack(codes), f'{name}_assign')
        if head.queue_size:
            head.update({0: embedding[0][order]}, {1: embedding[1]})
            queues = torch.stack([queue.features.roll(-int(queue.pointer), 0) for queue in head.queues])
            newest = torch.stack([torch.cat(queue.split(batch_size)[::-1]) for queue in queues])
            golden.check(newest, f'{name}_queue')


def build_head(golden: Golden, situation: str) -> SwAVHead:
    """A head with the fixture's prototypes and queues; full if the flag says that a queue was used."""
    hp, weight = golden.hp, golden.tensor('in_prototypes')
    queues = golden.tensor(f'in_queue_{"part" if situation == "flag" else situation}') if situation != 'none' else None
    head = SwAVHead(
        dim=weight.shape[1],
        num_prototypes=weight.shape[0],
        temperature=hp['temperature'],
        epsilon=hp['epsilon'],
        sinkhorn_iterations=hp['sinkhorn_iterations'],
        queue_size=0 if queues is None else queues.shape[1],
    ).to(**golden.factory)
    head.prototypes.weight.data = weight
    if queues is not None:
        for queue, rows in zip(head.queues, queues, strict=True):
            queue.features = torch.cat(rows.split(hp['bs'])[::-1])
        head.queued.fill_(head.queue_size if golden[f'{situation}_flag'] else 0)
    return head


@pytest.mark.golden('c10_swav_plain_*', 'c10_unmix_swav_*')
def test_steps_on_features(golden: Golden) -> None:
    """Several steps: terms, codes, mixtures, gradients, queues; rows are looked up by the first pixel of an image."""
    hp = golden.hp
    model = build_swav(golden, dict(type='GoldenRows'), dict(type='GoldenTable'))
    model.head.prototypes.weight.data = golden.tensor('in_W')
    num_crops, batch_size = sum(hp['nmb_crops']), hp['bs']
    record, codes = record_unmix(model), record_codes(model)
    for step, features in enumerate(golden.tensor('in_features')):
        model.neck.rows = features.clone().requires_grad_()
        model.head.zero_grad()
        replay_mixing(model, golden, step)
        codes.clear()
        losses = model.loss(make_crops(golden, num_crops, batch_size, step, model))
        total = sum(losses.values())
        total.backward()
        model.after_step()
        golden.check(total, 'total', step)
        golden.check(model.neck.rows.grad, 'grad_features', step)
        gradient = model.head.prototypes.weight.grad  # none while frozen, which the fixtures have as zeros
        golden.check(torch.zeros_like(golden.tensor('in_W')) if gradient is None else gradient, 'grad_W', step)
        if 'r' in golden:
            golden.compare(record['lam'], golden['lam_final'][step], 'lam_final')
            golden.check(torch.stack([losses['loss_base'], *record['terms']]), 'terms', step)
            check_mixtures(golden, step)
        if hp['queue_length']:
            golden.check(newest_first(model, batch_size), 'queue', step)
        if hp['queue_length'] or 'r' not in golden:
            golden.check(torch.stack(codes), 'assign', step)
        else:  # codes that are equal are not computed again
            expected = golden['o64_assign'][step]
            clean, target, mixture = codes
            golden.check(torch.stack([clean, target, mixture, target, mixture.flip(0), target]), 'assign', step)
            assert abs(expected[1] - expected[3]).max() < 1e-12


def record_codes(model) -> list:
    """Note the codes, in the order in which they are computed."""
    codes: list = []
    assign = model.head.assign
    model.head.assign = lambda *args: codes.append(assign(*args)) or codes[-1]
    return codes


def make_crops(golden: Golden, num_crops: int, batch_size: int, step: int, model) -> list[torch.Tensor]:
    """Crops whose first pixel is a row number, and mixtures with those of the mixtures' rows."""
    unmix, large = 'r' in golden, golden.hp['nmb_crops'][0]
    crops, mixtures, row = [], [], 0
    for i in range(num_crops):
        crops.append(pixels(row, batch_size, 6 if i < large else 4, golden))
        row += batch_size
        if unmix and i % 2:
            mixtures.append(pixels(row, batch_size, crops[-1].shape[-1], golden))
            row += batch_size
    if unmix:
        mix = type(model.unmix).mix
        model.unmix.mix = lambda view, rng: (mixtures, mix(model.unmix, view, rng)[1])
    return crops


def pixels(first: int, batch_size: int, size: int, golden: Golden) -> torch.Tensor:
    return torch.arange(first, first + batch_size, **golden.factory)[:, None, None, None].expand(-1, 1, size, size)


def check_mixtures(golden: Golden, step: int) -> None:
    """The mixtures of the recorded images."""
    model = build_swav(golden, dict(type='GoldenRows'), dict(type='GoldenTable'))
    replay_mixing(model, golden, step)
    names = sorted(name for name in golden.arrays if name.startswith('in_img_crop'))
    mixtures, lam = model.mix([[golden.tensor(name)[step] for name in names]])
    for name, mixture in zip(names, mixtures, strict=True):
        golden.check(mixture, f'mixed_{name.removeprefix("in_img_")}', step)
    golden.compare(lam, golden['lam_final'][step], 'lam_final')
