"""What the training loop copies to the null GPU in iterations 2 to 5 of a quickstart, with and without prefetching.

python -m tests.nullgpu -m tests.nullgpu.prefetch [METHOD ...]

It prints JSON by method: pairs of numbers, with prefetching and without it.
"""

import json
import sys
import tempfile
from typing import Any

import torch
from mmengine.hooks import Hook

from tests.nullgpu.device import Counted
from unmix.apis import build_runner, load_config

FIRST, LAST = 2, 5


class Watch(Hook):
    """Counts from the end of iteration FIRST - 1 to the end of iteration LAST; it notes the ids and what hooks get."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.counted = Counted()
        self.seen: list[list[int]] = []
        self.on_host = True

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if batch_idx == FIRST - 1:
            self.counted.__enter__()
        if FIRST <= batch_idx <= LAST:
            self.seen.append(data_batch['index'].tolist())
            self.on_host &= all(view.is_pinned() for view in data_batch['inputs'])
        if batch_idx == LAST:
            self.counted.__exit__()


def train(method: str, prefetch: bool, folder: str) -> dict[str, Any]:
    """Train for an epoch of seven iterations; return what was counted in four of them."""
    stages = {f'{phase}_{part}': None for phase in ('val', 'test') for part in ('cfg', 'dataloader', 'evaluator')}
    options = {'train_dataloader.num_batch_per_epoch': LAST + 2, 'train_cfg.max_epochs': 1, **stages}
    options |= {'default_hooks.health.interval': 100, 'param_scheduler': []}
    cfg = load_config(f'unmix::quickstart/unmix-{method}_digits', options | {'train_cfg.prefetch': prefetch})
    cfg.work_dir, cfg.launcher, cfg.experiment_name = folder, 'none', f'{method}_{prefetch}'
    runner, watch = build_runner(cfg), Watch()
    runner.register_hook(watch)
    runner.train()
    counted = watch.counted
    return dict(
        aside=counted.calls['aside'],
        pageable=counted.calls['pageable'],
        waits=dict(counted.waits),
        seen=watch.seen,
        on_host=watch.on_host,
    )


def main() -> None:
    torch.set_num_threads(1)
    results = {}
    for method in sys.argv[1:] or ['moco', 'swav']:
        with tempfile.TemporaryDirectory() as folder:
            results[method] = [train(method, prefetch, folder) for prefetch in (True, False)]
    print(json.dumps(results))


if __name__ == '__main__':
    main()
