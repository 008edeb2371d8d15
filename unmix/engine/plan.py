"""The plan of a training on a folder of images: what it is of, what it holds, and the config that it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mmengine.config import Config

from unmix.config import load_config
from unmix.converters.fit import Start
from unmix.datasets.survey import Facts

SEED = 0  # of the images that are held out


@dataclass(frozen=True)
class Machine:
    """What a training runs on.

    Attributes:
        processes: Processes that train together.
        accelerators: Accelerators of this machine; each process uses one, if there are any.
        cores: CPU cores of a process.
        memory: Bytes of an accelerator; None if it is not known.
        speed: Images a second that a process trains on, if it was measured with this plan.
    """

    processes: int = 1
    accelerators: int = 0
    cores: int = 1
    memory: int | None = None
    speed: float | None = None


@dataclass(frozen=True)
class Wishes:
    """What the user wants.

    Attributes:
        method: Name of the method, one of ``METHODS``; None: :func:`default_method`.
        mixture: One of ``MIXTURES``: 'none' is the method without Un-Mix.
        backbone: 'resnet18', 'timm:NAME', 'torchvision:NAME'; None: as the recipe, or the network of ``start``.
        minutes: Time that the whole run may take; None: :func:`default_minutes`.
        given: Options of the user by their full keys, which the plan keeps.
        start: Weights that the training starts from; None: random ones.
    """

    method: str | None = None
    mixture: str = 'both'
    backbone: str | None = None
    minutes: float | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    start: Start | None = None


class Row(NamedTuple):
    """A value of a plan.

    Attributes:
        name: What it is.
        value: The value.
        reason: Why.
        key: The key, or the option of the command, that changes it.
    """

    name: str
    value: Any
    reason: str
    key: str


@dataclass(frozen=True)
class Plan:
    """A training on a folder: a recipe, and the options that fit it to the data and the machine.

    Attributes:
        recipe: Name of the config.
        options: Options by their full keys, those of the user included.
        rows: The values with their reasons.
        facts: The folder.
        machine: What it runs on.
        images: Images to train on.
        held_out: Images that are held out of the training, to test on.
        batch: Images of a batch, of all processes.
        epochs: Number of epochs.
        minutes: Time that the run may take.
        seconds: Time that it will take, about.
        share: Share of each class that is held out.
        chosen: Images that are drawn to train on, where there is no time for all; else None.
        bank: Images to train on among which kNN searches, at most.
        evaluated: Whether the images have labels to test features by.
        notes: Sentences about what is not as it should be.
    """

    recipe: str
    options: dict[str, Any]
    rows: tuple[Row, ...]
    facts: Facts
    machine: Machine
    images: int
    held_out: int
    batch: int
    epochs: int
    minutes: float
    seconds: float
    share: float = 0.0
    chosen: int | None = None
    bank: int = 0
    evaluated: bool = False
    notes: tuple[str, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Return the steps of an epoch."""
        return self.images // self.batch

    @property
    def steps(self) -> int:
        """Return the steps of the training."""
        return self.epochs * self.steps_per_epoch

    @property
    def left_out(self) -> int:
        """Return the images that each epoch leaves out, other ones each time, since they fill no batch."""
        return self.images % self.batch

    def config(self) -> Config:
        """Return the config of the training, with its evaluation if the images have labels."""
        cfg = load_config(self.recipe, self.options)
        data = cfg.train_dataloader.dataset.to_dict()
        folder = {key: value for key, value in data.items() if key != 'pipeline'}

        def part(pipeline: Any, held_out: bool, most: int | None) -> dict[str, Any]:
            found = dict(folder, labelled=self.evaluated, pipeline=pipeline)
            if self.share:
                found = dict(type='Subset', dataset=found, share=self.share, rest=not held_out, seed=SEED)
            return found if most is None else dict(type='Subset', dataset=found, num_images=most, seed=SEED)

        cfg.train_dataloader.dataset = part(data['pipeline'], False, self.chosen)
        if not self.evaluated:
            return cfg
        size = data['pipeline']['transforms'][0]['size']
        view = dict(type='SingleView', transforms=[dict(type='Resize', size=size), dict(type='CenterCrop', size=size)])
        test = part(view, True, None)
        if self.facts.tested is not None:
            classes = folder.get('class_list') or self.facts.root
            test = dict(folder, data_root=self.facts.tested, class_list=classes, pipeline=view)
        loader = dict(
            batch_size=128,
            num_workers=cfg.train_dataloader.num_workers,
            sampler=dict(type='EpochSampler', shuffle=False),
            collate_fn=dict(type='collate'),
        )
        bank = part(view, False, self.bank if self.bank < self.facts.images - self.held_out else None)
        loop = dict(type='FeatureLoop', bank_dataloader=dict(loader, dataset=bank))
        knn = dict(type='KNN', k=max(1, min(20, sorted(self.facts.classes)[len(self.facts.classes) // 2] // 2)))
        cfg.val_dataloader = cfg.test_dataloader = dict(loader, dataset=test)
        cfg.val_cfg, cfg.test_cfg = loop, dict(loop, controls=True)
        cfg.val_evaluator = [knn]
        cfg.test_evaluator = [knn, dict(type='LinearProbe')]
        return cfg
