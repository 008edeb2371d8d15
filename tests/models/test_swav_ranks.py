"""SwAV with Un-Mix and queue on two ranks is one process with the gathered batch."""

import torch
from algorithms_under_test import ALGORITHMS
from ranks import run_ranks
from torch import distributed

from unmix.registry import MODELS


def crops(seed, size, sizes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, side, side, dtype=torch.float64, generator=generator) for side in sizes]


def batch_norm_free():
    torch.manual_seed(0)
    config = ALGORITHMS['swav']
    neck, head = dict(config['neck'], norm=False), dict(config['head'], queue_size=8)
    model = MODELS.build(dict(config, neck=neck, head=head, unmix=dict(type='UnMix'))).double()
    for name, module in list(model.backbone.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent, _, child = name.rpartition('.')
            setattr(model.backbone.get_submodule(parent), child, torch.nn.Identity())
    return model


def shares(view):
    """The parts of two ranks, chosen so that partners in the whole batch of 8 are partners in a part."""
    return torch.cat([view[:2], view[6:]]), view[2:6]


def take_steps(model, parts):
    """Three steps, so that the queue is used; the gradients of the last one."""
    for step in range(3):
        model.zero_grad()
        sum(model.loss([parts(crop) for crop in crops(step, 8, (8, 8, 6, 6))]).values()).backward()
    return [parameter.grad for parameter in model.parameters()]


def run_rank(rank, path):
    model = batch_norm_free()
    gradients = take_steps(model, lambda crop: shares(crop)[rank])
    for gradient in gradients:
        distributed.all_reduce(gradient)
    queues = [queue.features for queue in model.head.queues]
    torch.save(([gradient / 2 for gradient in gradients], queues), f'{path}/{rank}.pth')


def test_two_ranks_are_one_process_with_the_gathered_batch(tmp_path):
    run_ranks(run_rank, 2, tmp_path, tmp_path)
    model = batch_norm_free()
    expected = take_steps(model, lambda crop: crop)
    for rank in range(2):
        gradients, queues = torch.load(tmp_path / f'{rank}.pth')
        for gradient, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-12)
        for queue, reference in zip(queues, model.head.queues, strict=True):
            torch.testing.assert_close(queue.sort(0)[0], reference.features.sort(0)[0], rtol=0, atol=1e-12)
