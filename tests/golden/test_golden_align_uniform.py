"""Alignment and uniformity: the functions, the terms on features, and whole optimisation steps of MoCo."""

import pytest
import torch
from fixtures import Golden, Recorded
from networks import build_moco, expected_state, replay
from torch.nn import functional as F

from unmix.models import AlignUniformHead
from unmix.models.heads import align, uniform


@pytest.mark.golden('c08_align_uniform*')
def test_functions(golden: Golden) -> None:
    hp = golden.hp
    x, y = golden.tensor('in_x').requires_grad_(), golden.tensor('in_y').requires_grad_()
    for i, alpha in enumerate(hp['alphas']):
        golden.check(align(x, y, alpha), 'align', i)
        golden.check(torch.autograd.grad(align(x, y, alpha), x)[0], 'align_grad_x', i)
    for i, t in enumerate(hp['ts']):
        golden.check(uniform(x, t), 'uniform', i)
        golden.check(torch.autograd.grad(uniform(x, t), x)[0], 'uniform_grad_x', i)
    spread = uniform(x, hp['combine_t']) + uniform(y, hp['combine_t'])
    loss = hp['align_w'] * align(x, y, hp['combine_alpha']) + hp['unif_w'] * spread / 2
    golden.check(loss, 'combined')
    for name, gradient in zip('xy', torch.autograd.grad(loss, (x, y)), strict=True):
        golden.check(gradient, f'combined_grad_{name}')


def weights_and_scales(config: dict, weights: tuple[float, float, float]) -> dict:
    """Arguments of the head for a configuration of a fixture: a missing scale turns its term off."""
    contrast, spread, pull = config.get('contr_tau'), config.get('unif_t'), config.get('align_alpha')
    return dict(
        contrast_weight=weights[0] if contrast else 0.0,
        temperature=contrast or 1.0,
        align_weight=weights[1] if pull else 0.0,
        alpha=pull or 2.0,
        uniform_weight=weights[2] if spread else 0.0,
        t=spread or 2.0,
        intra_batch=config.get('unif_intra_batch', True),
    )


@pytest.mark.golden('c08_moco_*')
def test_terms(golden: Golden) -> None:
    queue = golden.tensor('in_queue0').T.contiguous()
    key = F.normalize(golden.tensor('in_k'), dim=1)
    names = dict(contr='contrast', align='align', unif='uniform')
    last = len(golden.hp['configs']) - 1
    for i, config in enumerate(golden.hp['configs']):
        arguments = weights_and_scales(config, golden.hp['combine_weights'] if i == last else (1.0, 1.0, 1.0))
        head = AlignUniformHead(dim=queue.shape[1], queue_size=len(queue), **arguments).to(**golden.factory)
        head.queue.features = queue
        head.queue.pointer.fill_(golden.hp['ptr_init'])
        query = golden.tensor('in_q').requires_grad_()
        unit = F.normalize(query, dim=1)
        terms = head.parts(unit, key)
        expected = golden.arrays[f'{golden.prefix}loss_{i}']
        for value, (theirs, ours) in zip(expected, names.items(), strict=True):
            assert (ours in terms) == (value == value)
            if ours in terms:
                golden.compare(terms[ours], value, f'loss_{i} {theirs}')
                gradient = torch.autograd.grad(terms[ours], query, retain_graph=True)[0]
                golden.check(gradient, f'grad_{theirs}_{i}')
        if i == last:
            golden.check(head(unit, key), f'combined_{i}')
            golden.check(torch.autograd.grad(head(unit, key), query)[0], f'grad_combined_{i}')
            head.update({0: unit}, {1: key})
            golden.check(head.queue.features.T, 'queue')
            assert int(head.queue.pointer) == golden['ptr']


@pytest.mark.golden('c04_step_moco_align_uniform*')
def test_steps(golden: Golden) -> None:
    hp = golden.hp
    config = dict(contr_tau=hp['tau'], align_alpha=hp['alpha'], unif_t=hp['unif_t'])
    arguments = weights_and_scales(config, (hp['contr_w'], hp['align_w'], hp['unif_w']))
    head = dict(arguments, type='AlignUniformHead', intra_batch=hp['unif_intra_batch'])
    model = build_moco(golden, None, momentum=hp['m'], head=head)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=hp['lr'], momentum=hp['sgd_momentum'], weight_decay=hp['weight_decay'])
    for step, images in enumerate(golden.tensor('img_u8')):
        optimizer.param_groups[0]['lr'] = float(golden['lr'][step])
        replay(model, None, Recorded(permutation=[golden['perms'][step]]))
        terms = {}
        model.head.register_forward_hook(lambda head, args, out, terms=terms: terms.update(head.parts(*args)))
        loss = model.loss(list(images))['loss_base']
        golden.check(loss, 'total', step)
        for name, value in zip(
            ('contrast', 'align', 'uniform'), golden.arrays[golden.prefix + 'terms'][step], strict=True
        ):
            assert (name in terms) == (value == value)
            if name in terms:
                golden.compare(terms[name], value, f'terms[{step}] {name}')
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            for name, expected in expected_state(golden, golden.prefix + 'g1_'):
                golden.compare(gradients[name], expected, f'g1_{name}')
        optimizer.step()
        # The release moves the momentum encoder before the keys are encoded: not after the last step.
        model.after_step(stepped=step < len(golden['lr']) - 1)
    state, expected_tensors = model.state_dict(), dict(expected_state(golden, golden.prefix + 'final_'))
    assert expected_tensors.keys() == state.keys()
    for name, array in expected_tensors.items():
        golden.compare(state[name], array, f'final_{name}')
