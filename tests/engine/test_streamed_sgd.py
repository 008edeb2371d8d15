"""SGD with a gradient in parts, against SGD with the same gradient as a tensor."""

import pytest
import torch
from torch.nn import functional as F

from unmix.engine.optimizers import StreamedSGD
from unmix.mixing import UnMix
from unmix.models import PICHead

SGD = dict(lr=0.5, momentum=0.9, weight_decay=0.01)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, dtype=torch.float64, generator=generator), dim=-1)


def literal(weight, encoder, crops, target, lam):
    """PIC with Un-Mix as written: all weights normalised, tables of logits, cross-entropy."""

    def head(query, labels, learns):
        rows = F.normalize(weight if learns else weight.detach(), dim=1)
        return F.cross_entropy(query @ rows.T / 0.2, labels, reduction='sum') / query.shape[0]

    queries = F.normalize(crops @ encoder.T, dim=2)
    base = sum(head(query, target, v == 0) for v, query in enumerate(queries.unbind(1))) / queries.shape[1]
    mixture = queries[:, 0].roll(1, 0)
    return base + lam * head(mixture, target, True) + (1 - lam) * head(mixture.flip(0), target, True)


def streamed(head, encoder, crops, target, lam):
    queries = F.normalize(crops @ encoder.T, dim=2)
    mixture = queries[:, :1].roll(1, 0)
    return head(queries, target) + UnMix()(mixture, lam, [target], head, shared=head.shared(mixture))


def test_steps_are_those_of_dense_sgd():
    """Two micro-batches a step, a learning rate that changes, a step whose gradients are dropped."""
    torch.manual_seed(0)
    head, encoder = PICHead(700, dim=4, num_large=1).double(), torch.randn(4, 4, dtype=torch.float64).requires_grad_()
    weight, other = head.weight.detach().clone().requires_grad_(), encoder.detach().clone().requires_grad_()
    ours, theirs = StreamedSGD([head.weight, encoder], **SGD), torch.optim.SGD([weight, other], **SGD)
    head.follow(ours)
    for step in range(4):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]['lr'] = 0.5 / (step + 1)
            optimizer.zero_grad()
        for micro in range(2):
            crops, target = unit(6, 3, 4, seed=2 * step + micro), torch.randint(700, (6,))
            losses = streamed(head, encoder, crops, target, 0.3), literal(weight, other, crops, target, 0.3)
            torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
            for loss in losses:
                loss.backward()
        assert head.weight.grad is None
        if step != 2:
            ours.step()
            theirs.step()
        torch.testing.assert_close(head.weight, weight, rtol=0, atol=1e-12)
        torch.testing.assert_close(encoder, other, rtol=0, atol=1e-12)
    velocities = (optimizer.state[w]['momentum_buffer'] for optimizer, w in ((ours, head.weight), (theirs, weight)))
    torch.testing.assert_close(*velocities, rtol=0, atol=1e-12)


def test_state_goes_to_plain_sgd_and_back():
    head = PICHead(9, dim=3)
    ours = StreamedSGD(head.parameters(), **SGD)
    head.follow(ours)
    head(unit(2, 3).float(), torch.tensor([0, 8])).backward()
    ours.step()
    plain = torch.optim.SGD(head.parameters(), **SGD)
    plain.load_state_dict(ours.state_dict())
    ours.load_state_dict(plain.state_dict())
    assert ours.state[head.weight]['momentum_buffer'].any()


def test_a_head_that_was_not_told_has_a_dense_gradient():
    head = PICHead(9, dim=3)
    before = head.weight.detach().clone()
    ours = StreamedSGD(head.parameters(), **SGD)
    head(unit(2, 3).float(), torch.tensor([0, 8])).backward()
    assert head.weight.grad.shape == before.shape
    ours.step()
    torch.testing.assert_close(head.weight, before - 0.5 * (head.weight.grad + 0.01 * before))


def test_what_is_not_plain_sgd_is_refused():
    with pytest.raises(ValueError, match=r'optim_wrapper\.optimizer has nesterov'):
        StreamedSGD([torch.zeros(2, requires_grad=True)], nesterov=True, **SGD)
