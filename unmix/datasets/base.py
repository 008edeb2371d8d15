"""What all data sets have in common, and how items become a batch."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from unmix.datasets.broken import POLICIES, BatchDataset
from unmix.datasets.decode import EXHAUSTED, BrokenImage
from unmix.datasets.samplers import SampleKey
from unmix.datasets.transforms import to_tensor
from unmix.registry import FUNCTIONS, TRANSFORMS
from unmix.utils.names import shown

Pipeline = Callable[[Any, SampleKey], Any]
CHUNK = 8


class BaseDataset(BatchDataset):
    """A data set of images. A new one defines ``__len__`` and ``load``::

        @DATASETS.register_module()
        class Stripes(BaseDataset):
            def __len__(self):
                return 100

            def load(self, index):
                return Image.new('RGB', (32, 32), (2 * index, 0, 0)), index % 2

    An item is a dict with ``inputs`` (what the pipeline makes of the image: a list of views, or a tensor), ``index``
    and, for a labelled image, ``label``. Images are in units of 0 to 255.

    Args:
        pipeline: Config of a pipeline (``MultiView``, ``SingleView``, ``BatchMultiView``), or a callable
            ``(image, key) -> inputs``. None: the image as a tensor.
        broken: What a loader does with images that cannot be read. 'error' ends the run, with the name and number of
            the image; 'skip' lets the next images of the epoch's order take their places, see :class:`BatchDataset`.

    Attributes:
        labels: (N,) int64, or None if there are none or they are not known beforehand.
        classes: Names of the classes, if they have any.
        image_size: Side of its images, where all are squares of one size.
    """

    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None
    image_size: ClassVar[int | None] = None
    decodes: ClassVar[bool] = False  # whether it decodes files as the pipeline says
    pipeline: Pipeline | None = None

    def __init__(self, pipeline: dict[str, Any] | Pipeline | None = None, broken: str = 'error') -> None:
        if broken not in POLICIES:
            raise ValueError(f'dataset.broken is {broken!r}; expected one of {", ".join(map(repr, POLICIES))}.')
        self.broken = broken
        self.pipeline = TRANSFORMS.build(pipeline) if isinstance(pipeline, dict) else pipeline
        if not self.decodes and getattr(self.pipeline, 'reader', None) is not None:
            raise ValueError(
                f'dataset.pipeline.transforms.0 is LoadImageFromFile, but {type(self).__name__} gives images, not '
                'files. Take it out of the pipeline.'
            )
        prepare = getattr(self.pipeline, 'prepare', None)
        if prepare is not None:
            prepare()  # before there are workers, each of which would have to

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def load(self, index: int) -> tuple[Image.Image | Tensor, int | None]:
        """Return an image, PIL or tensor (C, H, W), and its label; None if it has none."""

    def name(self, index: int) -> str:
        """Return the name of an image, the same wherever the data lie; '' if images have none.

        A resumed run compares names and contents with those of its checkpoint.
        """
        return ''

    def encoded(self, index: int) -> bytes | None:
        """Return the bytes of the file of an image; None if images are no files. ``unmix doctor`` asks for them.

        Raises:
            OSError: If they cannot be read.
        """
        return None

    def examined(self) -> str:
        """Return what ``unmix doctor`` is to be given to find all images that cannot be read, for messages."""
        return 'CONFIG'

    def content(self, index: int) -> bytes:
        """Return bytes that change with the image, quickly, from any thread; empty by default: they are not compared.

        Of files, :func:`~unmix.datasets.evidence.file_evidence`.
        """
        return b''

    def read(self, index: int) -> tuple[Image.Image | Tensor, int | None]:
        """Return an image and its label as :meth:`load` does.

        Raises:
            BrokenImage: If it cannot be read; the message names it, and says what to do.
        """
        try:
            image, label = self.load(index)
            if isinstance(image, Image.Image):
                image.load()  # PIL opens a file first and decodes it later
        except (BrokenImage, OSError) as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            reason = str(error)
            if not isinstance(error, BrokenImage):
                reason = f'The image {shown(self.name(index))} cannot be read ({error}).'
            raise BrokenImage(
                f'{reason} It is number {index} of the data set. "unmix doctor {self.examined()}" lists all '
                "such images; with dataset.broken='skip' a loader takes others in their places."
            ) from error
        return image, label

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        key = SampleKey.of(key)
        image, label = self.read(key.index)
        inputs = to_tensor(image) if self.pipeline is None else self.pipeline(image, key)
        item = dict(inputs=inputs, index=key.index)
        return item if label is None else item | {'label': int(label)}

    def batch(self, keys: Sequence[int | SampleKey]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a batch, if the pipeline makes one of images of any sizes and items are those above; else a list."""
        if not getattr(self.pipeline, 'fused', False) or type(self).__getitem__ is not BaseDataset.__getitem__:
            return [self[key] for key in keys]
        pipeline: Any = self.pipeline
        full_keys = SampleKey.all_of(keys)
        deferred = getattr(pipeline, 'deferred', False)
        size = len(keys) if deferred else CHUNK  # so that few images are in memory before they are cropped
        inputs: Any = None
        views: list[Tensor] = []
        labels: list[int | None] = []
        for start in range(0, len(keys), size):
            part = full_keys[start : start + size]
            loaded = [self.read(key.index) for key in part]
            images = [to_tensor(image) for image, _ in loaded]
            labels += [None if label is None else int(label) for _, label in loaded]
            if deferred:
                inputs = pipeline.defer(images, part)
            else:
                views = views or pipeline.empty(len(keys), images[0])
                made = pipeline.batch(images, part, [view[start : start + len(part)] for view in views])
                inputs = views if isinstance(made, list) else views[0]
        batch = dict(inputs=inputs, index=torch.tensor([key.index for key in full_keys]))
        if None in labels and set(labels) != {None}:
            raise ValueError('Some images of a batch have labels and others have none. Label all images or none.')
        return batch if None in labels else batch | {'label': torch.tensor(labels)}

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None without labels."""
        if self.classes is not None:
            return len(self.classes)
        return None if self.labels is None else int(self.labels.max()) + 1

    @property
    def metainfo(self) -> dict[str, Any]:
        """What MMEngine hands to the visualizer."""
        return {} if self.classes is None else dict(classes=self.classes)


@FUNCTIONS.register_module()
def collate(items: list[dict[str, Any]] | dict[str, Any]) -> dict[str, Any]:
    """Stack items to a batch; what a data set has built as a whole (``__getitems__``) is a batch already.

    Raises:
        ValueError: If the images differ in size, or some have a label and others none.
    """
    if isinstance(items, dict):
        return items
    keys = {tuple(item) for item in items}
    if len(keys) > 1:
        raise ValueError(f'The items of a batch have different keys: {sorted(keys)}. Label all images or none.')
    views = [item['inputs'] if isinstance(item['inputs'], list) else [item['inputs']] for item in items]
    kinds = [{tuple(view.shape) for view in column if isinstance(view, Tensor)} for column in zip(*views, strict=False)]
    if any(len(shapes) > 1 for shapes in kinds):
        shapes = next(shapes for shapes in kinds if len(shapes) > 1)
        raise ValueError(
            f'The images of a batch have different sizes: {sorted(shapes)[:4]}. Give the data set a pipeline that ends '
            "in one size, e.g. dict(type='SingleView', transforms=[dict(type='Resize', size=256), "
            "dict(type='CenterCrop', size=224)])."
        )
    batch: dict[str, Any] = default_collate(items)
    return batch
