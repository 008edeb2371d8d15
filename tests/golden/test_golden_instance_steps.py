"""Whole optimisation steps of CMC, MoCo of the CMC repository, and PIC; LARS; learning rates."""

from collections.abc import Callable, Iterator

import pytest
import torch
from fixtures import Golden, Recorded
from networks import neck_config, our_name

from unmix.engine.optimizers import LARS
from unmix.models import BaseAlgorithm
from unmix.registry import MODELS, PARAM_SCHEDULERS


def cmc_name(name: str) -> str:
    """Our name of ``l_to_ab.t.conv1.weight``, ``ab_to_l.t.fc.weight``."""
    branch, _, rest = name.split('.', 2)
    module, tensor = our_name(rest).split('.', 1)
    return f'backbone.{branch}.{tensor}' if module == 'backbone' else f'neck.necks.{branch == "ab_to_l":d}.{tensor}'


def moco_name(name: str) -> str:
    """Our name of ``t.conv1.weight`` (initial), ``q.t.conv1.weight`` and ``k.t.conv1.weight`` (final)."""
    *encoder, rest = name.split('t.', 1)
    return ('momentum_encoder.' if encoder[0] == 'k.' else '') + our_name(rest)


def pic_name(name: str) -> str:
    """Our name of ``encoder.conv1.weight``, ``sim_matrix``."""
    return 'head.weight' if name == 'sim_matrix' else our_name(name.removeprefix('encoder.'))


def channels(shapes: dict[str, tuple[int, ...]]) -> tuple[int, int, int]:
    return shapes['conv1.weight'][1], shapes['conv1.weight'][0], shapes['conv2.weight'][0]


def build(golden: Golden, config: dict, name: Callable[[str], str]) -> BaseAlgorithm:
    model = MODELS.build(config).to(**golden.factory)
    weights = golden.named('w0_')
    _, unexpected = model.load_state_dict({name(k): torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    assert not unexpected
    given = {name(key) for key in weights}
    assert not [key for key, _ in model.named_parameters() if key not in given and not key.startswith('momentum_')]
    return model


def train(golden: Golden, model: BaseAlgorithm, batches: Iterator[tuple], name: Callable[[str], str]) -> None:
    """Train as recorded; compare totals, the first gradients, and the final weights and buffers."""
    hp = golden.hp
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        parameters, lr=1.0, momentum=hp['sgd_momentum'], weight_decay=hp['weight_decay']
    )  # fmt: skip
    for step, (inputs, index) in enumerate(batches):
        optimizer.param_groups[0]['lr'] = float(golden['lr'][step])
        total = sum(model.loss(inputs, index).values())
        golden.check(total, 'total', step)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
            for key, expected in golden.named(golden.prefix + 'g1_').items():
                golden.compare(gradients[name(key)], expected, f'g1_{key}')
        optimizer.step()
        model.after_step()
    state = model.state_dict()
    for key, expected in golden.named(golden.prefix + 'final_').items():
        golden.compare(state[name(key)], expected, f'final_{key}')


@pytest.mark.golden('c12_step_cmc_nce*', 'c12_step_cmc_softmax*')
def test_cmc_steps(golden: Golden) -> None:
    hp = golden.hp
    shapes = {k.removeprefix('l_to_ab.t.'): v.shape for k, v in golden.named('w0_').items() if k.startswith('l_to_ab')}
    num_instances, dim = golden['in_memory_l0'].shape
    _, *widths = channels(shapes)
    config = dict(
        type='CMC',
        backbone=dict(type='TwoBranch', branch=dict(type='GoldenBranch', widths=widths)),
        neck=dict(type='TwoBranchNeck', neck=neck_config(shapes)),
        head=dict(
            type='CMCHead',
            num_instances=num_instances,
            dim=dim,
            num_negatives=hp['K'],
            temperature=hp['T'],
            momentum=hp['momentum'],
            form='nce' if 'nce' in golden.path.name else 'softmax',
        ),
    )
    model = build(golden, config, cmc_name)
    names = ('l', 'ab')
    for bank, name in zip(model.head.banks, names, strict=True):
        bank.features = golden.tensor(f'in_memory_{name}0')

    def batches() -> Iterator[tuple]:
        for step, images in enumerate(golden.tensor('img_u8')):
            rows = golden.tensor('idx')[step]
            model.head.draw = lambda *_, rows=rows: rows[:, 1:]
            yield [images], golden.tensor('y')[step]

    train(golden, model, batches(), cmc_name)
    for bank, name in zip(model.head.banks, names, strict=True):
        golden.check(bank.features, f'memory_{name}')


@MODELS.register_module(force=True)
class GoldenBranch(MODELS.get('GoldenEncoder')):  # type: ignore[misc]
    """The fixtures' encoder with as many input channels as it is told."""

    def __init__(self, widths: tuple[int, int], in_channels: int) -> None:
        super().__init__((in_channels, *widths))
        self.out_dim = widths[-1]


@pytest.mark.golden('c12_step_cmc_moco*')
def test_moco_of_cmc_steps(golden: Golden) -> None:
    hp = golden.hp
    shapes = {key.removeprefix('t.'): array.shape for key, array in golden.named('w0_').items()}
    queue_size, dim = golden['in_queue0'].shape
    head = dict(type='InfoNCEHead', dim=dim, queue_size=queue_size, temperature=hp['T'])
    if not hp['softmax']:
        head.update(type='QueueNCEHead', num_instances=hp['n_data'], truncate=True)
    config = dict(
        type='MoCo',
        backbone=dict(type='GoldenEncoder', channels=channels(shapes)),
        neck=neck_config(shapes),
        head=head,
        momentum=hp['alpha'],
    )
    model = build(golden, config, moco_name)
    model.momentum_encoder.copy_from(model.backbone, model.neck)
    model.head.queue.features = golden.tensor('in_queue0')

    def batches() -> Iterator[tuple]:
        for step, images in enumerate(golden.tensor('img_u8')):
            draws = Recorded(permutation=[golden['perms'][step]])
            model.generator = lambda *_, draws=draws: draws
            yield list(images.split(images.shape[1] // 2, dim=1)), None

    train(golden, model, batches(), moco_name)
    golden.check(model.head.queue.features, 'queue')


@pytest.mark.golden('c09_step_pic*')
def test_pic_steps(golden: Golden) -> None:
    hp = golden.hp
    shapes = {key.removeprefix('encoder.'): array.shape for key, array in golden.named('w0_').items()}
    config = dict(
        type='PIC',
        backbone=dict(type='GoldenEncoder', channels=channels(shapes)),
        neck=neck_config(shapes),
        head=dict(
            type='PICHead',
            num_instances=hp['num_instances'],
            dim=hp['d'],
            temperature=hp['tau'],
            num_large=hp['num_large'],
        ),
    )
    model = build(golden, config, pic_name)
    crops = [golden.tensor(f'img_u8_{kind}') for kind in ('large', 'small')]

    def batches() -> Iterator[tuple]:
        for step in range(len(golden['ids'])):
            yield [crop for stack in crops for crop in stack[step].unbind(1)], golden.tensor('ids')[step]

    train(golden, model, batches(), pic_name)


@pytest.mark.golden('c09_pic_lars*')
def test_lars(golden: Golden) -> None:
    names = list(golden.named('in_p_'))
    parameters = {name: torch.nn.Parameter(golden.tensor(f'in_p_{name}')) for name in names}
    hp = dict(golden.hp)
    optimizer = LARS(parameters.values(), trust_coefficient=hp.pop('trust_coef'), **hp)
    for step in range(len(golden[f'in_g_{names[0]}'])):
        for name, parameter in parameters.items():
            parameter.grad = golden.tensor(f'in_g_{name}')[step]
        optimizer.step()
        for name, parameter in parameters.items():
            golden.check(parameter, f'p_{name}', step)


def learning_rates(configs: list[dict], lr: float, num: int) -> list[float]:
    """The learning rate of each of ``num`` iterations, or epochs, under several schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(config, optimizer=optimizer)) for config in configs]
    rates = []
    for _ in range(num):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


@pytest.mark.golden('c09_pic_lr_schedule*')
def test_pic_schedule(golden: Golden) -> None:
    for i, hp in enumerate(golden.hp['configs']):
        n = hp['n_iter']
        steps, warmup = hp['epochs'] * n, hp['warmup_epoch'] * n
        if hp['lr_scheduler'] == 'cosine':
            after = dict(type='CosineLR', T_max=steps - warmup, eta_min=1e-6, begin=warmup, end=steps, by_epoch=False)
        else:
            milestones = [epoch * n for epoch in hp['lr_decay_epochs']]
            after = dict(type='MultiStepLR', milestones=milestones, gamma=hp['lr_decay_rate'], by_epoch=False)
        before = dict(type='LinearLR', start_factor=1 / hp['warmup_multiplier'], end=warmup + 1, by_epoch=False)
        lr = hp['base_lr'] * hp['batch'] * hp['world'] / 256
        rates = learning_rates([before, after] if warmup else [after], lr, steps)
        golden.compare(rates, golden[f'lr_{i}'], f'lr_{i}')


@pytest.mark.golden('c12_lr*')
def test_cmc_schedule(golden: Golden) -> None:
    hp = golden.hp
    config = dict(type='MultiStepLR', milestones=hp['milestones'], gamma=hp['rate'])
    golden.compare(learning_rates([config], hp['lr'], hp['epochs']), golden['lr'], 'lr')
