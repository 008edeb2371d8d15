"""What Un-Mix adds. Shapes: N batch, V crops."""

from typing import Any

import torch
from torch import Tensor

from unmix.mixing import KeptPatches
from unmix.models.algorithms.base import MIXTURE, BaseAlgorithm, View
from unmix.testing.method import MethodUnderTest, Recorded, Unmix, differing, distance, record, replace
from unmix.testing.promises.core import ROUNDING, promise, require


@promise('unmix')
def unmix_leaves_the_base_loss_alone(method: MethodUnderTest, unmix: Unmix) -> None:
    """Un-Mix changes neither loss_base, nor the keys of the state dict, nor the head's state.

    It only weights a regulariser by 1 + loss_weight. With ``every=2`` it changes nothing at all in the second step.
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
    assert mixed.unmix is not None
    for name, value in clean.items():
        base = value * (1 + mixed.unmix.added_weight) if name == 'loss_regulariser' else value
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
