"""Validation and test on frozen features."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast, broadcast_object_list, get_rank, get_world_size
from mmengine.runner import BaseLoop, Runner
from pooch import file_hash
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from unmix.engine.skipped import LeftOut
from unmix.evaluation import Features
from unmix.evaluation.extraction import Encoder, collect_features, raw_pixels
from unmix.evaluation.feature_cache import FeatureCache
from unmix.evaluation.shard import Shard
from unmix.models.algorithms.base import BaseAlgorithm
from unmix.registry import LOOPS, METRICS, MODELS
from unmix.utils.clock import is_trained
from unmix.utils.dist import unwrap
from unmix.utils.rng import seeded


@LOOPS.register_module()
class FeatureLoop(BaseLoop):
    """Extract the features of a labelled bank and of the evaluation set once, and run every metric on them.

    Features are collected in memory of the host, each process those of the images that it reads. One bank at a time is
    on the device. A bank without room there stays on the host, and metrics copy it block by block.

    ``after_features(runner, test, bank, loop)`` of each hook that has this method gets both shards, on all ranks.

    As ``val_cfg`` it monitors a pre-training, as ``test_cfg`` it evaluates one; it calls the hooks of that
    phase. It changes nothing of a run: weights, training modes and the global random generators are as before.

    Args:
        runner: The Runner.
        dataloader: Of the evaluation set, without augmentation.
        evaluator: A metric's config or a list of them, registry ``METRICS``: :class:`KNN`, :class:`LinearProbe`, or any
            object with a ``name`` that maps ``(bank, test)``, two :class:`Features`, to a dict of floats. With several
            processes it is called on rank 0, on the whole bank, while others wait. One with ``sharded = True`` is
            called on all ranks at once, and gets this rank's :class:`Shard` as the bank.
        bank_dataloader: Of the training images, without augmentation.
        stage: Where features are taken: ``'backbone'``, or ``'neck'`` for the projection.
        controls: Also evaluate a randomly initialised copy of the model, the raw pixels, and the weights that the
            backbone started from, if its ``init_cfg`` names some, by the same protocol. Their results are named
            ``random_init/knn/top1``, ``raw_pixels/knn/top1`` and ``start/knn/top1`` where the model's is ``knn/top1``.
        cache: In a test of a checkpoint file, keep the features in ``features/`` of the work dir, which for
            ``tools/test.py`` is the checkpoint's folder, and take them from there the next time; see
            :class:`FeatureCache`.

    Attributes:
        skipped: Images that could not be read and were left out, of ``test`` and ``bank``, if the data set has
            ``broken='skip'``.

    Raises:
        ValueError: If the evaluator has an entry that is no such metric, or two with the same name, or if a label means
            another class in the bank.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any] | dict[str, Any],
        evaluator: Any,
        bank_dataloader: DataLoader[Any] | dict[str, Any],
        stage: str = 'backbone',
        controls: bool = False,
        cache: bool = False,
    ) -> None:
        self._data = [_identity(loader) for loader in (dataloader, bank_dataloader)]
        super().__init__(runner, dataloader)
        self.bank_dataloader = runner.build_dataloader(bank_dataloader, seed=runner.seed)
        check_classes(self.dataloader.dataset, self.bank_dataloader.dataset)
        self.metrics = _build_metrics(evaluator)
        self.stage = stage
        self.controls = controls
        self.cache = cache
        self._warned = False
        self._left_out = [LeftOut(self.dataloader.dataset), LeftOut(self.bank_dataloader.dataset)]
        self.skipped: dict[str, dict[str, int]] = {}

    @property
    def mode(self) -> str:
        """``'test'`` if the Runner holds this loop as its test loop, else ``'val'``."""
        return 'test' if self.runner._test_loop is self else 'val'

    def run(self) -> dict[str, float]:
        """Evaluate the model; return the same metrics on all ranks, none if the data have no labels."""
        self.runner.call_hook(f'before_{self.mode}')
        self.runner.call_hook(f'before_{self.mode}_epoch')
        with seeded('evaluation', self.runner.seed):
            metrics = self._evaluate()
        self.runner.call_hook(f'after_{self.mode}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self.mode}')
        return metrics

    def _evaluate(self) -> dict[str, float]:
        model = unwrap(self.runner.model)
        device = next(model.parameters()).device
        encoders: dict[str, Encoder] = {'': partial(self._encode, model)}
        if self.controls:
            encoders |= self._control_encoders(device)
        watched = encoders | {'': self._watched(encoders[''])}
        with eval_mode(model), statistics_of_rank_zero(model):
            # The evaluation set comes first: hooks time its batches, and without labels the bank is not read.
            test = self._collect(self.dataloader, watched, self._data[0])
            bank = None if test is None else self._collect(self.bank_dataloader, encoders, self._data[1])
        names = list(encoders)
        encoders = watched = {}  # the network of a control is not needed any more
        if test is None or bank is None:
            if not self._warned:
                self.runner.logger.warning(
                    f'The data of {self.mode}_dataloader or bank_dataloader have no labels, so kNN and linear accuracy '
                    'are not measured.'
                )
                self._warned = True
            return {}
        tested, known = self._left_out
        left_out = {
            'test': tested.names(f'{self.mode}_dataloader', test['']),
            'bank': known.names('bank_dataloader', bank['']),
        }
        self.skipped = {name: names for name, names in left_out.items() if names}
        self.runner.call_hook('after_features', test=test[''], bank=bank[''], loop=self)
        results: dict[str, float] = {}
        for name in names:  # one bank at a time is on the device
            results |= self._measure(name, bank.pop(name), test.pop(name), device)
        return results

    def _measure(self, encoder: str, bank: Shard, test: Shard, device: torch.device) -> dict[str, float]:
        """Return the results of all metrics on the features of an encoder; those of rank 0 on all ranks."""
        found = test.whole()
        assert found is not None
        queries, bank = Features(*(x.to(device) for x in found)), bank.to(device)
        results: list[dict[str, float]] = [{}]
        for metric in self.metrics:
            prefix = f'{encoder}/{metric.name}' if encoder else metric.name
            known = bank if getattr(metric, 'sharded', False) else bank.whole(keep=get_rank() == 0)
            values = {} if known is None else metric(known, queries)
            for key, value in values.items():  # one metric may give results of several names
                results[0][f'{encoder}/{key}'.lstrip('/') if '/' in key else f'{prefix}/{key}'] = value
        broadcast_object_list(results, src=0)
        return results[0]

    def _collect(self, loader: DataLoader[Any], encoders: Mapping[str, Encoder], data: Any) -> dict[str, Shard] | None:
        """Return the shards of a loader's images by encoder; ``data`` is the config of its data set."""
        file = Path(str(self.runner._load_from or ''))
        fixed = self.mode == 'test' and not is_trained(self.runner) and file.is_file() and None not in self._data
        if not self.cache or not fixed:
            return collect_features(loader, encoders)
        cfg = self.runner.cfg
        model = dict(model=cfg.model, preprocessor=cfg.get('data_preprocessor'), stage=self.stage)
        names = {'': file_hash(file), 'random_init': f'seed {self.runner.seed}', 'raw_pixels': 'pixels'}
        names['start'] = f'start, seed {self.runner.seed}'
        networks = {name: names[name] if name == 'raw_pixels' else [model, names[name]] for name in encoders}
        cache = FeatureCache(Path(self.runner.work_dir, 'features'))
        return cache.collect(loader, encoders, networks, (data, self.runner.seed), loader.dataset)

    def _encode(self, model: Any, batch: dict[str, Any]) -> Tensor:
        return model.extract_feat(model.data_preprocessor(batch, False)['inputs'], stage=self.stage)

    def _control_encoders(self, device: torch.device) -> dict[str, Encoder]:
        encoders: dict[str, Encoder] = {}
        cfg = self.runner.cfg.get('model')
        if isinstance(cfg, dict):
            cfg = copy.deepcopy(cfg)
            cfg.pop('pretrained', None)
            start = cfg.get('backbone', {}).pop('init_cfg', None)
            if 'data_preprocessor' in self.runner.cfg:  # the Runner moves it into the model's
                cfg.setdefault('data_preprocessor', copy.deepcopy(self.runner.cfg.data_preprocessor))
            encoders['random_init'] = partial(self._encode, self._control(cfg, device))
            if isinstance(start, Mapping) and start.get('type') == 'Pretrained':
                if Path(start['checkpoint']).is_file():
                    cfg['backbone']['init_cfg'] = start
                    encoders['start'] = partial(self._encode, self._control(cfg, device))
                else:
                    self.runner.logger.warning(
                        f'No control of the weights that the training started from: {start["checkpoint"]} is missing.'
                    )
        else:
            self.runner.logger.warning(
                'No random_init control: it needs the config of the model, not the model itself.'
            )
        return encoders | {'raw_pixels': raw_pixels}

    def _control(self, cfg: Mapping[str, Any], device: torch.device) -> Any:
        """Build a model with the weights that it has before a training."""
        with seeded('random_init', self.runner.seed):
            model: Any = MODELS.build(copy.deepcopy(cfg))
            model.init_weights()
        if isinstance(model, BaseAlgorithm):  # only backbone and neck are needed, and banks are large
            del model.head, model.momentum_encoder
        return model.to(device).eval()

    def _watched(self, encoder: Encoder) -> Encoder:
        """Return an encoder that calls the Runner's hooks before and after each batch."""
        number = itertools.count()

        def encode(batch: dict[str, Any]) -> Tensor:
            i = next(number)
            self.runner.call_hook(f'before_{self.mode}_iter', batch_idx=i, data_batch=batch)
            features = encoder(batch)
            self.runner.call_hook(f'after_{self.mode}_iter', batch_idx=i, data_batch=batch, outputs=None)
            return features

        return encode


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode; restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def statistics_of_rank_zero(model: nn.Module) -> Iterator[None]:
    """Use the BatchNorm statistics of rank 0, which checkpoints have, on all ranks; restore them afterwards."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    buffers = [buffer for layer in layers for buffer in layer.buffers()] if get_world_size() > 1 else []
    own = [buffer.clone() for buffer in buffers]
    for buffer in buffers:
        broadcast(buffer, src=0)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, own, strict=True):
            buffer.copy_(value)


def check_classes(tested: Any, known: Any, source: str = 'bank_dataloader') -> None:
    """Check that a label means the same class in two data sets, as far as both have names of classes.

    Args:
        tested: Data set that is evaluated.
        known: Data set that it is compared with: the bank, or that of the training.
        source: Key of the latter in the config.

    Raises:
        ValueError: If a class of the one evaluated is missing in the other, or has another number there.
    """
    ours, theirs = (list(getattr(dataset, 'classes', None) or ()) for dataset in (tested, known))  # may have no names
    if ours and theirs and ours != theirs[: len(ours)]:
        number, name = next((i, c) for i, c in enumerate(ours) if i >= len(theirs) or theirs[i] != c)
        other = repr(theirs[number]) if number < len(theirs) else 'none'
        raise ValueError(
            f'Label {number} is the class {name!r} of {len(ours)} in the data that are evaluated, but {other} of '
            f'{len(theirs)} in those to compare with ({source}). ImageFolder numbers its sub-folders in the '
            'order of their names: give the data that are evaluated a dataset.class_list, a list or the folder of the '
            'other data, whose classes it then has; or let both data_root have the same sub-folders.'
        )


def _identity(dataloader: DataLoader[Any] | dict[str, Any]) -> Any:
    """Return the config of a dataloader's data set, copied before it is built; None if there is none."""
    dataset = dataloader.get('dataset') if isinstance(dataloader, Mapping) else None
    return copy.deepcopy(dataset) if isinstance(dataset, Mapping) else None


def _build_metrics(evaluator: Any) -> list[Any]:
    configs = evaluator if isinstance(evaluator, Sequence) else [evaluator]
    metrics = [METRICS.build(config) if isinstance(config, Mapping) else config for config in configs]
    for metric in metrics:
        # Any object may be given here.
        if not callable(metric) or not isinstance(getattr(metric, 'name', None), str):
            raise ValueError(
                f'val_evaluator or test_evaluator holds {type(metric).__name__}, which is no metric on features. With '
                "FeatureLoop use KNN, LinearProbe or LinearTraining; for a classifier's Accuracy set "
                "val_cfg=dict(type='ValLoop') and test_cfg=dict(type='TestLoop')."
            )
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(
            f'val_evaluator or test_evaluator holds metrics of the same name: {names}. Give each a `name`.'
        )
    return metrics
