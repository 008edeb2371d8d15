"""Our steps against the published ones written out: the twins that tools/benchmarks/step.py times, in float64."""

import re

import numpy as np
import pytest
import torch
from twins import RECIPES, Literal, Ours, literal_weights, recipe

CASES = [(method, 'script') for method in RECIPES] + [('moco_asym', 'readme'), ('moco_asym', 'plain')]
COUNTED = {('moco', 'script'), ('moco_asym', 'script'), ('moco_asym', 'plain'), ('swav', 'script')}


class Still:
    """Draws one permutation again and again: the README's calls encode the same keys anew."""

    def permutation(self, size):
        return np.arange(size)[::-1].copy()


@pytest.mark.slow
@pytest.mark.parametrize(('method', 'form'), CASES)
def test_same_losses_gradients_and_weights(method, form):
    """Running statistics too, where both count the same passes; symmetric MoCo's recipe replays the second one."""
    cfg = recipe(method, width=4, channels_last=3)
    if 'num_splits' in cfg.model.backbone:
        cfg.model.backbone.num_splits = 2
    if form == 'plain':
        cfg.model.unmix = None
    ours = Ours(cfg)
    model = ours.model.double()
    twin = Literal(cfg, model, form)
    if form == 'readme':
        draws, twin.module.shuffling = dict(mixing=np.random.default_rng(0), shuffle=Still()), Still()
        model.generator = lambda purpose, *key: draws[purpose]
    optimizers = [torch.optim.SGD((p for p in m.parameters() if p.requires_grad), 0.01) for m in (model, twin.module)]
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        views = [torch.randn(16, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2)]
        losses = sum(model.loss(views).values()), twin.loss(views)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        theirs = {name: p.grad for name, p in twin.module.named_parameters() if p.requires_grad}
        compare(dict(literal_weights(gradients, cfg.model.type), loss=losses[0]), dict(theirs, loss=losses[1]))
        for optimizer in optimizers:
            optimizer.step()
        if method == 'byol':
            twin.module.move_target()
        # The released MoCo moves its momentum encoder before the keys are encoded: not after the last step.
        model.after_step(stepped=step == 0 or method == 'byol')
    buffers = ('running_mean', 'running_var') if (method, form) in COUNTED else ()
    state, expected = literal_weights(model.state_dict(), cfg.model.type), twin.module.state_dict()
    kept = [name for name in expected if name.endswith(buffers) or not re.search('running|tracked', name)]
    compare({name: state[name] for name in kept}, {name: expected[name] for name in kept})


@pytest.mark.slow
def test_bfloat16_gradients_point_the_same_way():
    gradients = []
    for bf16 in (False, True):
        ours = Ours(recipe('moco_asym', width=8, channels_last=4, bf16=bf16))
        views = [torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
        with ours.wrapper.optim_context(ours.model):
            loss = sum(ours.model.loss(views).values())
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in ours.model.parameters() if p.requires_grad]))
    assert 0.9 < torch.cosine_similarity(*gradients, dim=0) < 1 - 1e-6


def compare(actual, expected):
    """Relative to the largest magnitude of the tensor, at least 1, as golden numbers are compared."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = (actual[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1)
        assert difference <= 1e-12, f'{name}: {difference}'
