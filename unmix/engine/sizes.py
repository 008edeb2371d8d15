"""Sizes in the config that do not fit each other: parts of a model, images, data set, batch, schedules."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any, cast

from mmengine.dist import get_world_size
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from unmix.config.check import dicts, find_type
from unmix.datasets.samplers import KeySampler
from unmix.engine.schedulers import WarmupLR
from unmix.models.algorithms import BaseAlgorithm, Classifier
from unmix.utils.dist import unwrap
from unmix.utils.sizes import LEAST_STEPS, TRIAL, Misfit, Sizes, batch_sizes, epochs_for

KEYS = ('in_channels', 'in_dim', 'out_dim', 'dim')
_MISFIT = re.compile(r'shapes cannot be multiplied|to have \d+ channels|must match the size|size mismatch')


@contextmanager
def sizes_explained(runner: Runner | FlexibleRunner) -> Iterator[None]:
    """Turn torch's error about shapes into one that names the sizes in the config.

    Raises:
        ValueError: In the place of such an error.
    """
    try:
        yield
    except ValueError as error:
        if 'Expected more than 1 value per channel' not in str(error):
            raise
        raise ValueError(
            f'BatchNorm has one value a channel only, and needs more: {error}. Let train_dataloader.batch_size be 2 or '
            'more, also for the last batch of an epoch (train_dataloader.drop_last=True).'
        ) from error
    except RuntimeError as error:
        if not _MISFIT.search(str(error)):
            raise
        sizes = [f'model.backbone gives {width}'] if (width := _width(runner.model)) else []
        sizes += [f'{key}={value}' for key, value in _sizes(runner.cfg.get('model'), 'model')]
        raise ValueError(
            f'The parts of the model do not fit each other or the images: {str(error).strip().splitlines()[-1]}. Make '
            f'each size that of what comes before: {", ".join(sizes)}'
        ) from error


def check_sizes(runner: Runner | FlexibleRunner, dataloader: DataLoader[Any], batch: int | None, epochs: int) -> None:
    """Check batch, head and sampler against the training data; warn about what serves no purpose.

    The message has one set of options that fit together, so that a run with them has neither this error nor a warning.

    Args:
        runner: The Runner, with its model.
        dataloader: Training data.
        batch: Images of a batch, of this process; None if the batch sampler does not tell.
        epochs: Number of epochs.

    Raises:
        ValueError: If there is not one whole batch, or the head cannot be trained with these sizes.
    """
    images, world = len(cast(Sized, dataloader.dataset)), get_world_size()
    sampler = getattr(dataloader.batch_sampler, 'sampler', dataloader.sampler)
    drawn = min(images, len(sampler) * world) if isinstance(sampler, KeySampler) else images
    dim = ((runner.cfg.get('model') or {}).get('neck') or {}).get('out_dim')
    found = misfits_of(
        unwrap(runner.model), sampler, images, drawn, batch, world, dataloader.drop_last, len(dataloader), epochs, dim
    )
    if found is None:
        return
    if found[1]:
        raise ValueError(found[0])
    runner.logger.warning(found[0])


def misfits_of(
    model: Any,
    sampler: Any,
    images: int,
    drawn: int,
    batch: int | None,
    world: int,
    drop_last: bool,
    batches: int,
    epochs: int,
    dim: int | None,
) -> tuple[str, bool] | None:
    """Return what does not fit in the sizes of a training, with the advice, and whether it is impossible so.

    Args:
        model: The model.
        sampler: The sampler.
        images: Images of the training set.
        drawn: Images of an epoch, of all processes.
        batch: Images of a batch of a process; None if it is not known.
        world: Number of processes.
        drop_last: Whether an incomplete batch is left out.
        batches: Batches of an epoch of a process.
        epochs: Number of epochs.
        dim: Width of the features, if it is known.
    """
    parts: list[Any] = [model.head] if isinstance(model, BaseAlgorithm) else []
    parts += [sampler] if isinstance(sampler, KeySampler) else []
    found: list[Misfit] = []
    enough = batches > 0 and (batch is None or not drop_last or batch * world <= drawn)
    if not enough:
        share = f'{drawn} images' + (f', {drawn // world} for each of {world} processes' if world > 1 else '')
        source = 'the training data set' if drawn == images else f'an epoch of {type(sampler).__name__}'
        reason = f'train_dataloader.batch_size is {batch}, but {source} has only {share}: not one whole'
        found.append(Misfit(f'{reason} batch', fatal=True))
    if batch is None:
        return None

    def steps(size: int) -> int:
        """Return the steps of an epoch with another batch."""
        return drawn // (size * world) if drop_last else -(-drawn // (size * world))

    def sizes(size: int) -> Sizes:
        total = size * world if drop_last else min(size * world, max(drawn, 1))
        seen = drawn // total * total if drop_last else drawn
        return Sizes(images, total, seen, epochs * -(-seen // total), dim)

    now = sizes(batch)._replace(iterations=epochs * max(batches, 1))
    found += [misfit for part in parts for misfit in part.misfits(now)]
    short = bool(parts) and enough and epochs >= TRIAL and now.iterations < LEAST_STEPS // 2
    if short:
        found.append(
            Misfit(
                f'The training has only {now.iterations} steps, train_cfg.max_epochs={epochs} epochs of '
                f'{max(batches, 1)}, in which features hardly get better than those of random weights'
            )
        )
    if not found:
        return None
    least = [size for size in batch_sizes(drawn, world, batch) if size < batch]
    candidates = [*([batch] if enough and not (short and 4 * batch * world > drawn) else []), *least]
    size, changes = fitting(parts, sizes, candidates) or (batch, None)
    options: dict[str, Any] = {}
    if changes is not None:
        smaller = {'train_dataloader.batch_size': size} | splits_for(getattr(model, 'backbone', None), size)
        options = (smaller if size < batch else {}) | changes
        if epochs >= TRIAL and (more := epochs_for(steps(size), epochs)) > epochs:
            options['train_cfg.max_epochs'] = more
    words = ' '.join(f'{key}={value}' for key, value in options.items())
    advice = f'These sizes fit {drawn} images: --cfg-options {words}' if words else 'More images are needed.'
    text = f'{". ".join(misfit.reason for misfit in found)}. {advice}'
    return text, any(misfit.fatal for misfit in found)


def fitting(
    parts: Sequence[Any], sizes: Callable[[int], Sizes], candidates: Iterable[int]
) -> tuple[int, dict[str, int]] | None:
    """Return the first batch size with which all parts of a training can be, and the options that they need for it.

    Args:
        parts: Head, and sampler if it is one of this project.
        sizes: The sizes of the training, by the batch size of a process.
        candidates: Batch sizes, the one that is wanted first.
    """
    for size in candidates:
        changes = [part.suitable(sizes(size)) for part in parts]
        if None not in changes:
            return size, {key: value for change in changes for key, value in change.items()}
    return None


def splits_for(backbone: Any, size: int) -> dict[str, int]:
    """Return the option for groups of BatchNorm of at least 2 images each, if those of a backbone are smaller."""
    splits = getattr(backbone, 'num_splits', 1)
    fits = size % splits == 0 and size >= 2 * splits
    return {} if fits else {'model.backbone.num_splits': max(size // 2, 1)}


def check_schedules(runner: Runner | FlexibleRunner, epochs: int, iterations: int) -> None:
    """Check that each schedule of the config begins, and ends its warm-up, within the training.

    Raises:
        ValueError: If one does not; it names the option that mends it.
    """
    for path, node in dicts({'param_scheduler': runner.cfg.get('param_scheduler')}):
        if 'type' not in node:
            continue
        by_epoch = node.get('by_epoch', True) or node.get('convert_to_iter_based', False)
        unit, length = ('epochs', epochs) if by_epoch else ('iterations', iterations)
        begin, end = node.get('begin', 0), node.get('end', length)
        kind = find_type(node['type'])[0]
        in_iterations = inspect.isclass(kind) and issubclass(kind, WarmupLR)
        if 'begin' in node and 'end' not in node and begin >= end:
            raise ValueError(
                f'{path}.begin is {begin} {unit}, but the training has only {length}: the schedule never begins. '
                f'--cfg-options {_begin_at(path, max(length // 10, 1), begin, runner)}'
            )
        warmup, rest = node.get('warmup', 0), iterations if in_iterations else end - begin
        if warmup and warmup >= rest:
            raise ValueError(
                f'{path}.warmup is {warmup} {"iterations" if in_iterations else unit}, but the training has only '
                f'{rest}: it would end before the warm-up does. --cfg-options {path}.warmup={rest // 10}'
            )


def _begin_at(path: str, place: int, begin: int, runner: Runner | FlexibleRunner) -> str:
    """Return the options by which a schedule begins at ``place``, and those before it, until ``begin``, end there."""
    schedules = dicts({'param_scheduler': runner.cfg.get('param_scheduler')})
    before = [f'{other}.end={place}' for other, node in schedules if node.get('end') == begin]
    return ' '.join([f'{path}.begin={place}', *before])


def check_num_instances(num_instances: int, num_images: int) -> None:
    """Check that a head with one row for each training image has enough of them.

    Raises:
        ValueError: If the data set has more images than the head has instances.
    """
    if num_images > num_instances:
        raise ValueError(
            f'model.head.num_instances is {num_instances}, but the training data set has {num_images} images: '
            f'--cfg-options model.head.num_instances={num_images}'
        )


def _width(model: Any) -> int | None:
    model = unwrap(model)
    backbone = model.backbone if isinstance(model, BaseAlgorithm | Classifier) else None
    return getattr(backbone, 'out_dim', None)  # backbones of others may not say


def _sizes(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """Keys below ``node`` that are sizes, in the order of the config."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in KEYS and isinstance(value, int):
                yield f'{path}.{key}', value
            yield from _sizes(value, f'{path}.{key}')
