"""What every method promises, with and without Un-Mix: one function for each promise. Shapes: N batch, V crops."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.mixing import KeptPatches
from unmix.models.algorithms.base import MIXTURE, BaseAlgorithm, View
from unmix.models.heads.base import BaseHead
from unmix.testing.method import (
    MethodUnderTest,
    Recorded,
    Unmix,
    backward,
    copied,
    differing,
    distance,
    record,
    replace,
    sgd,
    tensors_of,
    total,
)
from unmix.utils.nan_reasons import watching

ROUNDING = 1e-12  # of float64, for features of unit length and the losses of a small batch
ADVICE_COMMIT = 'Do not override BaseAlgorithm.loss or after_step; override the methods that they call.'


class Promise(NamedTuple):
    """A promise, and the forms of a method that it is checked for.

    Attributes:
        check: Raises AssertionError if the promise is broken.
        forms: ``'plain'``, ``'unmix'`` or both.
    """

    check: Callable[[MethodUnderTest, Unmix], None]
    forms: tuple[str, ...]


PROMISES: dict[str, Promise] = {}


def promise(*forms: str) -> Callable[[Callable[[MethodUnderTest, Unmix], None]], Callable[..., None]]:
    """Enter a function in :data:`PROMISES` under its own name."""

    def enter(check: Callable[[MethodUnderTest, Unmix], None]) -> Callable[..., None]:
        PROMISES[check.__name__] = Promise(check, forms)
        return check

    return enter


def require(condition: bool, seen: str, expected: str, to_do: str) -> None:
    """Raise AssertionError unless ``condition`` holds."""
    if not condition:
        raise AssertionError(f'  seen: {seen}\n  expected: {expected}\n  to do: {to_do}')


def refusal(call: Callable[[], object], kind: type[Exception], parts: Sequence[str], what: str, to_do: str) -> None:
    """Require that ``call`` raises ``kind`` with a message that has all ``parts``."""
    expected = f'{what} raises {kind.__name__} with a message that has {" and ".join(map(repr, parts))}'
    try:
        call()
    except kind as error:
        require(all(part in str(error) for part in parts), f'{kind.__name__}: {error}', expected, to_do)
        return
    require(False, 'no error', expected, to_do)


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


@promise('plain')
def terms_add_up_to_forward(method: MethodUnderTest, unmix: Unmix) -> None:
    """head.terms(query, head.prepare(target), head.shared(query)).sum() is head.forward(query, target)."""
    model = method.build(unmix)
    seen, head = record(model), model.head
    method.step(model)
    to_do = 'Let forward return the sum of terms; use shared and prepare as a saving only.'
    for i, j in model.pairs:
        query, target = seen.queries[i].detach(), seen.targets[j].detach()
        forward, prepared = head(query, target), head.prepare(target)
        for how, shared in (('without shared', None), ('with shared', head.shared(query))):
            off = distance(head.terms(query, prepared, shared).sum(), forward)
            require(off <= ROUNDING, f'terms {how} add up to a value that is off by {off:.2g}', f'{forward}', to_do)


@promise('plain')
def shared_is_row_wise(method: MethodUnderTest, unmix: Unmix) -> None:
    """head.shared(query).flip(0) is head.shared(query.flip(0)), and the loss of either is the same."""
    model = method.build(unmix)
    seen, head = record(model), model.head
    method.step(model)
    to_do = 'Return rows in shared that depend on their own query only, sample first; or None.'
    for i, j in model.pairs:
        query, target = seen.queries[i].detach(), seen.targets[j].detach()
        shared = head.shared(query)
        if shared is None:
            continue
        reverse, turned, anew = query.flip(0), shared.flip(0), head.shared(query.flip(0))
        off = max(map(distance, tensors_of(turned), tensors_of(anew)), default=math.inf)
        require(off <= ROUNDING, f'shared of the reverse is off by {off:.2g}', 'that of the query, reversed', to_do)
        prepared = head.prepare(target)
        off = distance(head.terms(reverse, prepared, turned).sum(), head(reverse, target))
        require(off <= ROUNDING, f'the loss with the reversed shared is off by {off:.2g}', 'that of forward', to_do)


@promise('plain')
def encoder_commutes_with_reversal(method: MethodUnderTest, unmix: Unmix) -> None:
    """Encoding the reversed batch gives the reversed encodings, so Un-Mix encodes the mixture once."""
    model = method.build(unmix)
    view = method.views()[0]
    off = distance(model.encode(view).flip(0), model.encode(view.flip(0)))
    require(
        off <= ROUNDING, f'the features of the reversed batch are off by {off:.2g}', 'those of the batch, reversed',
        'Use layers that treat the samples alike: per sample, or with statistics of the whole batch; no dropout.',
    )  # fmt: skip


@promise('unmix')
def unmix_leaves_the_base_loss_alone(method: MethodUnderTest, unmix: Unmix) -> None:
    """Un-Mix changes neither loss_base, nor a regulariser, nor the keys of the state dict, nor the head's state.

    With ``every=2`` it changes nothing at all in the second step.
    """
    plain, mixed = method.build(), method.build(unmix)
    keys = sorted(plain.state_dict().keys() ^ mixed.state_dict().keys())
    require(not keys, f'{keys} are in one of the state dicts only', 'the same keys', 'Add no state for Un-Mix.')
    clean, all_terms = method.step(plain), method.step(mixed)
    allowed = 0.0
    if method.joint_batch_norm:
        require(
            not torch.equal(clean['loss_base'], all_terms['loss_base']), 'Un-Mix left loss_base alone',
            'another value in training mode, since joint_batch_norm=True', 'Leave out joint_batch_norm.',
        )  # fmt: skip
        plain, mixed, allowed = method.build().eval(), method.build(unmix).eval(), ROUNDING
        clean, all_terms = method.step(plain), method.step(mixed)
    for name, base in clean.items():
        both = all_terms[name]
        require(
            distance(base, both) <= allowed, f'{name} is {both.item()!r} with Un-Mix', f'{base.item()!r}, as without',
            'Let nothing of the mixture enter the queries, targets, regulariser and draws of the views. If BatchNorm '
            'normalises the mixture together with the views by design, pass joint_batch_norm=True.',
        )  # fmt: skip
    state = mixed.head.state_dict()
    moved = [key for key, value in plain.head.state_dict().items() if distance(value, state[key]) > allowed]
    require(
        not moved, f'with Un-Mix head.{", head.".join(moved)} is another one after a step', 'the state as without',
        'Move the head by the clean features only, not by the mixture.',
    )  # fmt: skip
    plain, mixed = method.build(), method.build(dict(unmix or {}, every=2))
    plain._steps_done = mixed._steps_done = 1  # noqa: SLF001  a Runner tells the number
    different = differing(method.step(plain), method.step(mixed))
    require(
        not different, f'with every=2 {", ".join(different)} of the second step is another one', 'the plain step',
        'Let nothing but the mixture depend on Un-Mix.',
    )  # fmt: skip


FORMS: tuple[dict[str, Any], ...] = (
    dict(pairs='once'), dict(partner='random'), dict(partner='random', shares='sample'), dict(replace=True),
    dict(patch_drop=0.5),
)  # fmt: skip


def _forms_are_the_equation(method: MethodUnderTest, unmix: Unmix) -> None:
    """Un-Mix in another form (pairs, partners, shares, fewer patches ...) is its equation, or refused by name."""
    for form in FORMS:
        named = ', '.join(f'{key}={value!r}' for key, value in form.items())
        try:
            model = method.build(dict(unmix or {}, mixing=dict(type='Mixup'), **form))
            seen = record(model)
            losses = model.loss(method.views(), method.index)
        except ValueError as error:
            require(
                'model.unmix.' in str(error), f'{named} is refused by {str(error)!r}', 'a message that names the key',
                'Raise ValueError in check_unmix, and name the key of model.unmix and what to set it to.',
            )  # fmt: skip
            continue
        if not method.literal_unmix:
            continue
        expected = _literal(model, seen)
        for name, value in expected.items():
            off = distance(losses[name], value)
            require(
                off <= ROUNDING, f'{name} is {losses[name].item()!r} with {named}', f'{value.item()!r}',
                'Ask self.partners, where match_mixture or another method of yours reverses the batch.',
            )  # fmt: skip


def _literal(model: BaseAlgorithm, seen: Recorded) -> dict[str, Tensor]:
    """Return the losses of a step from its encodings; which images are in a mixture is read from its pixels."""
    assert model.unmix is not None
    head, lam, query, unmix = model.head, seen.lam, seen.queries[MIXTURE], model.unmix
    view, mixture = (x[0] if isinstance(x, list | tuple) else x for x in (seen.views[0], seen.mixture))
    mixture = mixture.images if isinstance(mixture, KeptPatches) else mixture
    share = torch.as_tensor(lam, dtype=view.dtype).flatten()
    share = (share if len(share) == len(mixture) else share[:1].expand(len(mixture)))[:, None]
    rest = (mixture.flatten(1) - share * view.flatten(1)[: len(mixture)]) / (1 - share)
    partner = torch.cdist(rest, view.flatten(1)).argmin(1)

    def mixed(queries: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        (q, p), (t, u) = queries, map(head.prepare, targets)
        if unmix.shares == 'batch':
            return (lam * head.terms(q, t) + (1 - lam) * head.terms(p, u)).sum()
        own, other = head.each(q, t), head.each(p, u)[partner]
        for losses, whole in ((own, head.terms(q, t)), (other, head.terms(p, u))):
            off = distance(losses.mean(), whole.sum())
            require(
                off <= ROUNDING, f'the mean of head.each is off by {off:.2g}', 'the loss', 'Let each be its losses.'
            )
        return (lam * own + (1 - lam) * other).mean()

    pairs, weight = model.mixture_pairs, model.mixture_weight
    if unmix.replace:
        pairs, weight = tuple((MIXTURE, j) for i, j in model.pairs if i == 0), model.pair_weight
    whole, terms = len(query) == len(view), []
    for i, j in pairs:
        half = slice(len(query))
        if i == MIXTURE:
            target = seen.target_of_mixture(j)
            if whole:
                terms.append(mixed((query, query[partner.argsort()]), (target, target)))
            else:
                terms.append(mixed((query, query), (target[half], target[partner])))
        else:
            learner, target = seen.queries[i], seen.targets[MIXTURE]
            if whole:
                terms.append(mixed((learner, learner), (target, target[partner.argsort()])))
            else:
                terms.append(mixed((learner[half], learner[partner]), (target, target)))
    losses = dict(loss_unmix=unmix.loss_weight * weight * torch.stack(terms).sum())
    clean = [head(seen.queries[i], seen.targets[j]) for i, j in model.pairs if i in seen.queries]
    if clean:
        losses['loss_base'] = model.pair_weight * torch.stack(clean).sum()
    return losses


@promise('unmix')
def unmix_is_the_equation(method: MethodUnderTest, unmix: Unmix) -> None:
    """loss_unmix is the sum over the targets t of lam * head(q, t) + (1 - lam) * head(flip(q), t).

    With other forms of Un-Mix, where the method does not refuse them, it is the equation of that form.
    """
    _forms_are_the_equation(method, unmix)
    model = method.build(unmix)
    assert model.unmix is not None
    seen, head = record(model), model.head
    losses = model.loss(method.views(), method.index)
    lam, query = seen.lam, seen.queries[MIXTURE]
    # A share for each crop weights the terms of that crop.
    loss = head if isinstance(lam, float) else lambda q, t: head.terms(q, head.prepare(t))
    terms = []
    for i, j in model.mixture_pairs:
        if i == MIXTURE:
            target = seen.target_of_mixture(j)
            terms.append((lam * loss(query, target) + (1 - lam) * loss(query.flip(0), target)).sum())
        else:
            target = seen.targets[MIXTURE]
            terms.append(
                (lam * loss(seen.queries[i], target) + (1 - lam) * loss(seen.queries[i], target.flip(0))).sum()
            )
    expected = model.mixture_weight * model.unmix.loss_weight * torch.stack(terms).sum()
    off = distance(losses['loss_unmix'], expected)
    if method.literal_unmix:
        require(
            off <= ROUNDING, f'loss_unmix is {losses["loss_unmix"].item()!r}, with lam = {lam}', f'{expected.item()!r}',
            'Override match_mixture only to save work, and weight the terms in order by lam. If the method departs '
            'from the equation by design, pass literal_unmix=False.',
        )  # fmt: skip
    else:
        require(
            off > ROUNDING, 'loss_unmix is the equation', 'another value, since literal_unmix=False',
            'Leave out literal_unmix.',
        )  # fmt: skip


@promise('unmix')
def lam_of_one_gives_the_plain_loss(method: MethodUnderTest, unmix: Unmix) -> None:
    """With lam = 1 the mixture is view 0, and loss_unmix the plain loss of its pairs.

    A method with a ``mixture_loss`` of its own, which is of no pairs, does not promise this.
    """
    model = method.build(dict(unmix or {}, mixing=dict(type='CutMix')))
    assert model.unmix is not None
    if type(model).mixture_loss is not BaseAlgorithm.mixture_loss:
        return
    replace(model.unmix.mixing, draw=lambda *_: (1.0, 0, 0))
    seen = record(model)
    losses = model.loss(method.views(), method.index)
    view, query, whole = seen.views[0], seen.queries[0], True
    if not isinstance(view, Tensor):
        mixed = [seen.mixture] if isinstance(seen.mixture, Tensor) else seen.mixture
        crops = [i for crop in mixed for i, clean in enumerate(view) if torch.equal(crop, clean)]
        require(
            len(crops) == len(mixed), 'mixtures that are no crop of view 0', 'crops of view 0',
            'Let mix return mixtures of crops of view 0.',
        )  # fmt: skip
        query, whole = query[:, crops], len(crops) == len(view)
    queries: dict[Any, Tensor] = seen.queries | {MIXTURE: query}
    targets: dict[View, Tensor] = {j: target for j, target in seen.targets.items() if j != MIXTURE}
    if MIXTURE in {j for _, j in model.mixture_pairs}:
        targets[MIXTURE] = model.encode_target(view, None, None)
    terms = [model.head(queries[i], targets[j]) for i, j in model.mixture_pairs]
    to_do = 'Encode the mixture as view 0 is encoded, and let mixture_pairs put it in the place of view 0.'
    expected = model.mixture_weight * model.unmix.loss_weight * torch.stack(terms).sum()
    off = distance(losses['loss_unmix'], expected)
    seen_loss = f'loss_unmix is {losses["loss_unmix"].item()!r}'
    require(off <= ROUNDING, seen_loss, f'{expected.item()!r}, the loss of the pairs', to_do)
    pairs = {tuple(0 if name == MIXTURE else name for name in pair) for pair in model.mixture_pairs}
    if pairs == set(model.pairs) and whole:
        base = model.unmix.loss_weight * losses['loss_base']
        off = distance(losses['loss_unmix'], base)
        require(off <= ROUNDING, seen_loss, f'{base.item()!r}, loss_base', 'Set mixture_weight to pair_weight.')


@promise('unmix')
def number_of_encodings(method: MethodUnderTest, unmix: Unmix) -> None:
    """A step with Un-Mix takes as many forward passes as the argument encodings says; the mixture takes one."""
    if method.encodings is None:
        return
    model = method.build(unmix)
    calls = dict(backbone=0, momentum_encoder=0)
    model.backbone.register_forward_hook(lambda *_: calls.update(backbone=calls['backbone'] + 1))
    if model.momentum_encoder is not None:
        model.momentum_encoder.backbone.register_forward_hook(
            lambda *_: calls.update(momentum_encoder=calls['momentum_encoder'] + 1)
        )
    method.step(model)
    require(
        tuple(calls.values()) == method.encodings, f'{tuple(calls.values())} passes of (backbone, momentum encoder)',
        f'{method.encodings}', 'Encode each view, and the mixture, once: use the query that encode_target gets.',
    )  # fmt: skip


@promise('unmix')
def draws_differ_from_step_to_step(method: MethodUnderTest, unmix: Unmix) -> None:
    """Each step draws a mixture of its own."""
    model = method.build(unmix)
    seen, shares = record(model), []
    for _ in range(3):
        method.step(model)
        shares.append(tuple(torch.as_tensor(seen.lam).flatten().tolist()))
    require(
        len(set(shares)) == 3, f'lam is {shares} in three steps', 'three shares that differ',
        "Draw by self.generator('purpose'), a function of seed and step, not by a generator that is made anew.",
    )  # fmt: skip


@promise('plain', 'unmix')
def a_copy_goes_on_bit_for_bit(method: MethodUnderTest, unmix: Unmix) -> None:
    """Another model that takes over the state dicts takes the same optimiser steps, bit for bit."""
    model, twin = method.build(unmix), method.build(unmix, seed=1)
    own, others = sgd(model), sgd(twin)
    method.train(model, own)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    others.load_state_dict(copy.deepcopy(own.state_dict()))
    twin.step, twin._steps_done = model.step, model._steps_done  # noqa: SLF001  a Runner tells the number
    to_do = 'Keep all state in buffers and parameters, not in plain attributes: register_buffer, nn.Parameter.'
    for step in (1, 2):
        different = differing(method.train(model, own), method.train(twin, others))
        require(
            not different, f'step {step} after the copy has another {", ".join(different)}', 'the same value', to_do
        )
    different = differing(model.state_dict(), twin.state_dict())
    require(not different, f'{", ".join(different)} differ after 2 steps', 'the same state', to_do)


@promise('plain', 'unmix')
def nan_comes_to_light(method: MethodUnderTest, unmix: Unmix) -> None:
    """NaN in an image makes the loss NaN or infinite, so that the step can be left out."""
    model, views = method.build(unmix), method.views()
    views[0][0, 0, 0, 0] = math.nan
    with watching():
        loss = total(model.loss(views, method.index))
    require(
        not bool(loss.isfinite()), f'a loss of {loss.item()!r}', 'NaN or infinity',
        'Do not replace NaN in the loss (nan_to_num, clamp, masks); a training with FiniteLossHook deals with it.',
    )  # fmt: skip


@promise('plain', 'unmix')
def wrong_index_is_refused(method: MethodUnderTest, unmix: Unmix) -> None:
    """A head with num_instances refuses a batch without index or with ids outside; others need no index."""
    model = method.build(unmix)
    instances = model.head.num_instances
    if instances is None:
        loss = model.loss(method.views())['loss_base']
        require(bool(loss.isfinite()), f'{loss} without index', 'a finite loss', 'Set num_instances in the head.')
        return
    to_do = 'Let encode_target call check_index(index, head.num_instances) of unmix.models.heads.instances.'
    refusal(
        lambda: model.loss(method.views()),
        ValueError,
        ['no `index`', 'Let the data set'],
        'a batch without index',
        to_do,
    )
    for start in (-1, instances - method.batch_size + 1):
        ids = torch.arange(start, start + method.batch_size)
        parts = [
            f'ids from {start} to {start + method.batch_size - 1}, but model.head.num_instances is {instances}: '
            'set it to the number'
        ]
        refusal(lambda ids=ids: model.loss(method.views(), ids), ValueError, parts, f'{ids.tolist()}', to_do)  # type: ignore[misc]


@promise('plain')
def modes_of_forward(method: MethodUnderTest, unmix: Unmix) -> None:
    """model(view) gives backbone features (N, D), stage 'neck' unit rows; another mode or stage is refused."""
    model = method.build(unmix).eval()
    view, size = method.views()[0], method.batch_size
    features, to_do = model(view), 'Do not override forward and extract_feat; give the backbone an attribute out_dim.'
    shape = size, model.backbone.out_dim
    require(tuple(features.shape) == shape, f'features of shape {tuple(features.shape)}', f'{shape}', to_do)
    same = torch.equal(features, model.extract_feat(view))
    require(same, 'model(view) is not model.extract_feat(view)', 'the same features', to_do)
    projection = model.extract_feat(view, stage='neck')
    off = distance(projection.norm(dim=1), torch.ones(size, dtype=projection.dtype))
    require(off <= 1e-7, f'rows of stage neck whose length is off by {off:.2g}', 'unit length', to_do)
    refusal(lambda: model(view, mode='train'), ValueError, ["mode is 'train'"], "mode='train'", to_do)
    refusal(lambda: model.extract_feat(view, stage='head'), ValueError, ["stage is 'head'"], "stage='head'", to_do)
