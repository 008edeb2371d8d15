"""No training step reads a tensor on the host, which would make it wait for an accelerator and the accelerator for it.

On the meta device tensors have no values: ``item``, ``tolist``, ``bool``, ``numpy``, ``cpu``, ``nonzero`` and an index
without dimensions are errors there. What reads all the same, outside of this: ``FiniteLossHook`` one flag a step,
behind the backward pass (``LossCheck``); ``HealthHook`` in iterations that are due; MMEngine's ``clip_grad`` the norm,
and ``AmpOptimWrapper`` its scale; ids of instances while they are on the CPU; ``DeepClusterV2`` once a training.
"""

from contextlib import nullcontext

import pytest
import torch
from algorithms_under_test import ALGORITHMS, METHODS, NUM_VIEWS
from mmengine.optim import OptimWrapper

from unmix.engine.optimizers import LARC, LARS
from unmix.registry import MODELS

OPTIMIZERS = {'swav': LARC, 'swav-released': LARC, 'simclr': LARS}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """Switching autocast off on the meta device is an error in PyTorch; it is never on in these tests."""
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())


def train(model, inputs, index, num):
    """Make ``num`` training steps on the meta device."""
    model = model.to('meta')
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS.get(model.key, torch.optim.SGD)(learning, lr=0.1, momentum=0.9, weight_decay=1e-4)
    model.head.follow(optimizer)
    for step in range(num):
        optimizer.param_groups[0]['lr'] = 0.1 / (1 + step)  # each step a phase of its own
        batch = dict(inputs=[view.to('meta') for view in inputs], index=index.to('meta'))
        losses = model.train_step(batch, OptimWrapper(optimizer))
        model.after_step()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize('key', ALGORITHMS)
def test_a_step_with_unmix(key):
    model = MODELS.build(dict(ALGORITHMS[key], unmix=dict(type='UnMix')))
    model.key = key
    inputs, index = [torch.randn(6, 3, 8, 8) for _ in range(NUM_VIEWS.get(key, 2))], torch.arange(6)
    if METHODS[key].prepare is not None:
        METHODS[key].prepare(model, inputs, index, 0)
        model.start_step()
    losses = train(model, inputs, index, num=3 if key == 'pic-recent' else 1)
    assert losses.keys() - {'loss_regulariser'} == {'loss', 'loss_base', 'loss_unmix'}
    assert all(loss.is_meta for loss in losses.values())


def test_a_step_that_reads_is_found():
    model = MODELS.build(dict(ALGORITHMS['simclr']))
    model.key = 'simclr'
    model.start_step = lambda: float(model.neck.layers[0].weight.detach().sum())
    with pytest.raises(RuntimeError, match='cannot be called on meta tensors'):
        train(model, [torch.randn(6, 3, 8, 8) for _ in range(2)], torch.arange(6), num=1)
