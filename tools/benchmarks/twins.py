"""Models of the recipes and their literal twins: the same weights, the same random numbers.

The benchmarks time them. The tests compare their losses and gradients.
"""

import copy
from collections.abc import Mapping
from typing import Any

import literal
import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

import unmix.engine  # noqa: F401
from unmix.config import load_config
from unmix.registry import MODELS

RECIPES = dict(
    moco='unmix::moco/unmix-moco-sym_resnet18_1xb512-coslr-1000e_cifar10.py',
    moco_asym='unmix::moco/unmix-moco-asym_resnet18_1xb512-coslr-1000e_cifar10.py',
    simclr='unmix::simclr/unmix-simclr_resnet18_1xb512-steplr-1000e_cifar10.py',
    byol='unmix::byol/unmix-byol_resnet18_1xb512-steplr-1000e_cifar10.py',
    swav='unmix::swav/unmix-swav_resnet26_1xb128-coslr-400e_cifar10.py',
)


def recipe(method: str, width: int = 64, channels_last: bool | int = False, bf16: bool = False) -> Config:
    """The published recipe of a method, on a network of another width, for images that are normalised already."""
    cfg = load_config(RECIPES[method])
    cfg.model.backbone.update(width=width, channels_last=channels_last)
    cfg.model.neck['in_dim'] = cfg.model.neck['in_dim'] * width // 64
    cfg.model.pop('data_preprocessor', None)
    cfg.optim_wrapper.type = 'AutocastOptimWrapper' if bf16 else 'OptimWrapper'
    if method == 'swav':
        cfg.model.head.freeze_steps = 0  # prototypes that learn, as after the first epochs
    return cfg


class Ours:
    """A model of the toolbox and its optimiser, on a device.

    Attributes:
        model: The model.
        wrapper: The wrapper around its optimiser.
    """

    def __init__(self, cfg: Config, device: str = 'cpu') -> None:
        init_default_scope('unmix')
        torch.manual_seed(0)
        self.model: Any = MODELS.build(cfg.model).to(device)
        self.wrapper: OptimWrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.rewind()

    def rewind(self) -> None:
        """Draw mixtures and shuffles from the start, as the literal forms do."""
        draws = dict(mixing=np.random.default_rng(0), shuffle=np.random.default_rng(1))
        self.model.generator = lambda purpose, *key: draws[purpose]

    def train(self, batch: dict[str, Any]) -> None:
        """Take a training step on a batch."""
        self.model.train_step(batch, self.wrapper)
        self.model.after_step()


class Literal:
    """A literal form with the weights of a model, on its device, and the optimiser as its script builds it.

    Args:
        cfg: The recipe.
        ours: The model whose weights it takes over.
        form: The form of :class:`literal.MoCo`.
        bf16: Whether to add autocast in bfloat16, as a user of the script could.
    """

    def __init__(self, cfg: Config, ours: nn.Module, form: str = 'script', bf16: bool = False) -> None:
        self.bf16 = bf16
        weight = next(ours.parameters())
        self.module, self.device = build_literal(cfg.model, form).to(weight), weight.device.type
        self.module.load_state_dict(literal_weights(copy.deepcopy(ours.state_dict()), cfg.model.type))
        settings = dict(cfg.optim_wrapper.optimizer)
        kind = settings.pop('type')
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        if kind == 'LARC':
            self.optimizer: torch.optim.Optimizer = literal.LARC(parameters, settings['lr'], settings['weight_decay'])
        else:
            self.optimizer = getattr(torch.optim, kind)(parameters, **settings)

    def loss(self, views: list[Tensor]) -> Tensor:
        """Return the loss of two views."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss: Tensor = self.module(*views)
            return loss

    def step(self, views: list[Tensor]) -> None:
        """Make a training step."""
        loss = self.loss(views)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        if isinstance(self.module, literal.BYOL):
            self.module.move_target()


def build_literal(model: Mapping[str, Any], form: str) -> Any:
    """Build the literal form of a model's config."""
    backbone, neck, head = model['backbone'], model['neck'], model['head']
    network = dict(depth=backbone['depth'], width=backbone['width'], num_splits=backbone.get('num_splits', 1))
    dims = neck['in_dim'], neck.get('hidden_dim', 0), neck['out_dim']
    prob = ((model.get('unmix') or {}).get('mixing') or {}).get('prob', 0.5)
    if model['type'] == 'MoCo':
        encoder = literal.ResNet(nn.Linear(dims[0], dims[2]), **network)
        return literal.MoCo(
            encoder, form, model['symmetric'], dims[2], head['queue_size'], head['temperature'], model['momentum'], prob
        )
    if model['type'] == 'SwAV':
        encoder = literal.ResNet(literal.mlp(dims), **network, stem_padding=2)
        return literal.SwAV(encoder, dims[2], head['num_prototypes'], flip_mode=model['flip_mode'], prob=prob)
    encoder = literal.ResNet(nn.Identity(), **network)
    if model['type'] == 'SimCLR':
        return literal.SimCLR(encoder, literal.mlp(dims, last_norm=True), head['temperature'], prob)
    predictor = model['predictor']
    outer = predictor['in_dim'], predictor['hidden_dim'], predictor['out_dim']
    return literal.BYOL(encoder, literal.mlp(dims), literal.mlp(outer), model['momentum'], prob)


# Prefixes of names: ours, and those of the literal form.
NAMES: dict[str, dict[str, str]] = {
    'MoCo': {
        'momentum_encoder.backbone.': 'encoder_k.', 'momentum_encoder.neck.fc.': 'encoder_k.fc.',
        'backbone.': 'encoder_q.', 'neck.fc.': 'encoder_q.fc.', 'head.queue.features': 'queue',
    },
    'SwAV': {'backbone.': 'encoder.', 'neck.layers.': 'encoder.fc.', 'head.prototypes.': 'prototypes.'},
    'SimCLR': {'backbone.': 'encoder.', 'neck.layers.': 'head.'},
    'BYOL': {
        'momentum_encoder.backbone.': 'target_encoder.', 'momentum_encoder.neck.layers.': 'target_head.',
        'backbone.': 'encoder.', 'neck.layers.': 'head.', 'predictor.layers.': 'predictor.',
    },
}  # fmt: skip


def literal_weights(tensors: Mapping[str, Tensor], method: str) -> dict[str, Tensor]:
    """Rename tensors of a model's state dict to the names of the literal form, and drop those that it does not have."""
    renamed = {}
    for name, tensor in tensors.items():
        prefix = next(filter(name.startswith, NAMES[method]), None)
        if prefix is not None:
            other = NAMES[method][prefix]
            renamed[other + name.removeprefix(prefix)] = tensor.T if other == 'queue' else tensor
    return renamed
