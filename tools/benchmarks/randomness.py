"""What it costs that a random number is a function of its purpose.

* ``image``: the pipeline of the CIFAR recipes, as a data worker runs it, on batches of images of 32 px. Views hash a
  purpose, from which every number of an image follows. The larger the images, the smaller the share.
* ``batch``: the quickstart's, which takes a whole batch. Each view and transform hashes its purpose, and every number
  is computed from it. This pipeline takes 2 microseconds a view, so the share is large and says little.
* ``step``: a whole training step of the quickstart, its batch included, and the seeding of dropout and the like.

Measured is CPU time, the least of many rounds, since other processes on the machine can only add to it. The last lines
are ``GOAL randomness_share_<image|step> <value> 0.03 PASS|FAIL``.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper

import unmix.engine  # noqa: F401
from unmix.apis import load_config
from unmix.datasets import SampleKey
from unmix.registry import MODELS, TRANSFORMS
from unmix.utils.rng import reseed_step, stream, uniforms

GOAL = 0.03
PER_IMAGE = 'unmix::moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10.py'
PER_BATCH = 'unmix::quickstart/moco_digits.py'
BATCH = 128


def least_us(function: Callable[[], Any], calls: int, rounds: int) -> float:
    """Least microseconds of CPU time a call."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            function()
        times.append(time.process_time() - start)
    return 1e6 * min(times) / calls


def build_pipeline(config: str) -> Any:
    """The training pipeline of a config."""
    return TRANSFORMS.build(load_config(config).train_dataloader.dataset.pipeline)


def per_image(rounds: int) -> tuple[float, float]:
    """Microseconds a batch: of the pipeline, of computing its random numbers."""
    pipeline, index = build_pipeline(PER_IMAGE), np.arange(BATCH)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    keys = [SampleKey(i) for i in range(BATCH)]

    def draw() -> None:
        for view in range(pipeline.num_views):
            uniforms(stream('views', 0, 0, view), index, pipeline.recipe.columns)

    return least_us(lambda: pipeline.batch(images, keys), 20, rounds), least_us(draw, 20, rounds)


def per_batch(rounds: int) -> tuple[float, float]:
    """Microseconds a batch: of the pipeline, of computing its random numbers."""
    pipeline, index = build_pipeline(PER_BATCH), np.arange(BATCH)
    images, keys = torch.rand(BATCH, 1, 16, 16) * 255, [SampleKey(i) for i in range(BATCH)]
    numbers: list[int] = []  # of each transform

    def count(num: int) -> np.ndarray:
        numbers.append(num)
        return uniforms(0, index, num)

    for transform in pipeline.transforms:
        transform.draw(count, images.shape)

    def draw() -> None:
        for view in range(pipeline.num_views):
            for name, num in zip(pipeline.names, numbers, strict=True):
                uniforms(stream('augmentation', 0, 0, view, name), index, num)

    return least_us(lambda: pipeline.batch(images, keys), 20, rounds), least_us(draw, 20, rounds)


def per_step(rounds: int) -> tuple[float, float]:
    """Microseconds a training step, without its batch: of the model, of seeding."""
    cfg = load_config(PER_BATCH)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = dict(inputs=[torch.rand(BATCH, 1, 16, 16) * 255] * 2, index=torch.arange(BATCH))

    def train() -> None:
        model.train_step(batch, wrapper)
        model.after_step()

    step = least_us(train, 5, rounds)
    return step, least_us(lambda: reseed_step(0, 34567, 0), 1000, rounds)


def main() -> None:
    """Measure, print the table and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=30)
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = dict(image=per_image(args.rounds), batch=per_batch(args.rounds))
    model, seeding = per_step(args.rounds)
    rows['step'] = rows['batch'][0] + model, rows['batch'][1] + seeding
    print(f'{"us of CPU time":16}{"whole":>10}{"randomness":>12}{"share":>8}')
    for name, (whole, random) in rows.items():
        print(f'{name:16}{whole:10.1f}{random:12.1f}{random / whole:8.1%}')
    if args.json:
        report: dict[str, Any] = {name: dict(whole_us=a, randomness_us=b) for name, (a, b) in rows.items()}
        report |= dict(goal=GOAL, torch=torch.__version__, machine=platform.platform())
        args.json.write_text(json.dumps(report, indent=2))
    for name in ('image', 'step'):
        share = rows[name][1] / rows[name][0]
        print(f'GOAL randomness_share_{name} {share:.4f} {GOAL} {"PASS" if share <= GOAL else "FAIL"}')


if __name__ == '__main__':
    main()
