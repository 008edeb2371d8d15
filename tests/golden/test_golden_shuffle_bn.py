"""Shuffle-BN over ranks: a real run of as many processes as the fixture has ranks."""

from pathlib import Path

import pytest
import torch
from fixtures import Golden, Recorded
from logits import moco_logits
from networks import build_moco, replay

from unmix.testing.ranks import run_ranks

pytestmark = pytest.mark.ranks


def run_rank(rank: int, golden: Golden, directory: Path) -> None:
    """One step on one rank; leaves its results in ``directory``."""
    model = build_moco(golden, dict(type='UnMix', mixing=dict(type='GoldenMixture')))
    view0, view1, mixture = golden.tensor('img_u8')[rank]
    model.unmix.mixing.mixture, model.unmix.mixing.lam = mixture, golden.hp['lam']
    replay(model, None, Recorded(permutation=[golden['perm']]))  # a function of the step, so alike on all ranks
    queue = model.head.queue.features.clone()
    logits = []
    model.head.register_forward_hook(lambda head, args, output: logits.append(moco_logits(head, *args[:2]).detach()))
    loss = sum(model.loss([view0, view1]).values())
    loss.backward()
    encoder = model.momentum_encoder.backbone
    neck = model.neck.fc if hasattr(model.neck, 'fc') else model.neck.layers[-1]
    model.after_step()
    results = dict(
        loss=loss.detach(),
        logits=logits[0],
        logits_m=logits[1],
        logits_m_flip=logits[2],
        grad_conv1=model.backbone.conv1.weight.grad,
        grad_fc=neck.weight.grad,
        key_bn1_mean=encoder.bn1.running_mean,
        key_bn2_var=encoder.bn2.running_var,
        queue=model.head.queue.features.T,
    )
    assert not torch.equal(queue, model.head.queue.features)
    torch.save(results, directory / f'{rank}.pth')


@pytest.mark.golden('c03_moco_[0-9]*rank*')
def test_shuffle_over_ranks(golden: Golden, tmp_path: Path) -> None:
    world_size = len(golden['img_u8'])
    run_ranks(run_rank, world_size, tmp_path, golden, tmp_path)
    for rank in range(world_size):
        for name, value in torch.load(tmp_path / f'{rank}.pth').items():
            golden.check(value, name, ... if name == 'queue' else rank)
