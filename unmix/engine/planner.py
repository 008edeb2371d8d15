"""The rules that choose a training on a folder of images: sizes, epochs and learning rate, by data and machine."""

import math
import types
from typing import Any

import torch
from mmengine.config import ConfigDict

from unmix.config import load_config
from unmix.config.check import suggest
from unmix.datasets.survey import Facts
from unmix.engine.pace import PASSES, Cost, estimate_pace, map_bytes, resnet_cost
from unmix.engine.plan import Machine, Plan, Row, Wishes
from unmix.engine.planned_network import PlannedNetwork
from unmix.engine.sizes import fitting, splits_for
from unmix.registry import MODELS
from unmix.utils.names import few, shown
from unmix.utils.sizes import LEAST_STEPS, SMALL, Sizes, batch_sizes, epochs_for

METHODS = (
    *('moco', 'moco-align-uniform', 'simclr', 'byol', 'wmse', 'swav', 'deepclusterv2', 'instdisc', 'pic', 'cmc'),
    *('simsiam', 'vicreg', 'barlow-twins', 'moco-v3', 'nnclr', 'dino', 'lejepa'),
)
MIXTURES = {'none': None, 'global': 1.0, 'region': 0.0, 'both': 0.5}  # share of global mixtures
START = 30  # seconds that a run takes beside its steps: imports, pictures, linear classifiers
EVALUATIONS = 4  # during the training, in about equal parts
KNOWN = 1_280_000, 200  # images and epochs of the published recipes of ImageNet
LEAST_EPOCHS = 4  # where there is time for fewer, a part of the images is taken
LEAST_PER_CLASS = 10  # images, on average, from which on folders are taken for classes
GOOD_PASSES = 50  # passes over the images that are worth more than larger views
MANY = 500_000  # images, from which on the recipes of ImageNet apply
CHOICE = 4  # a queue is at most a quarter of the images
STRANGE = 0.62  # share of images that a change makes less like the others, from which on it is none of a view
TRANSFORMS, EPOCHS = 'train_dataloader.dataset.pipeline.transforms', 'train_cfg.max_epochs'
VIEWS, CROPS = f'{TRANSFORMS}.0.size', f'{TRANSFORMS}.0.scale'
CONTINUED = 0.1  # of the learning rate from random weights, where a training starts from others
TRANSFORMER = dict(type='AdamW', lr=5e-4, weight_decay=0.05)  # for 256 images; networks without BatchNorm
CROP = 12  # pixels of an image, in which there is something to see
BROKEN = 'train_dataloader.dataset.broken'
WHY = dict(
    queue_size='whole batches, at most a quarter of the images',
    num_negatives='at most a quarter of the images',
    num_instances='one for each image of the training',
    num_prototypes='a tenth of the images at most',
)


def default_minutes(images: int, accelerators: int) -> float:
    """Return the time that a training may take where the user gives none.

    On a CPU it is a minute for each 100 images, at least 5 and at most those of a day; with an accelerator a day.
    """
    day = 24 * 60.0
    return day if accelerators else min(max(images / 100, 5.0), day)


def default_method(accelerators: int) -> tuple[str, str]:
    """Return the method where the user names none, and the reason.

    SimCLR learns in fewer steps: after 285 steps of 64 digits, on a ResNet-18 of a quarter of the width, kNN is 81 with
    SimCLR and 64 with MoCo (with Un-Mix, one seed).
    """
    return ('moco', 'there is time for many steps') if accelerators else ('simclr', 'it learns in the fewest steps')


def full_epochs(images: int) -> int:
    """Return the epochs of a training that no time limits: 200 on ImageNet, more on fewer images.

    They fall with the fourth root of the number of images, as published recipes do: 200 on the 1.28 million of
    ImageNet, 400 to 1,000 on the 50,000 of CIFAR.
    """
    return max(round(KNOWN[1] * (KNOWN[0] / images) ** 0.25), 1)


def make_plan(facts: Facts, machine: Machine, wishes: Wishes) -> Plan:
    """Plan a training. It reads the recipe, but no data, and builds nothing but the head of the recipe.

    Args:
        facts: The images.
        machine: What the training runs on.
        wishes: What the user wants.

    Returns:
        The plan.

    Raises:
        ValueError: If a wish has another value, or there are too few images.
    """
    return _Planner(facts, machine, wishes).plan()


class _Planner:
    """One value after the other; each depends on those before it."""

    def __init__(self, facts: Facts, machine: Machine, wishes: Wishes) -> None:
        self.facts, self.machine, self.wishes = facts, machine, wishes
        self.given = dict(wishes.given)
        self.options: dict[str, Any] = {'data_root': facts.root}
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.method, why = default_method(machine.accelerators)
        if wishes.method is not None:
            self.method, why = wishes.method, 'given'
        self.recipe = recipe_name(self.method, wishes.mixture)
        self.rows.append(Row('method', self.method, why, '--method'))
        self.base = load_config(self.recipe)
        self.cfg = load_config(self.recipe, self.given) if self.given else self.base
        self.accelerated = machine.accelerators > 0
        self.network = PlannedNetwork(self.method, self.cfg.model.backbone, wishes)
        images = facts.images
        self.minutes = wishes.minutes or default_minutes(images, machine.accelerators)

    def put(self, name: str, key: str, value: Any, reason: str, flag: str = '') -> Any:
        """Add a value; return it, or the one that the user has given; ``flag`` is an option that changes it too."""
        if key in self.given:
            value, reason = self.given[key], 'given'
        self.options[key] = value
        self.rows.append(Row(name, value, reason, f'{flag}, {key}' if flag else key))
        return value

    def plan(self) -> Plan:
        """Return the plan."""
        facts, machine, wishes = self.facts, self.machine, self.wishes
        if self.method == 'cmc' and facts.grey:
            raise ValueError('--method cmc contrasts lightness with colour, and the images are grey. Take another one.')
        mixture = MIXTURES[wishes.mixture]
        if mixture is not None:
            kinds = {0.0: 'a box of each image is pasted', 1.0: 'images are averaged', 0.5: 'either kind by chance'}
            self.put(
                'mixtures, global share', 'model.unmix.mixing.prob', mixture, f'Un-Mix: {kinds[mixture]}', '--mixture'
            )
        evaluated, share, held_out = self.hold_out()
        whole = facts.images - held_out
        self.views()
        size = self.view_size(whole)
        cost = self.backbone(whole, size)
        speed = self.speed(cost, size)
        evaluations, bank, tests = self.evaluation(whole, held_out, speed) if evaluated else (0, 0, 0.0)
        budget = max(speed * (self.minutes * 60 - START) - tests, 0)
        images = whole
        if EPOCHS not in self.given and budget < LEAST_EPOCHS * whole:
            images = min(whole, max(int(budget / LEAST_EPOCHS), min(whole, 256)))
        self.statistics()
        head = self.head()
        total = self.batch(head, max(images - len(facts.broken), 0), cost, size)
        steps = images // total
        if images < whole:
            images = steps * total
            self.rows.append(
                Row('images of the training', images, f'{LEAST_EPOCHS} passes over more take too long', '--minutes')
            )
        epochs = self.epochs(images, steps * total, budget)
        self.rates(total, steps * epochs)
        changes = head.suitable(self.sizes(images, total, epochs))
        most = {f'model.head.{key}': value for key, value in self.largest.items()}
        for key, value in (most | (changes or {})).items():
            self.put(key.rpartition('.')[2].replace('_', ' '), key, value, _why(key))
        self.loader()
        self.intervals(epochs, evaluations, steps * epochs)
        seconds = START + (tests + epochs * steps * total) / speed
        self.judge(steps * epochs, speed, total)
        return Plan(
            recipe=self.recipe,
            options=self.options | self.given,
            rows=tuple(self.rows),
            facts=facts,
            machine=machine,
            images=images,
            held_out=held_out,
            batch=total,
            epochs=epochs,
            minutes=self.minutes,
            seconds=seconds,
            share=share,
            chosen=images if images < whole else None,
            bank=bank,
            evaluated=evaluated,
            notes=tuple(self.notes),
        )

    def hold_out(self) -> tuple[bool, float, int]:
        """Return whether there is an evaluation, and the share and number of images that are held out for it."""
        facts, classes = self.facts, len(self.facts.classes)
        if classes < 2 or facts.images < LEAST_PER_CLASS * classes:
            why = 'no class folders' if classes < 2 else f'{classes} class folders of few images each'
            self.rows.append(
                Row('held out, to test on', 0, f'{why}: features are not tested, but their health is', 'DIR')
            )
            return False, 0.0, 0
        if facts.tested is not None:
            self.rows.append(Row('held out, to test on', 0, f'{facts.tested} has images to test on', 'DIR'))
            return True, 0.0, 0
        wanted = min(facts.images / 5, max(1000, facts.images / 50), 10_000)
        share = math.ceil(1e4 * wanted / facts.images) / 1e4
        number = sum(math.ceil(count * share) for count in facts.classes)
        self.rows.append(
            Row('held out, to test on', number, f'{share:.2%} of each of {classes} classes', 'DIR/train, val')
        )
        return True, share, number

    def evaluation(self, images: int, held_out: int, speed: float) -> tuple[int, int, float]:
        """Return how often the features are tested during the training, on a bank of how many images, and its cost.

        The cost is in images of the training. With the test at the end, on random weights too, it is at most about a
        fifth of the time.
        """
        room, tested = 0.2 * PASSES * speed * self.minutes * 60, held_out or images // 4
        bank = min(images, 50_000 if self.accelerated else 10_000)
        times = EVALUATIONS if (EVALUATIONS + 2) * (bank + tested) <= room else 1
        bank = min(bank, max(int(room / (times + 2)) - tested, 1000))
        return times, bank, (times + 2) * (bank + tested) / PASSES

    def views(self) -> None:
        """Set which part of an image a view shows at least, and whether views are flipped."""
        side, cropped, mirrored = self.facts.side, self.facts.cropped, self.facts.mirrored
        least, reason = round(min(max((CROP / side) ** 2, 0.2), 0.6), 2), 'usual'
        if least > 0.2:
            reason = f'so that views show about {CROP} pixels of images of {side} or more'
        if cropped is not None and cropped >= STRANGE and least < 0.6:
            least, reason = 0.6, f'{cropped:.0%} of the images are less like the others when cropped to their middle'
        self.put('least share of a view', CROPS, (least, 1.0), reason)
        kinds = [transform['type'] for transform in self.cfg.train_dataloader.dataset.pipeline.transforms]
        if 'RandomHorizontalFlip' not in kinds:
            return
        key = f'{TRANSFORMS}.{kinds.index("RandomHorizontalFlip")}.p'
        if mirrored is None or mirrored < STRANGE:
            self.put('flips, share', key, 0.5, 'usual' if mirrored is None else 'mirrored images are like the others')
        else:
            self.put('flips, share', key, 0.0, f'{mirrored:.0%} of the images are less like the others when mirrored')

    def view_size(self, images: int) -> int:
        """Return the side of the views."""
        side = self.facts.side
        fitting_side = min(max(-(-side // 32) * 32, 32), 224)
        if self.accelerated:
            size = 224 if side >= 160 else fitting_side
            return self.put_size(size, f'half of the images have {side} px or more')
        seconds, size = self.minutes * 60 - START, min(fitting_side, 64)
        passes = seconds * self.estimate(self.network.cost(), size) * self.machine.processes / images
        steps = passes * images / max(batch_sizes(images, 1, 64), default=1)
        if size > 32 and (passes < GOOD_PASSES or steps < LEAST_STEPS):
            reason = f'a CPU: at {size} px there is time for {passes:.0f} passes only'
            return self.put_size(32, reason)
        reason = f'half of the images have {side} px or more' + (', and this is a CPU' if fitting_side > size else '')
        return self.put_size(size, reason)

    def put_size(self, size: int, reason: str) -> int:
        """Set the side of the views; a network of a library may need another one."""
        size, reason = self.network.side(size, reason)
        return int(self.put('side of views, px', VIEWS, size, reason))

    def backbone(self, images: int, size: int) -> Cost:
        """Return the cost of the network, and set what depends on it."""
        network = self.network
        if network.library is not None:
            self.options |= network.library_options(size)
            where = '--backbone, model.backbone.model_name'
            self.rows.append(Row('network', network.library.model_name, str(network.reason), where))
            return network.cost()
        value, reason = 18, 'the smallest stock ResNet'
        if network.wanted is not None:
            value, reason = network.wanted, str(network.reason)
        elif self.accelerated and images >= MANY and size >= 160:
            value, reason = 50, f'{MANY:,} images or more, on an accelerator'
        depth = int(self.put('network, ResNet-', network.key, value, reason, '--backbone'))
        self.options |= network.resnet_options(depth, self.options)
        return resnet_cost(depth)

    def estimate(self, cost: Cost, size: int) -> float:
        """Return the images a second of a process, from the operations of the network."""
        return estimate_pace(cost, size, None if self.accelerated else self.machine.cores)

    def speed(self, cost: Cost, size: int) -> float:
        """Return the images a second of all processes."""
        return (self.machine.speed or self.estimate(cost, size)) * self.machine.processes

    def statistics(self) -> None:
        """Set mean and std of the images to those of the weights at the start, or note that these are not known."""
        start, own = self.wishes.start, self.cfg.model.get('data_preprocessor') or {}
        if start is None:
            return
        for key, value in start.statistics.items():
            if len(value) == len(own.get(key) or ()):
                self.put(f'{key} of the images', f'model.data_preprocessor.{key}', value, f'that of {start.source}')
        keys = {key: f'model.data_preprocessor.{key}' for key in ('mean', 'std')}
        if not start.statistics and own and not self.given.keys() & {*keys.values()}:
            values = ' and '.join(f'{key} {list(own[key])}' for key in keys if own.get(key))
            self.notes.append(
                f'{start.source} does not say the mean and std of its images. Those of the recipe are used, {values}. '
                f'If the weights had others, give them: --cfg-options {keys["mean"]}=... {keys["std"]}=...'
            )

    def head(self) -> Any:
        """Build the head, without memory, with the sizes that it has on many images."""
        given = {key for key in self.largest if f'model.head.{key}' in self.given}
        cfg = self.cfg.model.head.copy()
        cfg.update({key: value for key, value in self.largest.items() if key not in given})
        with torch.device('meta'):
            return MODELS.build(cfg)

    @property
    def largest(self) -> dict[str, Any]:
        """Return the sizes that the head has on many images."""
        return dict(self.cfg.get('largest', {}))

    def sizes(self, images: int, total: int, epochs: int) -> Sizes:
        """Return the sizes that the head has to fit."""
        seen = images // total * total
        dim = self.cfg.model.neck.get('out_dim')
        return Sizes(images, total, seen, epochs * max(seen // total, 1), dim, CHOICE)

    def batch(self, head: Any, images: int, cost: Cost, size: int) -> int:
        """Return the batch of all processes, and set that of one."""
        world, key = self.machine.processes, 'train_dataloader.batch_size'
        most, reason = (
            (64, 'a CPU: more steps are worth more than larger ones')
            if not self.accelerated
            else (
                max(256 // world, 32) if images < MANY else max(512 // world, 32),
                'usual for so many images',
            )
        )
        if self.machine.memory is not None:
            maps = map_bytes(cost, size)
            room = 2 ** int(math.log2(max(0.7 * self.machine.memory / maps, 1)))
            most, reason = (
                (room, f'the memory of the accelerator, about {maps / 1e6:.0f} MB an image')
                if room < most
                else (most, reason)
            )
        candidates = [self.given[key]] if key in self.given else batch_sizes(images, world, most)
        found = fitting([head], lambda size: self.sizes(images, size * world, LEAST_STEPS), candidates)
        if found is None or images < max(found[0] * world, SMALL):
            raise ValueError(
                f'{self.facts.root} has {images} images to train on, too few for a batch'
                + (f' ({len(self.facts.broken)} more cannot be read). ' if self.facts.broken else '. ')
                + (f'Set {key} to less.' if key in self.given else 'More are needed.')
            )
        if found[0] < most:
            reason = f'at most a quarter of {images:,} images'
        batch = int(self.put('batch of a process', key, found[0], reason))
        splits = types.SimpleNamespace(num_splits=self.network.groups)
        for option, value in splits_for(splits, batch).items():
            self.put('groups of BatchNorm', option, value, 'at least 2 images each')
        return batch * world

    def epochs(self, images: int, seen: int, budget: float) -> int:
        """Return the number of epochs."""
        full, allowed = full_epochs(images), int(budget // seen)
        reason = f'of {full} that are usual for so many images, what {self.minutes:g} minutes allow'
        if allowed >= full:
            reason = 'usual for so many images; more bring little'
        if self.wishes.start is not None:
            reason += '; as many as from random weights'
        return int(self.put('epochs', EPOCHS, max(min(full, allowed), 1), reason, '--minutes'))

    def rates(self, total: int, steps: int) -> None:
        """Set optimiser, learning rate, weight decay and the momentum of the momentum encoder."""
        optimizer = self.cfg.optim_wrapper.optimizer
        own, at = self.base.optim_wrapper.optimizer.lr, self.base.train_dataloader.batch_size
        place = 'optim_wrapper.optimizer'
        if not self.network.has_batch_norm and not {place, f'{place}.type'} & self.given.keys():
            optimizer, own, at = ConfigDict(TRANSFORMER), TRANSFORMER['lr'], 256
            self.options[f'{place}._delete_'] = True
            self.options |= {f'{place}.{key}': value for key, value in TRANSFORMER.items()}
            self.options['optim_wrapper.paramwise_cfg'] = dict(no_decay=True)
            reason = 'a network without BatchNorm; no decay of norms, biases and tokens'
            self.rows.append(Row('optimiser', optimizer.type, reason, f'{place}.type'))
        share = 1.0 if self.wishes.start is None else CONTINUED
        lr, reason = float(f'{share * own * total / at:.6g}'), f'{own:g} for a batch of {at}, in proportion'
        if share < 1:
            reason += f'; {share:g} of that, so that the weights it starts from are kept at first'
        self.put('learning rate', f'{place}.lr', lr, reason)
        if optimizer.type == 'SGD':
            many = self.facts.images >= MANY
            reason = 'as on ImageNet' if many else 'few images'
            self.put('weight decay', 'optim_wrapper.optimizer.weight_decay', 1e-4 if many else 5e-4, reason)
        if 'momentum' in self.cfg.model:
            value = round(min(max(1 - 2 / math.sqrt(steps), 0.9), 0.999), 4)
            reason = f'1 - 2 / sqrt(steps): so it averages a small part of {steps:,} steps'
            self.put('momentum of the encoder of keys', 'model.momentum', value, reason)

    def loader(self) -> None:
        """Set workers and threads."""
        cores = self.machine.cores
        workers = min(cores - 1, 12) if self.accelerated else min(cores - 1, 1)
        reason = f'{cores} cores for each process' + ('' if self.accelerated else ', which the network needs')
        workers = self.put('workers', 'train_dataloader.num_workers', workers, reason)
        self.put('broken images', BROKEN, 'skip', 'others take their places, and the log says which')
        self.options['train_dataloader.persistent_workers'] = workers > 0
        if not self.accelerated:
            self.put('threads', 'num_threads', cores, 'all cores of the process')

    def intervals(self, epochs: int, evaluations: int, steps: int) -> None:
        """Set how often the run is evaluated, saved, watched and printed."""
        for hook in ('logger', 'health'):
            self.options[f'default_hooks.{hook}.interval'] = min(50, max(steps // 8, 1))
        self.options['train_cfg.val_interval'] = max(epochs // (evaluations or 1), 1)
        self.options['default_hooks.checkpoint.interval'] = max(epochs // EVALUATIONS, 1)
        self.options['default_hooks.progress.interval'] = max(epochs // 20, 1)

    def judge(self, steps: int, speed: float, total: int) -> None:
        """Note what is not as it should be."""
        if steps < LEAST_STEPS // 2:
            minutes = math.ceil((START + 1.3 * LEAST_STEPS * total / speed) / 60)
            views = f' --cfg-options {VIEWS}={self.options[VIEWS]}'  # which more time may make larger, and so slower
            more = f'--minutes {minutes}' + ('' if VIEWS in self.given else views)
            if EPOCHS in self.given:
                more = f'{EPOCHS}={epochs_for(steps // self.given[EPOCHS], 1)}'
            before = 'random weights' if self.wishes.start is None else 'the weights at the start'
            self.notes.append(
                f'{steps} steps are few: features hardly get better than those of {before}. {more} would give about '
                f'{LEAST_STEPS}.'
            )
        self.notes += self.facts.notes
        if self.facts.broken:
            self.notes.append(
                f'{len(self.facts.broken)} of the images looked at cannot be read: {few(self.facts.broken)}. unmix '
                f'doctor {shown(self.facts.root)} lists all.'
            )
        if self.machine.accelerators > self.machine.processes:
            self.notes.append(
                f'{self.machine.accelerators} accelerators are here, and {self.machine.processes} is used. For all: '
                f'torchrun --nproc_per_node={self.machine.accelerators} $(which unmix) train ... --launcher pytorch'
            )


def _why(key: str) -> str:
    return WHY.get(key.rpartition('.')[2], 'fits the number of images')


def recipe_name(method: str, mixture: str) -> str:
    """Return the recipe of a method.

    Raises:
        ValueError: If there is no such method or mixture.
    """
    if method not in METHODS:
        raise ValueError(f'--method is {method!r}. {suggest(method, METHODS)}')
    if mixture not in MIXTURES:
        raise ValueError(f'--mixture is {mixture!r}. {suggest(mixture, MIXTURES)}')
    return f'unmix::quickstart/{"" if mixture == "none" else "unmix-"}{method}_folder.py'
