"""The NCCL backend between ranks on the null GPU: collectives with their results, and training steps with DDP.

python -m tests.nullgpu --ranks 2 -m tests.nullgpu.ranks
"""

import datetime
import json
import os
from typing import Any

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import distributed

from tests.nullgpu.device import Counted, integers_on_host
from tests.nullgpu.steps import empty_batch
from unmix.config import load_config
from unmix.engine.step import TrainStep
from unmix.registry import MODELS
from unmix.utils.rng import reseed_step

METHODS = ('moco', 'moco-align-uniform', 'simclr', 'byol', 'wmse', 'swav', 'instdisc', 'pic', 'cmc')


def check_collectives(rank: int, ranks: int) -> None:
    """Compare the results of collectives with what they are by definition.

    Raises:
        AssertionError: If they differ, or NCCL takes a tensor on the CPU.
    """
    own, objects = torch.tensor([rank + 1.0]), ['x' * (1 + r) for r in range(ranks)]
    for operation, expected in ((distributed.ReduceOp.SUM, ranks * (ranks + 1) / 2), (distributed.ReduceOp.MAX, ranks)):
        reduced = own.cuda()
        distributed.all_reduce(reduced, operation)
        assert reduced.item() == expected
    sent = own.cuda()
    distributed.broadcast(sent, 0)
    assert sent.item() == 1
    distributed.all_reduce(torch.empty(20_000_000, device='cuda'))  # more than a slot: in pieces
    found: list[Any] = [None] * ranks
    distributed.all_gather_object(found, objects[rank])
    assert found == objects
    found = [objects[rank]]
    distributed.broadcast_object_list(found, 0)
    assert found == objects[:1]
    with pytest.raises(RuntimeError, match='cpu'):
        distributed.all_reduce(torch.ones(2))


def train(method: str, rank: int) -> dict[str, int]:
    """Take two steps of a method with Un-Mix; return the number of collectives in each, and of waits in the second."""
    name = f'quickstart/unmix-{method}_digits'
    cfg = load_config(f'unmix::{name}')
    model = MODELS.build(cfg.model).to('cuda').train()
    model = MMDistributedDataParallel(model, device_ids=[rank], broadcast_buffers=False)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.initialize_count_status(model, 0, 100)
    model.module.head.follow(wrapper.optimizer)
    step = TrainStep(model, wrapper)
    step.start_watching()
    for number in range(2):
        with Counted() as counted:
            reseed_step(0, number, rank)
            step.run(empty_batch(cfg, name))
        assert step.failed is None
    return dict(nccl=counted.calls['nccl'], **counted.waits)


def main() -> None:
    """Check, train and print what was counted as JSON, by method."""
    rank, ranks = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    torch.set_num_threads(1)
    torch.cuda.set_device(rank)
    init_default_scope('unmix')
    distributed.init_process_group('nccl', timeout=datetime.timedelta(seconds=60))
    results = {method: train(method, rank) for method in METHODS}
    integers_on_host()  # sizes of objects
    check_collectives(rank, ranks)
    print(json.dumps(results))


if __name__ == '__main__':
    main()
