"""Report of a run: a table, results.json, curves and example views."""

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from unmix.checkpoint.identity import current_run, first_day
from unmix.engine.loops.feature_loop import FeatureLoop
from unmix.engine.protocol_card import protocol_card, versions, write_results
from unmix.engine.skipped import INFO
from unmix.models import BaseAlgorithm, Classifier, DataPreprocessor
from unmix.registry import HOOKS
from unmix.utils.clock import is_trained
from unmix.utils.dist import unwrap
from unmix.visualization import draw_curves, draw_views, draws_of_a_run

CONTROLS = {'raw_pixels': 'raw pixels', 'random_init': 'random initialisation'}
COLUMNS = {'knn': 'kNN', 'linear': 'linear'}
MANY = 4  # metrics, from which on each has a row of its own
_EXAMPLES = 8


@HOOKS.register_module()
class ReportHook(Hook):
    """Report a run in its work directory.

    * ``views.png``, at the first training step: views of the first batch, and with Un-Mix mixtures of them as the first
      steps draw them, global and region ones;
    * after a test: a table on the terminal, ``results.json`` (accuracies in percent, with a card of the protocol:
      everything that they depend on) and ``curves.png`` (loss and kNN accuracy). The best
      epoch of a classifier that was validated is reported beside the last.

    A picture that cannot be drawn gives a warning; the training goes on.

    Args:
        name: Of this run in the table; by default the method's, e.g. 'MoCo + Un-Mix'.
    """

    priority = 'VERY_LOW'  # after LoggerHook, whose files it reads

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self._meta: dict[str, Any] = {}
        self._skipped: dict[str, int] = {}
        self._drawn = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the meta data of the checkpoint that is tested, and the images that its training skipped."""
        self._meta = dict(checkpoint.get('meta') or {})
        info = (checkpoint.get('message_hub') or {}).get('runtime_info') or {}
        self._skipped = dict(info.get(INFO) or {})

    @master_only
    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Draw the views of the first batch."""
        if not self._drawn:
            self._drawn = True
            _attempt(runner, 'views.png', lambda path: _draw_first_batch(runner, data_batch, path))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the best epoch of a classifier that is trained in the message hub, so in checkpoints."""
        if not is_trained(runner) or isinstance(runner.val_loop, FeatureLoop):
            return
        best = dict(runner.message_hub.get_info('best', {}))
        for key, value in (metrics or {}).items():
            if key.endswith('/top1') and value > best.get(key, (-1.0, 0))[0]:
                best[key] = (float(value), runner.epoch)
        runner.message_hub.update_info('best', best)

    def _best(self, runner: Runner, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the best accuracy, and its epoch, of each metric that a training in this process has validated."""
        best = runner.message_hub.get_info('best', {}) if is_trained(runner) else {}
        found = {key.removesuffix('top1'): values for key, values in best.items() if key in metrics}
        accuracies = {f'{key}best_top1': accuracy for key, (accuracy, _) in found.items()}
        return accuracies | {f'{key}best_epoch': epoch for key, (_, epoch) in found.items()}

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the table and write ``results.json`` and ``curves.png``."""
        if not metrics:
            return
        model = unwrap(runner.model)
        results = group_metrics(dict(metrics) | self._best(runner, metrics))
        card = protocol_card(runner, model, self._meta, results)
        table = results_table(results, self.name or run_name(model))
        table.caption = card_line(card)
        Console().print(table)
        skipped = self._all_skipped(runner)
        run = self._circumstances(runner) | ({INFO: skipped} if skipped else {})
        write_results(Path(runner.work_dir, 'results.json'), results, run, card)
        logs = sorted(Path(runner.work_dir).glob('*/vis_data/scalars.json'))  # the folders are named by date and time
        begin = first_day(current_run(runner.work_dir))
        logs = [log for log in logs if log.parents[1].name >= begin]  # not those of an earlier run
        if any(log.stat().st_size for log in logs):
            _attempt(runner, 'curves.png', lambda path: draw_curves(logs, path))

    def _all_skipped(self, runner: Runner) -> dict[str, dict[str, int]]:
        """Return the images that could not be read: of the training, and of the test and its bank."""
        trained = runner.message_hub.get_info(INFO, {}) if is_trained(runner) else self._skipped
        loop = runner._test_loop
        evaluated = loop.skipped if isinstance(loop, FeatureLoop) else {}
        return ({'train': dict(trained)} if trained else {}) | evaluated

    def _circumstances(self, runner: Runner) -> dict[str, Any]:
        """Return what the numbers depend on; epochs and seed are the checkpoint's if this process has not trained."""
        trained = is_trained(runner)
        meta = {} if trained else self._meta
        filename = runner.cfg.filename
        return dict(
            seed=meta.get('seed', runner.seed),
            epochs=runner.epoch if trained else meta.get('epoch', 0),
            config=Path(filename).name if filename else runner.experiment_name,
            versions=versions() | dict(python=platform.python_version()),
            threads=torch.get_num_threads(),
        )


def group_metrics(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Turn ``{'knn/top1': a, 'random_init/knn/top1': b}`` into ``{'knn': {'top1': a, 'random_init_top1': b}}``."""
    results: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        *control, metric, field = key.rsplit('/', 2) if '/' in key else (key, 'value')
        results.setdefault(metric, {})['_'.join([*control, field])] = round(float(value), 4)
    return results


def results_table(results: Mapping[str, Mapping[str, float]], name: str) -> Table:
    """Return the table of grouped metrics: a row for each control and for the run ``name``, a column for each metric.

    If there are more than four metrics, each has a row. The best epoch of a classifier is shown beside the last.
    """
    fields = {f'{control}_top1': label for control, label in CONTROLS.items()}
    fields |= {'top1': name, 'best_top1': 'best epoch'}
    fields = {field: label for field, label in fields.items() if any(field in row for row in results.values())}
    cells = [[f'{row[field]:.1f}' if field in row else '' for row in results.values()] for field in fields]
    headings = [COLUMNS.get(metric, _column(metric)) for metric in results]
    rows, columns, corner = list(fields.values()), headings, 'features'
    if len(results) > MANY:
        rows, columns, corner, cells = headings, rows, 'protocol', [list(row) for row in zip(*cells, strict=True)]
    table = Table(title='top-1 accuracy (%)')
    table.add_column(corner)
    for column in columns:
        table.add_column(column, justify='right')
    for label, row in zip(rows, cells, strict=True):
        table.add_row(label, *row, style='bold' if label == name else None)
    return table


def card_line(card: Mapping[str, Any]) -> str:
    """Return one line about the weights, data and protocol of a test."""
    file = card['checkpoint'] or {}
    weights = f'{file.get("file") or "weights not saved"} {(file.get("sha256") or "")[:8]}'.strip()
    data = ', '.join(
        ' '.join([name, str(cfg.get('type')), str(cfg.get('split', ''))]).strip() for name, cfg in card['data'].items()
    )
    return f'{weights}; {data}; layer {card["layer"]}; BatchNorm {card["bn_mode"]}; seed {card["seed"]}'


def run_name(model: torch.nn.Module) -> str:
    """Return the name of a model's method, or the kind of a classifier."""
    if isinstance(model, Classifier):
        return 'features' if model.head is None else 'linear classifier' if model.freeze else 'fine-tuned'
    return type(model).__name__ + (' + Un-Mix' if isinstance(model, BaseAlgorithm) and model.unmix is not None else '')


def _column(metric: str) -> str:
    """``linear_10_per_class`` is 'linear, 10 labels a class'."""
    stem, _, rest = metric.partition('_')
    number = rest.removesuffix('_per_class')
    if not number.isdigit() or number == rest:
        return metric
    return f'{COLUMNS.get(stem, stem)}, {number} label{"s" * (number != "1")} a class'


def _attempt(runner: Runner, name: str, draw: Callable[[Path], None]) -> None:
    """Draw a picture of the work directory, or warn."""
    try:
        draw(Path(runner.work_dir, name))
    except Exception as error:
        runner.logger.warning(f'{name} could not be drawn: {type(error).__name__}: {error}')


@torch.no_grad()
def _draw_first_batch(runner: Runner, data_batch: Any, out: Path) -> None:
    model = unwrap(runner.model)
    inputs = model.data_preprocessor(data_batch, True)['inputs']
    views = [view[:_EXAMPLES] for view in ([inputs] if isinstance(inputs, torch.Tensor) else inputs)]
    preprocessor = model.data_preprocessor
    restore = (
        preprocessor.restore if isinstance(preprocessor, DataPreprocessor) else lambda view: (view / 255).clamp(0, 1)
    )
    mixtures = draws_of_a_run(model, views, runner.seed) if isinstance(model, BaseAlgorithm) else []
    draw_views(
        [restore(view) for view in views],
        out,
        [mixture._replace(images=restore(mixture.images)) for mixture in mixtures],
        f'{run_name(model)}, {runner.experiment_name}, seed {runner.seed}',
    )
