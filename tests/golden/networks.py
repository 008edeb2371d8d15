"""Builds the project's MoCo for a fixture: the fixtures' small encoder, their weights, queue and recorded draws."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from fixtures import Golden, Recorded
from torch import Tensor, nn

from unmix.models import MoCo, SplitBatchNorm
from unmix.registry import MIXINGS, MODELS


@MODELS.register_module(force=True)
class GoldenEncoder(nn.Module):
    """conv-bn-relu-conv-bn-relu-pool, the fixtures' TINY encoder without its last layer."""

    def __init__(self, channels: tuple[int, int, int], num_splits: int = 1) -> None:
        super().__init__()
        norm = partial(SplitBatchNorm, num_splits=num_splits) if num_splits > 1 else nn.BatchNorm2d
        self.conv1 = nn.Conv2d(channels[0], channels[1], 3, padding=1, bias=False)
        self.bn1 = norm(channels[1])
        self.conv2 = nn.Conv2d(channels[1], channels[2], 3, stride=2, padding=1, bias=False)
        self.bn2 = norm(channels[2])

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.bn2(self.conv2(x)).relu().mean((2, 3))


@MODELS.register_module(force=True)
class GoldenFeatures(nn.Module):
    """(N, D, 1, 1) to (N, D): features in the place of images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@MIXINGS.register_module(force=True)
class GoldenMixture:
    """Returns the recorded mixture."""

    mixture: Tensor
    lam: float

    def draw(self, rng: object, size: object) -> None:
        return None

    def apply(self, image: Tensor, partner: Tensor, params: None) -> tuple[Tensor, float]:
        return self.mixture, self.lam


def our_name(name: str) -> str:
    """Our name of a parameter: ``fc.weight`` is ``neck.fc.weight``, ``fc.0.weight`` is ``neck.layers.0.weight``."""
    if name.startswith('fc.'):
        rest = name.removeprefix('fc.')
        return f'neck.layers.{rest}' if rest[0].isdigit() else f'neck.fc.{rest}'
    return f'backbone.{name}'


def neck_config(shapes: dict[str, tuple[int, ...]]) -> dict:
    """The neck whose parameters have these shapes: linear, or a perceptron."""
    if 'fc.weight' in shapes:
        out_dim, in_dim = shapes['fc.weight']
        return dict(type='LinearNeck', in_dim=in_dim, out_dim=out_dim)
    hidden_dim, in_dim = shapes['fc.0.weight']
    return dict(type='MLPNeck', in_dim=in_dim, hidden_dim=hidden_dim, out_dim=shapes['fc.2.weight'][0])


def build_moco(
    golden: Golden, unmix: dict | None, symmetric: bool = False, momentum: float = 0.99, head: dict | None = None
) -> MoCo:
    """MoCo with the encoder, weights ``w0_*`` and queue ``in_queue0`` of the fixture."""
    weights = golden.named('w0_')
    shapes = {name: array.shape for name, array in weights.items()}
    channels = (shapes['conv1.weight'][1], shapes['conv1.weight'][0], shapes['conv2.weight'][0])
    dim, queue_size = golden['in_queue0'].shape
    hp = golden.hp
    model = MODELS.build(
        dict(
            type='MoCo',
            backbone=dict(type='GoldenEncoder', channels=channels, num_splits=hp.get('bn_splits', 1)),
            neck=neck_config(shapes),
            head=(head or dict(type='InfoNCEHead', temperature=hp['T'])) | dict(dim=dim, queue_size=queue_size),
            momentum=momentum,
            symmetric=symmetric,
            unmix=unmix,
        )
    ).to(**golden.factory)
    state = {our_name(name): torch.from_numpy(array) for name, array in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name, _ in model.named_parameters() if name in missing and not name.startswith('momentum_')]
    model.momentum_encoder.copy_from(model.backbone, model.neck)
    model.head.queue.features = golden.tensor('in_queue0').T.contiguous()
    model.head.queue.pointer.fill_(int(hp.get('ptr_init', 0)))
    return model


def replay(model: MoCo, mixing: Recorded | None, shuffle: Recorded | None) -> None:
    """Let the model draw the recorded numbers."""
    sources = {'mixing': mixing, 'shuffle': shuffle}
    model.generator = lambda purpose, *key: sources[purpose]  # type: ignore[method-assign,assignment]


def recorded_mixing(golden: Golden, step: int) -> Recorded | None:
    """The mixing draws of one step."""
    if 'r' not in golden:
        return None
    return Recorded(
        random=[golden['r'][step]], beta=[golden['lam'][step]], integers=[golden['cx'][step], golden['cy'][step]]
    )


# Buffers of the released networks that are written once and say nothing about a training: labels of the softmax.
CONSTANTS = {'scalar_label'}


def expected_state(golden: Golden, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """Expected tensors under our names: ``encoder_q.*``, ``encoder_k.*``, ``queue`` (rows are keys), ``queue_ptr``."""
    for name, array in golden.named(prefix).items():
        if name.startswith('encoder_q.'):
            yield our_name(name.removeprefix('encoder_q.')), array
        elif name.startswith('encoder_k.'):
            yield 'momentum_encoder.' + our_name(name.removeprefix('encoder_k.')), array
        elif name == 'queue':
            yield 'head.queue.features', array.T
        elif name == 'queue_ptr':
            yield 'head.queue.pointer', array.reshape(())
        elif name not in CONSTANTS:
            raise KeyError(f'{golden.path.name} has {prefix}{name}, which no tensor of MoCo corresponds to')
