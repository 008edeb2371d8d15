"""Report of a run: a table, results.json, curves, example views, and all of that on a page."""

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner
from rich.console import Console
from rich.table import Table

from unmix.engine.feature_pictures import Seen, draw_seen, embed_seen, look, look_at_training
from unmix.engine.loggers import log_hyper_parameters, log_picture, log_results
from unmix.engine.loops.feature_loop import FeatureLoop
from unmix.engine.protocol_card import protocol_card, versions, write_results
from unmix.engine.run_facts import RunFacts
from unmix.engine.skipped import INFO
from unmix.evaluation.shard import Shard
from unmix.models import BaseAlgorithm, Classifier, DataPreprocessor
from unmix.registry import HOOKS
from unmix.utils.clock import is_trained, iterations_done
from unmix.utils.dist import unwrap
from unmix.utils.run_files import RunFiles, read_scalars
from unmix.visualization import draw_curves, draw_views, draws_of_a_run
from unmix.visualization.report import NEIGHBOURS, REPORT, write_report
from unmix.visualization.results import card_line, result_cells
from unmix.visualization.run_plots import accuracy_plots, loss_plots

_EXAMPLES = 8


@HOOKS.register_module()
class ReportHook(Hook):
    """Report a run in its work directory.

    * ``views.png``, at the first training step: views of the first batch, and with Un-Mix mixtures of them as the first
      steps draw them, global and region ones;
    * after a test: a table on the terminal, ``results.json`` (accuracies in percent, with a card of the protocol:
      everything that they depend on) and ``curves.png`` (loss and kNN accuracy). The best
      epoch of a classifier that was validated is reported beside the last;
    * ``report.html``, when a training begins, after each validation, when a training or test has ended, and when a
      training was interrupted: see :mod:`unmix.visualization.report`. ``report.json`` has what the page needs beside
      the other files. At the end ``neighbours.png`` is drawn, of features that the last evaluation has computed.

    What cannot be drawn or written gives a warning, once; the training goes on.

    Args:
        name: Of this run in the table; by default the method's, e.g. 'MoCo + Un-Mix'.
    """

    priority = 'VERY_LOW'  # after LoggerHook, whose files it reads

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self._meta: dict[str, Any] = {}
        self._skipped: dict[str, int] = {}
        self._drawn = False
        self._facts: RunFacts | None = None
        self._seen: Seen | None = None
        self._view: torch.Tensor | None = None  # of the first batch
        self._failed: set[str] = set()
        self._cost = 0.0  # seconds of the processor

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
            inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
            view = inputs[0] if isinstance(inputs, list | tuple) else inputs
            if isinstance(view, torch.Tensor) and view.ndim == 4:
                self._view = view[:1]
            self._attempt(runner, 'views.png', lambda path: _draw_first_batch(runner, data_batch, path), shown=True)
            self._attempt(runner, 'HParams', lambda _: log_hyper_parameters(runner.visualizer, runner.cfg))
            self._report(runner, 'running', trains=True)

    def after_features(self, runner: Runner, test: Shard, bank: Shard, loop: FeatureLoop) -> None:
        """Keep what the pictures of neighbours and embedding need."""
        self._seen = look(test, bank, (loop.dataloader.dataset, loop.bank_dataloader.dataset))

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the report of a training that has ended."""
        self._report(runner, 'ended', pictures=runner.cfg.get('test_cfg') is None)

    @master_only
    def on_abort(self, runner: Runner) -> None:
        """Write the report of a training that a signal or an error ends."""
        if self._facts is not None:
            self._report(runner, 'interrupted', pictures=True)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the best epoch of a classifier that is trained in the message hub, so in checkpoints."""
        if not is_trained(runner):
            return
        if is_main_process() and self._facts is not None:
            self._report(runner, 'running')
        if isinstance(runner.val_loop, FeatureLoop):
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
        self._attempt(runner, 'results.json', lambda path: write_results(path, results, run, card))
        log_results(runner.visualizer, metrics, iterations_done(runner))
        if logs := RunFiles(runner.work_dir).logs:
            train, validation = read_scalars(logs)
            plots = [*loss_plots(train), *accuracy_plots(validation, results)]
            self._attempt(runner, 'curves.png', lambda path: draw_curves(plots, path, _title(runner)), shown=True)
        self._report(runner, None, trains=is_trained(runner), pictures=True)

    def _report(self, runner: Runner, state: str | None, trains: bool = True, pictures: bool = False) -> None:
        """Write the report; with ``pictures`` draw what the last evaluation has shown."""
        begun = time.process_time()

        def write(path: Path) -> None:
            if self._facts is None:
                self._facts = RunFacts(runner, self.name or run_name(unwrap(runner.model)), trains)
            facts = self._facts
            if pictures:
                self._draw_seen(runner, facts)
            self._cost += time.process_time() - begun
            facts.write(runner, report_seconds=round(self._cost, 3))
            write_report(path.parent, state)

        self._attempt(runner, REPORT, write)

    def _draw_seen(self, runner: Runner, facts: RunFacts) -> None:
        """Draw neighbours and an embedding of what was evaluated last, if not of the training images; note them."""

        def draw(path: Path) -> None:
            if self._seen is None and self._view is not None and not isinstance(runner, FlexibleRunner):
                self._seen = look_at_training(unwrap(runner.model), runner.train_dataloader.dataset, self._view)
            if self._seen is not None:
                facts.content['embedding'] = embed_seen(self._seen, runner.seed, facts.cpu_seconds)
                facts.content['neighbours'] = draw_seen(self._seen, path, _title(runner))

        self._attempt(runner, NEIGHBOURS, draw)
        self._seen = None

    def _attempt(self, runner: Runner, name: str, draw: Callable[[Path], None], shown: bool = False) -> None:
        """Make a file of the work directory, or warn; with ``shown`` loggers such as TensorBoard get it too."""
        path = Path(runner.work_dir, name)
        try:
            draw(path)
            if shown:
                log_picture(runner.visualizer, path, iterations_done(runner))
        except Exception as error:
            if name not in self._failed:
                self._failed.add(name)
                runner.logger.warning(f'{name} could not be made: {type(error).__name__}: {error}')

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
    """Return the table of grouped metrics for the terminal, see :func:`result_cells`."""
    cells = result_cells(results, name)
    table = Table(title='top-1 accuracy (%)')
    table.add_column(cells.columns[0])
    for column in cells.columns[1:]:
        table.add_column(column, justify='right')
    for number, row in enumerate(cells.rows):
        table.add_row(*row, style='bold' if number == cells.own else None)
    return table


def run_name(model: torch.nn.Module) -> str:
    """Return the name of a model's method, or the kind of a classifier."""
    if isinstance(model, Classifier):
        return 'features' if model.head is None else 'linear classifier' if model.freeze else 'fine-tuned'
    name = getattr(getattr(model, 'head', None), 'method', None) or type(model).__name__
    return name + (' + Un-Mix' if isinstance(model, BaseAlgorithm) and model.unmix is not None else '')


def _title(runner: Runner) -> str:
    return f'{run_name(unwrap(runner.model))}, {runner.experiment_name}, seed {runner.seed}'


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
        _title(runner),
    )
