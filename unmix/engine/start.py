"""All ranks of a training begin alike."""

import hashlib
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.runner import FlexibleRunner, Runner
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from unmix.utils.dist import host_group, unwrap

# Statistics of BatchNorm are those of a rank.
_OF_RANK = ('running_mean', 'running_var', 'running_cov', 'num_batches_tracked')


def collective_timeout(cfg: Any) -> float | None:
    """Return ``env_cfg.dist_cfg.timeout`` of a config in seconds; None where it has none."""
    return ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')


def check_start(runner: Runner | FlexibleRunner) -> None:
    """Check that all ranks have one seed, and equal weights and buffers; open the helper group with the time-out.

    Random numbers that all ranks need, such as the permutation of shuffled BatchNorm, are drawn by each rank from the
    seed, and queues and banks are filled alike, so ranks that begin with others would diverge without an error. DDP
    compares shapes of parameters only, and with ``broadcast_buffers=False`` it never sends buffers. A model that is
    divided among the ranks (FSDP) has its seed checked only.

    Raises:
        ValueError: On all ranks, if one of them begins with something else.
    """
    if get_world_size() == 1:
        return
    own: dict[str, Any] = {'randomness.seed': runner.seed}
    if isinstance(runner.model, DistributedDataParallel):
        own |= digests(unwrap(runner.model))
    reports: list[Any] = [None] * get_world_size()
    distributed.all_gather_object(reports, own, group=host_group(collective_timeout(runner.cfg)))
    names = [name for name in own if any(report.get(name) != own[name] for report in reports)]
    if not names:
        return
    ranks = [rank for rank, report in enumerate(reports) if report != reports[0]]
    some = ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
    raise ValueError(
        f'The processes do not begin alike: {some} on rank {", ".join(map(str, ranks))}, other than on rank 0. '
        'Give all of them the same randomness.seed (and no randomness.diff_rank_seed) and the same '
        'checkpoint file, and build the model from the seed alone.'
    )


def digests(model: nn.Module) -> dict[str, str]:
    """Return a hash of each weight and buffer, buffers that are not saved included, by name."""
    tensors = dict(model.state_dict()) | dict(model.named_buffers())
    return {name: _digest(tensor) for name, tensor in tensors.items() if not name.endswith(_OF_RANK)}


def _digest(tensor: Tensor) -> str:
    data: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(data, digest_size=8).hexdigest()
