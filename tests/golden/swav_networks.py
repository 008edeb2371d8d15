"""Builds the project's SwAV for a fixture: given features instead of a network, or the fixtures' small network."""

import torch
from fixtures import Golden, Recorded
from networks import GoldenEncoder  # noqa: F401  registers it
from torch import Tensor, nn

from unmix.models import SwAV
from unmix.registry import MODELS


@MODELS.register_module(force=True)
class GoldenRows(nn.Module):
    """Images (N, 1, S, S) whose first pixel is the number of a row: (N, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1, 0, 0]


@MODELS.register_module(force=True)
class GoldenTable(nn.Module):
    """Row numbers (N, 1) to the rows of the features given."""

    rows: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.rows[x[:, 0].long()]


def head_config(golden: Golden) -> dict:
    """The head that the hyper-parameters ask for, queues included."""
    hp = golden.hp
    return dict(
        type='SwAVHead',
        dim=hp['d'],
        num_prototypes=hp['prototypes'],
        temperature=hp['temperature'],
        epsilon=hp['epsilon'],
        sinkhorn_iterations=hp['sinkhorn_iterations'],
        queue_size=hp['queue_length'],
        queue_push='every_call',
        freeze_steps=hp['freeze_prototypes_niters'],
    )


def unmix_config(golden: Golden) -> dict | None:
    """Un-Mix as released, if random draws of mixtures are recorded."""
    if 'r' not in golden:
        return None
    return dict(type='UnMix', lam_policy='chained', mixing=dict(type='RandomMixing', prob=golden.hp['unmix_prob']))


def build_swav(golden: Golden, backbone: dict, neck: dict) -> SwAV:
    """SwAV as released, in the fixture's precision."""
    return MODELS.build(
        dict(
            type='SwAV',
            backbone=backbone,
            neck=neck,
            head=head_config(golden),
            unmix=unmix_config(golden),
            flip_mode='code_only',
        )
    ).to(**golden.factory)


def replay_mixing(model: SwAV, golden: Golden, step: int) -> None:
    """Let the model draw the recorded numbers of one step."""
    if 'r' in golden:
        recorded = Recorded(
            random=[golden['r'][step]], beta=[golden['lam'][step]], integers=golden['cxcy'][step].reshape(-1)
        )
        model.generator = lambda purpose, *key: recorded  # type: ignore[method-assign,assignment]


def record_unmix(model: SwAV) -> dict:
    """Note the share and both terms of Un-Mix of the next steps."""
    record: dict = {}

    def watch(unmix: nn.Module, args: tuple) -> None:
        lam, ((straight, reverse),) = args
        record.update(lam=lam, terms=[straight.sum(), reverse.sum()])

    if model.unmix is not None:
        model.unmix.register_forward_pre_hook(watch)
    return record


def newest_first(model: SwAV, batch_size: int) -> Tensor:
    """The queues (2, L, D) as the released code keeps them: newest batch first, zeros where nothing is yet."""
    queues = []
    for queue in model.head.queues:
        rows = queue.features.roll(-int(queue.pointer), 0)
        rows[: queue.size - int(model.head.queued)] = 0
        queues.append(torch.cat(rows.split(batch_size)[::-1]))
    return torch.stack(queues)
