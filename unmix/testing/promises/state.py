"""What moves, and when. Shapes: N batch, V crops."""

from typing import Any

import torch
from torch import Tensor

from unmix.models.heads.base import BaseHead
from unmix.testing.method import MethodUnderTest, Unmix, backward, copied, differing, distance, record, replace, sgd
from unmix.testing.promises.core import ADVICE_COMMIT, ROUNDING, promise, refusal, require


@promise('plain', 'unmix')
def every_parameter_learns(method: MethodUnderTest, unmix: Unmix) -> None:
    """Each parameter that learns in this step gets a finite gradient from finite, scalar losses."""
    model = method.build(unmix)
    losses = model(method.views(), index=method.index, label=torch.zeros(method.batch_size), mode='loss')
    names = {'loss_base', 'loss_unmix'} if unmix else {'loss_base'}
    if type(model.head).regulariser is not BaseHead.regulariser:
        names.add('loss_regulariser')
    require(set(losses) == names, f'losses {sorted(losses)}', f'{sorted(names)}', ADVICE_COMMIT)
    for key, loss in losses.items():
        finite = loss.shape == () and bool(loss.isfinite())
        require(finite, f'{key} is {loss}', 'a finite scalar', 'Let head.forward return a finite mean over samples.')
    backward(losses)
    frozen = set(model.frozen_parameters())
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in frozen:
            seen = 'no gradient' if parameter.grad is None else 'a gradient with NaN or infinity'
            require(
                parameter.grad is not None and bool(parameter.grad.isfinite().all()), f'{key} has {seen}',
                'a finite gradient', f'Use {key} in the loss, call requires_grad_(False) on it, or make it a buffer.',
            )  # fmt: skip


@promise('plain', 'unmix')
def head_forward_is_pure(method: MethodUnderTest, unmix: Unmix) -> None:
    """head.forward returns a scalar and changes nothing: a second call gives the same, and no state moves."""
    model = method.build(unmix)
    seen = record(model)
    method.step(model)
    to_do = (
        'head.forward is called several times in a step. Move queues and banks in head.update, and draw random numbers '
        'by generator(purpose, *self.step.key) of unmix.utils.rng.'
    )
    for i, j in model.pairs:
        query, target = seen.queries[i].detach(), seen.targets[j].detach()
        before = copied(model.head.state_dict())
        first, second = model.head(query, target), model.head(query, target)
        scalar = 'Let head.forward return a mean over samples, of shape ().'
        require(first.shape == (), f'a loss of shape {tuple(first.shape)}', 'a scalar, of shape ()', scalar)
        require(torch.equal(first, second), f'{first.item()!r}, then {second.item()!r}', 'the same value twice', to_do)
        penalties = [model.head.regulariser({i: query, j: target}) for _ in range(2)]
        known = [penalty for penalty in penalties if penalty is not None]
        same = not known or torch.equal(known[0], known[-1])
        require(same, f'a regulariser of {penalties}', 'the same value twice', to_do)
        moved = differing(before, model.head.state_dict())
        require(not moved, f'forward has changed head.{", head.".join(moved)}', 'no change', to_do)


@promise('plain', 'unmix')
def loss_changes_nothing(method: MethodUnderTest, unmix: Unmix) -> None:
    """model.loss changes nothing but BatchNorm's running statistics, and a discarded step leaves no trace."""
    model, untouched = method.build(unmix), method.build(unmix)
    optimizer, others = sgd(model), sgd(untouched)
    method.train(model, optimizer)  # so that the momentum encoder is another one than the encoder
    method.train(untouched, others)
    before = method.state(model)
    method.state(untouched)
    optimizer.zero_grad()
    backward(model.loss(method.views(), method.index))
    moved = differing(method.state(model), before)
    require(
        not moved, f'loss has changed {", ".join(moved)}', 'no change before model.after_step()',
        'Move queues, banks and counters in head.update, prototypes in head.after_step; leave the momentum encoder to '
        'BaseAlgorithm.move_momentum_encoder.',
    )  # fmt: skip
    model.discard_step()
    different = differing(method.train(model, optimizer), method.train(untouched, others))
    different += differing(method.state(model), method.state(untouched))
    require(
        not different, f'after a discarded step, the next one has other values of {", ".join(different)}',
        'the step of a model that has not seen the discarded one',
        'Keep nothing of a loss in attributes; draw random numbers by self.generator(purpose) of the algorithm.',
    )  # fmt: skip


@promise('plain', 'unmix')
def a_step_is_committed_or_discarded(method: MethodUnderTest, unmix: Unmix) -> None:
    """After each loss in training mode comes one after_step or discard_step."""
    model = method.build(unmix)

    def loss() -> object:
        return model.loss(method.views(), method.index)

    once = 'call it once after each loss'
    refusal(model.after_step, RuntimeError, [once], 'after_step without a loss', ADVICE_COMMIT)
    loss()
    again = ['Call model.after_step() after optimizer.step()']
    refusal(loss, RuntimeError, again, 'a second loss without after_step', ADVICE_COMMIT)
    model.after_step(stepped=False)
    refusal(model.after_step, RuntimeError, [once], 'a second after_step', ADVICE_COMMIT)
    with torch.no_grad():
        loss()  # no training, so nothing to commit
    model.eval()
    loss()
    model.train()
    loss()


@promise('plain', 'unmix')
def head_state_moves_in_update(method: MethodUnderTest, unmix: Unmix) -> None:
    """The buffers of the head move in one call of head.update in each micro-batch, and nowhere else."""
    model = method.build(unmix)
    head, update = model.head, model.head.update
    moments: list[dict[str, Tensor]] = []

    def watched(*features: Any) -> None:
        moments.append(copied(dict(head.named_buffers())))
        update(*features)
        moments.append(copied(dict(head.named_buffers())))

    head.enter(method.index)
    start = copied(dict(head.named_buffers()))
    replace(head, update=watched)
    method.step(model)
    require(
        len(moments) == 2, f'{len(moments) // 2} calls of head.update in a step', 'one call',
        'Let BaseAlgorithm.update_head call head.update, once, with the clean queries and targets.',
    )  # fmt: skip
    before, after = moments
    end = dict(head.named_buffers())
    outside = sorted({*differing(start, before), *differing(after, end)})
    require(
        not outside, f'{", ".join(outside)} moved outside of head.update', 'no move outside',
        'Move the buffers of the head in head.update, from its arguments.',
    )  # fmt: skip
    moved, state = differing(before, after), head.state_dict()
    buffers = [key for key in end if key in state]
    if method.moves_with_optimizer:
        require(
            not moved, f'{", ".join(moved)} moved in head.update', 'no move, since moves_with_optimizer=True',
            'Move the buffers in head.after_step, or leave out moves_with_optimizer.',
        )  # fmt: skip
    else:
        require(
            bool(moved) == bool(buffers), f'head.update moved {moved}, and the buffers are {buffers}',
            'that at least one buffer moves, if there are any',
            'Move the state in head.update. Register constants with persistent=False. If the state moves with the '
            'optimiser, in head.after_step, pass moves_with_optimizer=True.',
        )  # fmt: skip


@promise('plain', 'unmix')
def update_gets_the_clean_features(method: MethodUnderTest, unmix: Unmix) -> None:
    """head.update gets queries and targets of the views as the loss has computed them, and no mixture."""
    model, calls = method.build(unmix), []
    update, seen = model.head.update, record(model)

    def watched(queries: dict[Any, Tensor], targets: dict[Any, Tensor]) -> None:
        calls.append((dict(queries), dict(targets)))
        update(queries, targets)

    replace(model.head, update=watched)
    losses = model.loss(method.views(), method.index)
    queries, targets = dict(seen.queries), seen.targets
    backward(losses)
    model.after_step(stepped=False)
    for got_queries, got_targets in calls:
        for kind, got, encoded in (('query', got_queries, queries), ('target', got_targets, targets)):
            for view, tensor in got.items():
                clean = isinstance(view, int) and view in encoded and torch.equal(tensor, encoded[view])
                require(
                    clean and not tensor.requires_grad, f'the {kind} of view {view!r} is another tensor',
                    f'the detached {kind} that the loss has used; views are numbers, the mixture has a name',
                    'In update_head, pass on what after_step gives: only views of model.pairs, not encoded anew.',
                )  # fmt: skip


@promise('plain', 'unmix')
def no_parameter_moves_while_gradients_accumulate(method: MethodUnderTest, unmix: Unmix) -> None:
    """after_step(stepped=False) moves no parameter; head.after_step is called once for each optimiser step."""
    model, calls = method.build(unmix), list[str]()
    head_after_step, optimizer = model.head.after_step, sgd(model)

    def watched() -> None:
        calls.append('after_step')
        head_after_step()

    method.train(model, optimizer)  # so that the momentum encoder is another one than the encoder
    optimizer.zero_grad()
    replace(model.head, after_step=watched)
    backward(model.loss(method.views(), method.index))
    before = copied(dict(model.named_parameters()))
    calls.clear()  # a head may call it in enter
    model.after_step(stepped=False)
    moved = differing(before, dict(model.named_parameters()))
    to_do = 'Move parameters (prototypes, momentum encoder) in head.after_step or move_momentum_encoder only.'
    require(not moved, f'{", ".join(moved)} moved', 'no move of a parameter without an optimiser step', to_do)
    require(not calls, 'head.after_step was called', 'no call without an optimiser step', ADVICE_COMMIT)
    try:
        backward(model.loss(method.views(), method.index))
    except ValueError as error:
        if 'accumulative_counts' in str(error):
            return  # a head may refuse accumulation, by name
        raise
    optimizer.step()
    calls.clear()
    model.after_step()
    require(len(calls) == 1, f'{len(calls)} calls of head.after_step in an optimiser step', 'one call', ADVICE_COMMIT)


@promise('plain', 'unmix')
def momentum_encoder_moves_with_optimizer_steps(method: MethodUnderTest, unmix: Unmix) -> None:
    """The momentum encoder becomes momentum * old + (1 - momentum) * online after each optimiser step, only then."""
    model = method.build(unmix)
    encoder = model.momentum_encoder
    if encoder is None:
        named = [key for key in model.state_dict() if 'momentum' in key]
        require(
            not named, f'model.momentum_encoder is None, and the state dict has {named}', 'no such key',
            'Put the momentum encoder in model.momentum_encoder, a MomentumEncoder; the step moves it.',
        )  # fmt: skip
        return
    optimizer = sgd(model)
    for stepped in (True, False, False, True, True):
        old = copied(dict(encoder.named_parameters()))
        losses = model.loss(method.views(), method.index)
        backward(losses)
        if stepped:
            optimizer.step()
            optimizer.zero_grad()
        early = differing(copied(dict(encoder.named_parameters())), old)
        require(not early, f'{", ".join(early)} moved before after_step', 'no move', ADVICE_COMMIT)
        model.after_step(stepped)
        momentum = encoder.momentum if stepped else 1.0
        online = [*model.backbone.parameters(), *model.neck.parameters()]
        for (key, new), before, weight in zip(encoder.named_parameters(), old.values(), online, strict=True):
            off = distance(new, momentum * before + (1 - momentum) * weight)
            require(
                off <= ROUNDING, f'{key} is off by {off:.2g} after after_step(stepped={stepped})',
                f'{momentum} * old + {1 - momentum} * online weight', 'Give the momentum by current_momentum only.',
            )  # fmt: skip
