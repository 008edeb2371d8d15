"""The plain step: losses, copies, bad input. Shapes: N batch, V crops."""

import copy
import math

import torch

from unmix.testing.method import MethodUnderTest, Unmix, differing, distance, record, sgd, tensors_of, total
from unmix.testing.promises.core import ROUNDING, promise, refusal, require
from unmix.utils.nan_reasons import watching


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
