"""``compile`` compiles the networks of a method once, not anew for each step, and changes no number."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithms_under_test import METHODS
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn

from unmix.engine.device import compile_networks, networks
from unmix.engine.step import TrainStep
from unmix.models import BaseAlgorithm
from unmix.testing import MethodUnderTest
from unmix.testing.method import sgd
from unmix.testing.ranks import run_ranks
from unmix.utils.dist import unwrap

STEPS, EPOCH = 6, 3  # steps 2 to 5, of two epochs, are those that must find everything compiled
FORMS = [None, dict(type='UnMix')]


class Compiler:
    """A backend that compiles nothing and counts the graphs that it is asked for."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@contextmanager
def clock() -> Iterator[MessageHub]:
    """Give the message hub, in which a Runner writes the number of the iteration."""
    torch._dynamo.reset()
    hub = MessageHub.get_instance('compiled')
    try:
        yield hub
    finally:
        MessageHub._instance_dict.pop('compiled')


def train(method: MethodUnderTest, model: Any, compiler: Compiler, rank: int = 0) -> tuple[list[int], list[Any]]:
    """Take steps as the training loop does; return the number of new graphs in each, and the losses."""
    core: BaseAlgorithm = unwrap(model)
    optimizer = sgd(core)
    core.head.follow(optimizer)
    step = TrainStep(model, OptimWrapper(optimizer))
    step.start_watching()
    graphs, losses = [], []
    views = [view.roll(rank, 0) for view in method.views()]
    with clock() as hub:
        for number in range(STEPS):
            for key, value in dict(iter=number, epoch=number // EPOCH, max_iters=STEPS, max_epochs=2, seed=0).items():
                hub.update_info(key, value)
            if method.prepare is not None and number % EPOCH == 0:
                method.prepare(core, views, method.index, number // EPOCH)
            optimizer.param_groups[0]['lr'] = 0.1 / (1 + number)  # a schedule
            before = compiler.graphs
            outputs = step.run(dict(inputs=views, index=method.index))
            graphs.append(compiler.graphs - before)
            losses.append({name: loss.detach().clone() for name, loss in outputs.items()})
    step.close()
    return graphs, losses


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


def check(key: str, unmix: Any) -> None:
    method = METHODS[key]
    plain, compiled, compiler = method.build(unmix), method.build(unmix), Compiler()
    names = list(plain.state_dict())
    assert compile_networks(compiled, dict(backend=compiler))
    graphs, losses = train(method, compiled, compiler)
    assert graphs[0] >= 1
    assert graphs[1:] == [0] * (STEPS - 1)
    _, expected = train(method, plain, Compiler())
    for own, other in zip(losses, expected, strict=True):
        assert_equal(own, other)
    assert list(compiled.state_dict()) == names  # so checkpoints go both ways
    assert_equal(compiled.state_dict(), plain.state_dict())
    fresh = method.build(unmix)
    fresh.load_state_dict(compiled.state_dict())
    compiled.load_state_dict(plain.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize('key', METHODS)
def test_steps_with_unmix_find_everything_compiled(key: str) -> None:
    check(key, FORMS[1])


@pytest.mark.slow
@pytest.mark.parametrize('key', ['swav', 'moco-symmetric', 'wmse'])
def test_plain_steps_find_everything_compiled(key: str) -> None:
    check(key, FORMS[0])


@pytest.mark.slow
@pytest.mark.parametrize('key', ['swav', 'moco-symmetric', 'byol'])
def test_whoever_compiles_the_whole_step_compiles_it_once(key: str) -> None:
    """MMEngine's way: ``train_step``. The second step may compile the optimiser, which has its state then."""
    method, compiler = METHODS[key], Compiler()
    model: Any = method.build(FORMS[1])
    model.train_step = torch.compile(model.train_step, backend=compiler)
    graphs, _ = train(method, model, compiler)
    assert graphs[2:] == [0] * (STEPS - 2)


@pytest.mark.slow
def test_crops_of_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second size makes the graph one of any size; a third one needs no other."""
    method = METHODS['swav']
    views = [view for size in (16, 8, 12) for view in MethodUnderTest(method.config, 2, image_size=size).views()]
    monkeypatch.setattr(MethodUnderTest, 'views', lambda self: views)
    model, compiler = method.build(FORMS[1]), Compiler()
    compile_networks(model, dict(backend=compiler))
    graphs, _ = train(method, model, compiler)
    assert graphs == [3, 0, 0, 0, 0, 0]  # two of the backbone, one of the neck


@pytest.mark.slow
def test_a_hook_of_a_compiled_network_is_called() -> None:
    """OnlineProbeHook listens to the backbone, in steps that it chooses."""
    method, seen, compiler = METHODS['simclr'], [], Compiler()
    model = method.build()
    compile_networks(model, dict(backend=compiler))
    model.backbone(method.views()[0])
    wanted = [True]
    handle = model.backbone.register_forward_hook(lambda module, args, output: wanted and seen.append(output.detach()))
    output = model.backbone(method.views()[0])
    assert torch.equal(seen[0], output)
    wanted.clear()
    model.backbone(method.views()[0])
    handle.remove()
    model.backbone(method.views()[0])
    assert len(seen) == 1


def test_the_networks_of_a_method() -> None:
    def names(key: str) -> set[str]:
        model = METHODS[key].build()
        found = [id(network) for network in networks(model)]
        return {name for name, module in model.named_modules() if id(module) in found}

    assert names('simclr') == {'backbone', 'neck'}
    twin = {'momentum_encoder.backbone', 'momentum_encoder.neck'}
    assert names('byol') == {'backbone', 'neck', 'predictor'} | twin
    assert names('cmc') == {'backbone', 'neck'}
    assert not compile_networks(nn.Linear(2, 2), {})


@pytest.mark.parametrize(('options', 'reason'), [
    (dict(mode='fast'), 'fast'), (dict(mode='default', options={}), 'mode'),
    pytest.param(dict(backend='inductr'), 'inductr', marks=pytest.mark.slow),
])  # fmt: skip
def test_options_that_pytorch_does_not_have(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf'compile is .*, which torch\.compile refuses: .*{reason}'):
        compile_networks(METHODS['simclr'].build(), options)


def _on_rank(rank: int, key: str) -> None:
    torch.set_num_threads(1)
    method, compiler = METHODS[key], Compiler()
    results = []
    for compiled in (True, False):
        model = MMDistributedDataParallel(method.build(FORMS[1]), device_ids=None, broadcast_buffers=False)
        if compiled:
            compile_networks(model, dict(backend=compiler))
        graphs, losses = train(method, model, compiler, rank)
        assert graphs[1:] == [0] * (STEPS - 1), graphs
        assert (graphs[0] > 0) == compiled
        results.append((losses, model.module.state_dict()))
    for own, other in zip(*(losses for losses, _ in results), strict=True):
        assert_equal(own, other)
    assert_equal(*(state for _, state in results))


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize('key', ['swav', 'moco-symmetric'])
def test_with_distributed_data_parallel(key: str, tmp_path: Path) -> None:
    run_ranks(_on_rank, 2, tmp_path, key)
