"""Counts the images in whose place a training took others, because they cannot be read."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from unmix.engine.protocol_card import add_to_results
from unmix.engine.skipped import INFO, described, name_of, skips
from unmix.registry import HOOKS

WARNINGS = 20  # images that a rank warns of at once; the report at the end has all


@HOOKS.register_module()
class SkipHook(Hook):
    """With ``dataset.broken='skip'``, count for each image how often another one took its place.

    The images of a batch that the sampler asked for and the data set did not give are those that were skipped, so the
    count is of the steps taken, whatever workers have read ahead. It is in checkpoints, in a line of the log at the end
    of the run, and in ``results.json``, ``skipped.train``. :class:`TrainLoop` owns this hook.

    Raises:
        ValueError: If the sampler has no order of its own, batches have no ``index``, or there are fewer images than
            a batch has.
    """

    priority = 'LOW'

    def __init__(self) -> None:
        self._own: Counter[str] = Counter()  # since the ranks last added up
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Compare the batch with what the sampler asked for."""
        loader = runner.train_dataloader
        if self._epoch != runner.epoch:
            self._epoch, self._order = runner.epoch, loader.batch_sampler.sampler.order(runner.epoch)
        size = loader.batch_sampler.batch_size
        asked = self._order[batch_idx * size : (batch_idx + 1) * size]
        given = np.asarray(data_batch['index'].cpu())
        if np.array_equal(asked, given):
            return
        if len(given) < len(asked):
            raise ValueError(
                f'train_dataloader.batch_size is {size}, but of the {len(self._order)} images of an epoch only '
                f'{len(given)} can be read, so there is no whole batch. Set it to {len(given)} or less, or replace the '
                'images that "unmix doctor CONFIG" lists.'
            )
        for index in np.setdiff1d(asked, given).tolist():
            name = name_of(loader.dataset, index)
            known = runner.message_hub.get_info(INFO, {}).keys() | self._own.keys()
            self._own[name] += 1
            if name not in known and len(known) < WARNINGS:
                runner.logger.warning(f'{described(loader.dataset, index)} Another image takes its place.')

    def collect(self, runner: Runner) -> None:
        """Add up the counts of all ranks in the message hub; every rank calls it."""
        found: list[Any] = all_gather_object(dict(self._own))
        total = sum(map(Counter, found), Counter(runner.message_hub.get_info(INFO, {})))
        self._own.clear()
        if total:
            runner.message_hub.update_info(INFO, dict(sorted(total.items())))

    def after_train_epoch(self, runner: Runner) -> None:
        """Add up the counts."""
        self.collect(runner)

    def after_train(self, runner: Runner) -> None:
        """Report the images."""
        total = runner.message_hub.get_info(INFO, {})
        if not total or not is_main_process():
            return
        names = [f'{name} ({count} times)' for name, count in list(total.items())[:WARNINGS]]
        more = f', and {len(total) - WARNINGS} more' if len(total) > WARNINGS else ''
        runner.logger.warning(
            f'{len(total)} images could not be read, and others took their places: {", ".join(names)}{more}. Replace '
            'or delete the files; write an archive or a table again without them. results.json lists all of them.'
        )
        add_to_results(Path(runner.work_dir, 'results.json'), dict(skipped=dict(train=total)))


def check_skipping(dataset: Any, sampler: Any) -> bool:
    """Return whether images that cannot be read are skipped.

    Raises:
        ValueError: If the sampler has no order for that.
    """
    if not skips(dataset):
        return False
    if not hasattr(sampler, 'order'):
        raise ValueError(
            f"train_dataloader.dataset.broken='skip' takes the next image of the sampler's order, and a "
            f"{type(sampler).__name__} does not tell it. Set train_dataloader.sampler.type='EpochSampler'."
        )
    return True
