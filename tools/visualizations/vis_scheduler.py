"""Draw the learning rate of a config over its training, and print its first, highest and last value.

python tools/visualizations/vis_scheduler.py unmix::quickstart/unmix-moco_digits.py --out lr.png
python tools/visualizations/vis_scheduler.py NAME --iterations 5004 --cfg-options train_cfg.max_epochs=100

--iterations is the number of training steps of an epoch. Without it the data set is read, to count its images; they are
those of one process.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope

from unmix.apis.command import argument_parser, configure, picture_file, run_tool
from unmix.engine.loader import build_dataloader
from unmix.registry import PARAM_SCHEDULERS
from unmix.utils.files import atomic_path
from unmix.visualization.figure import new_figure


def learning_rates(
    lr: float, schedules: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None, epochs: int, iterations: int
) -> list[float]:
    """Return the rate of each training step.

    Args:
        lr: Rate of the optimiser.
        schedules: ``param_scheduler`` of a config.
        epochs: Of the training.
        iterations: Training steps of an epoch.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    built: list[Any] = []
    for cfg in [schedules] if isinstance(schedules, Mapping) else schedules or []:
        end = epochs if cfg.get('by_epoch', True) else epochs * iterations  # the Runner's default
        arguments = dict(optimizer=optimizer, epoch_length=iterations)
        built.append(PARAM_SCHEDULERS.build({'end': end} | dict(cfg), default_args=arguments))
    rates = []
    for step in range(1, epochs * iterations + 1):
        rates.append(float(optimizer.param_groups[0]['lr']))
        optimizer.step()
        for schedule in built:
            if not schedule.by_epoch or step % iterations == 0:
                schedule.step()
    return rates


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument('--out', type=picture_file, default='lr.png', metavar='FILE', help='default: %(default)s')
    parser.add_argument('--iterations', type=int, help='training steps of an epoch (default: those of the data set)')
    args = parser.parse_args()
    if args.iterations is not None and args.iterations < 1:
        raise ValueError(f'--iterations is {args.iterations}; expected 1 or more.')
    cfg = configure(args)
    init_default_scope(cfg.default_scope)
    epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    lr = (cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('lr')
    if epochs is None or lr is None:
        raise ValueError(f'{cfg.filename} has no train_cfg.max_epochs, or no optim_wrapper.optimizer.lr.')
    iterations = args.iterations or len(build_dataloader(cfg.train_dataloader))
    rates = learning_rates(lr, cfg.get('param_scheduler'), epochs, iterations)
    name = Path(cfg.filename).stem
    _draw([step / iterations for step in range(len(rates))], rates, name, args.out)
    highest = max(range(len(rates)), key=rates.__getitem__)
    print(f'{name}: {epochs} epochs of {iterations} steps')
    for what, step in (('first', 0), ('highest', highest), ('last', len(rates) - 1)):
        print(f'{what:8} {rates[step]:.6g} in step {step + 1}, epoch {step // iterations + 1}')
    print(args.out)


def _draw(epochs: Sequence[float], rates: Sequence[float], name: str, out: str) -> None:
    figure = new_figure(figsize=(6, 3.5), layout='constrained')
    axes = figure.add_subplot(title=name, xlabel='epoch', ylabel='learning rate')
    axes.plot(epochs, rates)
    axes.grid(alpha=0.3)
    with atomic_path(out) as path:
        figure.savefig(path, dpi=120)


if __name__ == '__main__':
    run_tool(main)
