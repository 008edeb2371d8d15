"""NT-Xent of PIC's repository, on one and several ranks, and of htdt, with its BatchNorm over all views."""

from pathlib import Path

import pytest
import torch
from fixtures import Golden
from logits import nt_xent_logits
from networks import GoldenFeatures
from torch import Tensor
from torch.nn import functional as F

from unmix.models import NTXentHead, SimCLR
from unmix.testing.ranks import run_ranks


def check_pair(golden: Golden, rank: int, prefix: str) -> None:
    """Logits, labels, loss and gradient of one rank, from features before normalisation."""
    features = golden.tensor('in_features')[rank].requires_grad_()
    head = NTXentHead(golden.hp['tau'], gradient='query_only')
    views = F.normalize(features, dim=-1)
    loss = head(*views)
    loss.backward()
    logits = nt_xent_logits(head, *views).detach()
    expected = torch.from_numpy(golden.arrays[f'{golden.prefix}{prefix}_logits'][rank]).to(logits)
    own = expected < -1e8  # the released code subtracts 1e9 there
    assert torch.equal(logits == -torch.inf, own)
    golden.compare(logits.masked_fill(own, 0), expected.masked_fill(own, 0).cpu().numpy(), 'logits')
    assert head.labels(features[0]).repeat(2).tolist() == golden[f'{prefix}_labels'][rank].tolist()
    golden.check(loss, f'{prefix}_loss', rank)
    golden.check(features.grad, f'{prefix}_grad', rank)


@pytest.mark.golden('c09_simclr*')
def test_nt_xent(golden: Golden) -> None:
    check_pair(golden, 0, 'r1')


@pytest.mark.golden('c09_simclr*')
@pytest.mark.ranks
def test_nt_xent_over_ranks(golden: Golden, tmp_path: Path) -> None:
    world_size = len(golden['in_features'])
    run_ranks(run_rank, world_size, tmp_path, golden, f'r{world_size}')


def run_rank(rank: int, golden: Golden, prefix: str) -> None:
    check_pair(golden, rank, prefix)


@pytest.mark.golden('c13_contrastive*')
def test_pairs(golden: Golden) -> None:
    for i, (temperature, normalize) in enumerate(golden.hp['combos']):
        views = [view.requires_grad_() for view in golden.tensor('in_x')[:2]]
        loss = NTXentHead(temperature)(*(F.normalize(view, dim=1) if normalize else view for view in views))
        golden.check(loss, f'pair_loss_{i}')
        for view, gradient in enumerate(torch.autograd.grad(loss, views)):
            golden.check(gradient, f'pair_grad{view}_{i}')


@pytest.mark.golden('c13_contrastive*')
def test_all_views(golden: Golden) -> None:
    """The whole method, on features as images: BatchNorm over all views, mean over all pairs of views."""
    x = golden.tensor('in_x')
    dim = x.shape[2]
    views: list[Tensor] = [view[:, :, None, None].requires_grad_() for view in x]
    model = SimCLR(
        backbone=dict(type=GoldenFeatures),
        neck=dict(type='MLPNeck', in_dim=dim, hidden_dim=2 * dim, out_dim=dim, last_norm=True, last_affine=True),
        head=dict(type='NTXentHead', temperature=golden.hp['combos'][0][0]),
        num_views=golden.hp['num_views'],
        joint_neck=True,
    ).to(**golden.factory)
    first, _, second, norm = model.neck.layers
    eye = torch.eye(dim, **golden.factory)
    first.weight.data, second.weight.data = torch.cat([eye, -eye]), torch.cat([eye, -eye], 1)  # relu(x) - relu(-x) = x
    torch.nn.init.zeros_(first.bias)
    torch.nn.init.zeros_(second.bias)
    norm.load_state_dict({'weight': golden.tensor('in_bn_weight'), 'bias': golden.tensor('in_bn_bias')}, strict=False)
    loss = model.loss(views)['loss_base']
    golden.check(loss, 'full_loss')
    golden.check(torch.stack(torch.autograd.grad(loss, views))[:, :, :, 0, 0], 'full_grad')
    golden.check(norm.running_mean, 'full_bn_running_mean')
    golden.check(norm.running_var, 'full_bn_running_var')
