"""PIC: crops, the classes of recent instances, and the correction of weights that are left alone."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from unmix.models import PICHead
from unmix.models.functional import at_a_time
from unmix.models.functional.skipped_steps import Step, StepHistory, skipped_steps
from unmix.models.heads import pic
from unmix.models.memory.recent import RecentInstances
from unmix.registry import MODELS
from unmix.testing.ranks import run_ranks
from unmix.testing.tolerances import assert_same, rounding


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, dtype=torch.float64, generator=generator), dim=-1)


def gradients(head, query, target):
    query = query.clone().requires_grad_()
    head.zero_grad()
    loss = head(query, target)
    loss.backward()
    return loss.detach(), query.grad, head.weight.grad


def test_loss_is_the_formula():
    head = PICHead(7, dim=3, temperature=0.3, num_large=1).double()
    query, target = unit(4, 3, 3), torch.tensor([5, 0, 0, 6])
    total = 0.0
    for crops, label in zip(query, target, strict=True):
        for crop in crops:
            scores = [math.exp((crop @ w / w.norm()).item() / 0.3) for w in head.weight]
            total -= math.log(scores[label] / sum(scores)) / 12
    assert head(query, target).item() == pytest.approx(total, abs=1e-12)


def test_weights_learn_from_large_crops_only():
    """With k of k + k' crops large, they get k / (k + k') of the gradient that they get without the small ones."""
    head = PICHead(9, dim=3, num_large=2).double()
    query, target = unit(4, 5, 3), torch.arange(4)
    _, grad_all, weight = gradients(head, query, target)
    _, grad_large, weight_large = gradients(head, query[:, :2], target)
    bound = rounding(3 + 9 + 4 * 5, 1 / head.temperature)  # a score, its softmax, the sum over all crops
    assert_same(weight, 2 / 5 * weight_large, bound)
    assert_same(grad_all[:, :2], 2 / 5 * grad_large, bound)
    assert grad_all[:, 2:].abs().amin() > 0


def test_gradient_scale_of_the_weights():
    heads = [PICHead(9, dim=3, weight_grad_scale=scale).double() for scale in (1.0, 4.0)]
    heads[1].load_state_dict(heads[0].state_dict())
    query, target = unit(4, 2, 3), torch.arange(4)
    (loss, crops, weight), (scaled_loss, scaled_crops, scaled) = (gradients(head, query, target) for head in heads)
    torch.testing.assert_close(scaled_loss, loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled_crops, crops, rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled, 4 * weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize('options', [
    dict(),
    dict(num_large=3),
    dict(weight_grad_scale=4.0),
    dict(temperature=dict(type='LearnableTemperature', init=0.3)),
    dict(num_recent=6),
], ids=['crops', 'large', 'scale', 'temperature', 'recent'])  # fmt: skip
def test_stored_logits_are_the_chunked_form(monkeypatch, options):
    """Accelerators store the table of logits: losses, and those with ``shared``, are the same, and all gradients."""
    head = PICHead(9, dim=3, **options).double()
    index = torch.tensor([7, 2, 2, 5])
    head.enter(index)
    target, found = head.address(index), []
    for stores in (False, True):
        monkeypatch.setattr(pic, 'in_one_table', lambda numbers, weight, stores=stores: stores)
        query = unit(4, 3, 3).requires_grad_()
        shared = head.shared(query)
        assert shared.shape == ((4, 3, len(head.weight)) if stores else (4, 3))
        straight, reverse = head(query, target, shared), head(query.flip(0), target, shared.flip(0))
        losses = torch.stack([head(query, target), straight, reverse])
        inputs = [query, *head.parameters()]
        gradients = torch.autograd.grad(losses @ exact([1.0, 0.3, 0.7]), inputs)
        found.append([losses.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize('numbers', [1 << 26, 2 * 3000 * 128])
def test_which_tables_are_stored(monkeypatch, numbers):
    """Not on a CPU; elsewhere those of 2^26 numbers, and those that are as large as gradient and momentum."""
    weight = torch.empty(3000, 128)
    if numbers < 1 << 26:
        monkeypatch.setattr(at_a_time, 'ON_ACCELERATORS', 1000)
    assert not at_a_time.in_one_table(1, weight)
    assert at_a_time.in_one_table(numbers, weight.to('meta'))
    assert not at_a_time.in_one_table(numbers + 1, weight.to('meta'))


def test_loss_at_the_start_and_at_best():
    """ln N for equal features; ln(1 + (N - 1) exp(-1 / T)) for orthogonal classes."""
    head = PICHead(64, dim=64, temperature=0.2).double()
    head.weight.data = torch.eye(64, dtype=torch.float64)
    even = F.normalize(torch.ones(3, 1, 64, dtype=torch.float64), dim=2)
    assert head(even, torch.arange(3)).item() == pytest.approx(math.log(64))
    best = head(head.weight.data[:3], torch.arange(3)).item()
    assert best == pytest.approx(math.log(1 + 63 * math.exp(-5)))


def test_unmix_classifies_the_mixture_of_the_first_crop():
    torch.manual_seed(0)
    backbone = dict(type='ResNet', depth=8, width=4, stem='cifar')
    neck = dict(type='LinearNeck', in_dim=16, out_dim=8)
    head = dict(type='PICHead', num_instances=10, dim=8)
    model = MODELS.build(dict(type='PIC', backbone=backbone, neck=neck, head=head, unmix=dict(type='UnMix'))).double()
    crops = [torch.randn(4, 3, size, size, dtype=torch.float64) for size in (12, 8, 8)]
    index, seen = torch.tensor([3, 1, 4, 5]), []
    mix = model.unmix.mix
    model.unmix.mix = lambda *arguments: seen.append(mix(*arguments)) or seen[-1]
    losses = model.loss(crops, index)
    (mixture,), lam = seen[0]
    assert mixture.shape == crops[0].shape
    logits = model.encode(mixture) @ F.normalize(model.head.weight, dim=1).T / 0.2
    expected = lam * F.cross_entropy(logits, index) + (1 - lam) * F.cross_entropy(logits, index.flip(0))
    torch.testing.assert_close(losses['loss_unmix'], expected, rtol=0, atol=1e-12)
    crop_losses = [model.head(model.encode(crop), index) for crop in crops]
    torch.testing.assert_close(losses['loss_base'], torch.stack(crop_losses).mean(), rtol=0, atol=1e-12)


def run_rank(rank, path):
    query, target, head = sharded_case(sharded=True)
    own = slice(3 * rank, 3 * rank + 3)
    torch.save(gradients(head, query[own], target[own]), f'{path}/{rank}.pth')


def sharded_case(sharded):
    torch.manual_seed(0)
    head = PICHead(11, dim=3, num_large=2, sharded=sharded).double()
    return unit(6, 4, 3), torch.tensor([10, 3, 3, 0, 9, 4]), head


@pytest.mark.ranks
def test_sharded_softmax_is_the_whole_one(tmp_path):
    run_ranks(run_rank, 2, tmp_path, tmp_path)
    query, target, head = sharded_case(sharded=False)
    losses, crops, weights = zip(*(torch.load(tmp_path / f'{rank}.pth') for rank in range(2)), strict=True)
    expected = gradients(head, query, target)
    means = sum(losses) / 2, torch.cat(crops) / 2, sum(weights) / 2  # as DDP averages
    for mean, value in zip(means, expected, strict=True):
        torch.testing.assert_close(mean, value, rtol=0, atol=1e-12)
    for rank, weight in enumerate(weights):
        assert not weight[1 - rank :: 2].any()  # the classes of the other rank


# The correction


def exact(x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize(('steps', 'expected'), [
    (0, (1.0, 0.0, 0.0, 1.0)),
    (1, (0.999997, -0.027, 1e-4, 0.9)),
    (10, (9.998758600736e-1, -1.758478167429e-1, 6.512882101590e-4, 3.486071885609e-1)),
    (100, (9.972730607827e-1, -2.693373563161e-1, 9.975457641337e-4, -2.427769780908e-4)),
    (5004, (8.608004128483e-1, -2.324858760740e-1, 8.610588002739e-4, -2.325556616221e-4)),
])  # fmt: skip
def test_closed_form_has_the_known_values(steps, expected):
    power = skipped_steps(torch.tensor([steps]), exact(0.03), exact(1e-4), exact(0.9))
    torch.testing.assert_close(power[:, :, 0].flatten(), exact(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize(('lr', 'decay', 'momentum'), [
    (0.03, 1e-4, 0.9),  # two real roots
    (0.03, 1e-4, 0.999),  # a complex pair
    (1.0, (1 - math.sqrt(0.9)) ** 2, 0.9),  # equal roots
    (0.1, 0.0, 0.9),
    (0.1, 0.01, 0.0),
    (0.1, 0.0, 0.0),
])  # fmt: skip
def test_closed_form_is_the_power(lr, decay, momentum):
    step = exact([[1 - lr * decay, -lr * momentum], [decay, momentum]])
    ages = torch.tensor([0, 1, 2, 3, 17, 400, 36000])
    for t, power in zip(ages, skipped_steps(ages, exact(lr), exact(decay), exact(momentum)).unbind(2), strict=True):
        torch.testing.assert_close(power, torch.linalg.matrix_power(step, int(t)), rtol=0, atol=1e-10)


def schedule(kind, step):
    return {
        'constant': 0.3,
        'steps': 0.3 * 0.1 ** (step // 7),
        'cosine': 0.15 * (1 + math.cos(math.pi * step / 60)),
    }[kind]


@pytest.mark.parametrize('kind', ['constant', 'steps', 'cosine'])
def test_history_is_the_product_of_the_steps(kind):
    history, births, products = StepHistory(max_phases=64), [], []
    for k in range(50):
        births.append((int(history.steps), int(history.phase)))
        products.append(torch.eye(2, dtype=torch.float64))
        lr, decay, momentum = step = Step(schedule(kind, k), 0.01, 0.9)
        history.advance(step)
        matrix = exact([[1 - lr * decay, -lr * momentum], [decay, momentum]])
        products = [matrix @ product for product in products]
    step, phase = torch.tensor(births).T
    torch.testing.assert_close(history.since_step(step, phase).movedim(2, 0), torch.stack(products), rtol=0, atol=1e-12)
    assert int(history.phase) == {'constant': 0, 'steps': 7, 'cosine': 49}[kind]


def test_history_forgets_the_oldest_phases():
    history = StepHistory(max_phases=4)
    for k in range(10):
        history.advance(Step(0.1 + 0.01 * k, 0.01, 0.9))
    ancient, oldest = (history.since_step(torch.tensor([k]), torch.tensor([k])) for k in (0, 6))
    assert torch.equal(ancient, oldest)
    assert not torch.equal(oldest, history.since_step(torch.tensor([7]), torch.tensor([7])))


def test_history_stays_in_float64_and_goes_on_from_a_checkpoint():
    history, twin = StepHistory(8), StepHistory(8)
    for k in range(3):
        history.advance(Step(0.1 * (k // 2 + 1), 0.01, 0.9))
    history.half()
    assert history.since.dtype == history.hyper.dtype == torch.float64
    twin.load_state_dict(history.state_dict())
    for one in (history, twin):
        one.advance(Step(0.2, 0.01, 0.9))
        one.advance(Step(0.3, 0.01, 0.9))
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in history.state_dict().items())
    assert int(twin.phase) == 2


# Recent instances


class Oracle:
    """Dense SGD on a weight for every instance, with a softmax over the recent ones, kept in a plain list."""

    def __init__(self, weight, num_recent, temperature=0.2, **sgd):
        self.weight = torch.nn.Parameter(weight.clone())
        self.optimizer = torch.optim.SGD([self.weight], **sgd)
        self.num_recent, self.temperature, self.recent = num_recent, temperature, []

    def step(self, query, index, lr):
        for instance in dict.fromkeys(index.tolist()):
            if instance in self.recent:
                self.recent.remove(instance)
            self.recent.append(instance)
        self.recent = self.recent[-self.num_recent :]
        classes = torch.tensor(self.recent)
        labels = torch.tensor([self.recent.index(i) for i in index.tolist()])
        logits = query @ F.normalize(self.weight[classes], dim=1).T / self.temperature
        loss = F.cross_entropy(logits, labels)
        self.optimizer.param_groups[0]['lr'] = lr
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def recent_head(num_instances=60, num_recent=16, dim=4, max_phases=512, rows_dir=None, **sgd):
    torch.manual_seed(0)
    rows_dir = rows_dir and str(rows_dir)
    head = PICHead(num_instances, dim, num_recent=num_recent, max_phases=max_phases, rows_dir=rows_dir)
    if rows_dir is None:
        head.double()
    optimizer = torch.optim.SGD(head.parameters(), **sgd)
    head.follow(optimizer)
    return head, optimizer


def backward(head, query, index):
    """The forward and the backward pass of a step, up to the call of the optimiser."""
    head.enter(index)
    target = head.address(index)
    loss = head(query, target)
    loss.backward()
    return loss.detach(), target


def train_step(head, optimizer, query, index, lr):
    optimizer.param_groups[0]['lr'] = lr
    optimizer.zero_grad()
    loss, target = backward(head, query, index)
    optimizer.step()
    optimizer.zero_grad()
    head.update({0: query}, {0: target})
    head.after_step()
    return loss


def batches(num_steps, num_instances=60, size=8, repeat=True, dtype=torch.float64):
    """Features and ids, some of them twice in a batch."""
    generator = torch.Generator().manual_seed(1)
    for step in range(num_steps):
        index = torch.randperm(num_instances, generator=generator)[:size]
        if repeat and step % 3 == 0:
            index[5] = index[1]
        yield unit(size, 4, seed=step).to(dtype), index


SGD = dict(lr=0.3, momentum=0.9, weight_decay=1e-2)


@pytest.mark.parametrize('kind', ['constant', 'steps', 'cosine'])
@pytest.mark.parametrize('momentum', [0.9, 0.0])
def test_recent_classes_are_dense_training_with_the_same_loss(kind, momentum):
    sgd = dict(SGD, momentum=momentum)
    head, optimizer = recent_head(**sgd)
    oracle = Oracle(head.recent.weight, 16, **sgd)
    for k, (query, index) in enumerate(batches(60)):
        lr = schedule(kind, k)
        ours, dense = train_step(head, optimizer, query, index, lr), oracle.step(query, index, lr)
        torch.testing.assert_close(ours, dense, rtol=0, atol=1e-11)
    weight, velocity = head.recent.dense(head.weight)
    torch.testing.assert_close(weight, oracle.weight.detach(), rtol=0, atol=1e-10)
    if momentum:
        expected = oracle.optimizer.state[oracle.weight]['momentum_buffer']
        torch.testing.assert_close(velocity, expected, rtol=0, atol=1e-10)
    assert sorted(head.recent.ids.tolist()) == sorted(oracle.recent)


@pytest.mark.slow
def test_without_the_correction_it_is_another_training():
    head, optimizer = recent_head(**SGD)
    head.recent.history.advance = lambda step: None
    oracle = Oracle(head.recent.weight, 16, **SGD)
    for query, index in batches(60):
        train_step(head, optimizer, query, index, 0.3)
        oracle.step(query, index, 0.3)
    weight, _ = head.recent.dense(head.weight)
    assert (weight - oracle.weight).norm() > 0.1 * oracle.weight.norm()


def test_skipped_optimiser_steps_move_nothing():
    """As a gradient scaler does after an overflow."""
    head, optimizer = recent_head(**SGD)
    oracle = Oracle(head.recent.weight, 16, **SGD)
    for k, (query, index) in enumerate(batches(40)):
        if k % 4 == 1:  # forward and backward, but no step
            head.update({0: query}, {0: backward(head, query, index)[1]})
            optimizer.zero_grad()
            kept, oracle.optimizer.step = oracle.optimizer.step, lambda: None
            oracle.step(query, index, 0.3)
            oracle.optimizer.step = kept
            continue
        train_step(head, optimizer, query, index, 0.3)
        oracle.step(query, index, 0.3)
    weight, _ = head.recent.dense(head.weight)
    torch.testing.assert_close(weight, oracle.weight.detach(), rtol=0, atol=1e-10)


def trained_head(num_recent, rows_dir):
    """A head after 20 steps of 8 instances, and batches that come after them."""
    head, optimizer = recent_head(num_recent=num_recent, rows_dir=rows_dir, **SGD)
    steps = list(batches(24, dtype=head.weight.dtype))
    for k, (query, index) in enumerate(steps[:20]):
        train_step(head, optimizer, query, index, schedule('steps', k))
    return head, optimizer, steps[20:]


def everything(head, optimizer):
    """Copies of all that a step may change: buffers, weights, momentum, and the table outside of the slots."""
    momentum = optimizer.state[head.weight]['momentum_buffer']
    tensors = *head.buffers(), *head.parameters(), momentum, head.recent.weight, head.recent.velocity
    return [tensor.detach().clone() for tensor in tensors]


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


on_disk = pytest.mark.parametrize('on_disk', [False, True])
recent = pytest.mark.parametrize('num_recent', [8, 9, 16])  # a batch has 8 images


@on_disk
@recent
def test_a_second_enter_of_the_same_batch_changes_nothing(tmp_path, on_disk, num_recent):
    head, optimizer, steps = trained_head(num_recent, tmp_path if on_disk else None)
    for _, index in steps:
        before = everything(head, optimizer)
        head.enter(index)
        first = everything(head, optimizer)
        assert not same(before, first)
        head.enter(index)
        assert same(everything(head, optimizer), first)


@on_disk
@recent
def test_discarded_steps_leave_all_weights_and_momenta_bit_for_bit(tmp_path, on_disk, num_recent):
    """The second batch has half of its images from the first, the third is the first again."""
    head, optimizer, steps = trained_head(num_recent, tmp_path if on_disk else None)
    (query, index), (_, other), *_ = steps
    mixed = torch.cat([index[:4], other[~torch.isin(other, index)][:4]])
    assert len(mixed) == 8
    before = [tensor.clone() for tensor in head.recent.dense(head.weight)]
    slots = head.recent.ids.clone()
    for batch in (index, mixed, index, other):
        backward(head, query, batch)
        optimizer.zero_grad()  # as TrainStep.discard does
        assert same(head.recent.dense(head.weight), before)
    assert not torch.equal(head.recent.ids, slots)
    train_step(head, optimizer, query, index, 0.3)
    assert not same(head.recent.dense(head.weight), before)


def test_flush_changes_nothing():
    head, optimizer = recent_head(**SGD)
    for k, (query, index) in enumerate(batches(20)):
        train_step(head, optimizer, query, index, schedule('cosine', k))
    before = head.recent.dense(head.weight)
    for _ in range(2):
        head.recent.flush(head.weight)
        for one, other in zip(head.recent.dense(head.weight), before, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
    outside = head.recent.slots < 0
    torch.testing.assert_close(head.recent.weight[outside], before[0][outside], rtol=0, atol=1e-14)


def test_resumed_equals_uninterrupted():
    head, optimizer = recent_head(**SGD)
    steps = list(batches(30))
    for k, (query, index) in enumerate(steps[:15]):
        train_step(head, optimizer, query, index, schedule('cosine', k))
    twin, twin_optimizer = recent_head(**SGD)
    twin.load_state_dict(copy.deepcopy(head.state_dict()))
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for k, (query, index) in enumerate(steps[15:], start=15):
        for one, by in ((head, optimizer), (twin, twin_optimizer)):
            train_step(one, by, query, index, schedule('cosine', k))
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in head.state_dict().items())


def test_least_recently_seen_leave_first():
    recent = RecentInstances(20, 6, torch.zeros(20, 2))
    weight = torch.nn.Parameter(torch.zeros(6, 2))
    seen = []
    for index in ([1, 2, 3], [4, 1], [5, 6, 7, 5], [3], [8, 9, 10, 11, 12, 13]):
        recent.enter(torch.tensor(index), weight)
        seen = [i for i in seen if i not in index] + list(dict.fromkeys(index))
        seen = seen[-6:]
        assert set(recent.ids.tolist()) - {-1} == set(seen)
        assert recent.ids[recent.slots[index]].tolist() == index
        assert all(recent.slots[i] == (recent.ids.tolist().index(i) if i in seen else -1) for i in range(20))


class Allocated(TorchDispatchMode):
    """Counts the elements of all results that are new tensors."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        given = {id(x) for x in args if isinstance(x, torch.Tensor)}
        storages = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and id(x) not in given and x.untyped_storage().data_ptr() not in storages:
                self.elements += x.numel()
        return result


def test_a_step_does_not_grow_with_the_number_of_instances():
    counts = []
    for num_instances in (100, 100_000):
        head, optimizer = recent_head(num_instances, **SGD)
        for k, (query, index) in enumerate(batches(4, num_instances=100)):
            with Allocated() as allocated:
                train_step(head, optimizer, query, index, schedule('cosine', k))
        counts.append(allocated.elements)
    assert counts[0] == counts[1]
    assert counts[0] < 20_000


@pytest.mark.parametrize(('optimizer', 'message'), [
    (lambda p: torch.optim.Adam(p), 'optimizer is Adam'),
    (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), 'has nesterov or dampening'),
    (lambda p: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), r'does not train model\.head\.weight'),
])  # fmt: skip
def test_other_optimisers_are_refused(optimizer, message):
    head = PICHead(60, 4, num_recent=16)
    with pytest.raises(ValueError, match=message):
        head.follow(optimizer(head.parameters()))


def test_training_without_follow_is_refused():
    head = PICHead(60, 4, num_recent=16).double()
    optimizer = torch.optim.SGD(head.parameters(), **SGD)
    with pytest.raises(RuntimeError, match=r"add dict\(type='InstanceHook'\) to custom_hooks"):
        train_step(head, optimizer, *next(batches(1)), 0.1)


def test_following_twice_counts_each_step_once():
    head, optimizer = recent_head(**SGD)
    head.follow(optimizer)
    for query, index in batches(3):
        train_step(head, optimizer, query, index, 0.1)
    assert head.recent.history.steps == 3


def test_accumulated_gradients_are_refused():
    head, _ = recent_head(**SGD)
    (query, index), (_, other) = batches(2)
    _, target = backward(head, query, index)
    head.update({0: query}, {0: target})
    with pytest.raises(ValueError, match='accumulative_counts > 1'):
        head.enter(other)


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(temperature=-1.0), 'head.temperature is -1'),
    (dict(num_recent=10), 'head.num_recent is 10'),
    (dict(num_recent=4, sharded=True), 'head.sharded is for the softmax over all'),
    (dict(rows_dir='rows'), r"head\.rows_dir is 'rows', but only the rows outside of head\.num_recent"),
])  # fmt: skip
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PICHead(9, **arguments)


def test_batch_larger_than_the_recent():
    with pytest.raises(ValueError, match=r'head\.num_recent is 4, but a batch of all processes has 6'):
        PICHead(9, num_recent=4).enter(torch.arange(6))
