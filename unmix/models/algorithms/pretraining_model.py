"""What the Runner, the evaluation and the tools see of a pre-training model."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from mmengine.model import BaseModel
from torch import Tensor

from unmix.mixing import UnMix
from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS


class PretrainingModel(BaseModel):
    """Backbone, neck, head and Un-Mix, built from their configs; features for evaluation, losses for training.

    Args:
        backbone: Images to features (N, D).
        head: The loss and its state.
        neck: Features to the space of the loss; None for none.
        unmix: ``dict(type='UnMix')`` adds Un-Mix to the method; None is the plain method.
        data_preprocessor: Device, float, normalisation; see :class:`DataPreprocessor`.
    """

    head: BaseHead
    unmix: UnMix | None

    def __init__(
        self,
        backbone: dict,
        head: dict,
        neck: dict | None = None,
        unmix: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(MODELS.build(dict(type='DataPreprocessor') | (data_preprocessor or {})), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = torch.nn.Identity() if neck is None else MODELS.build(neck)
        self.head = MODELS.build(head)
        self.unmix = None if unmix is None else MODELS.build(unmix)

    def encode(self, view: Tensor) -> Tensor:
        """Return the queries (N, D) of one view: backbone and projection."""
        return self.project(self.backbone(view))

    def project(self, features: Tensor) -> Tensor:
        """Return the queries (N, D) of backbone features: neck, and unit length unless the head needs the length."""
        queries = self.neck(features)
        return torch.nn.functional.normalize(queries, dim=1) if self.head.unit_length else queries

    @abstractmethod
    def loss(self, inputs: Sequence[Tensor], index: Tensor | None = None) -> dict[str, Tensor]:
        """Return the terms of one training step on the views ``inputs`` of instances ``index`` (N,)."""

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the terms called loss, and all terms for the log.

        MMEngine's form takes the mean of each term first, a node of the graph for each; terms here are scalars.
        """
        total = reduce(add, [term for name, term in losses.items() if 'loss' in name])
        return total, {'loss': total, **losses}

    def extract_feat(self, x: Tensor, stage: str = 'backbone') -> Tensor:
        """Return features (N, D) of images (N, C, H, W): the backbone's, or the neck's at unit length.

        Raises:
            ValueError: If ``stage`` is neither ``'backbone'`` nor ``'neck'``.
        """
        if stage not in ('backbone', 'neck'):
            raise ValueError(f"stage is {stage!r}; features are taken after 'backbone' or 'neck'.")
        features = self.backbone(x)
        return features if stage == 'backbone' else torch.nn.functional.normalize(self.neck(features), dim=1)

    def forward(
        self,
        inputs: Tensor | Sequence[Tensor],
        index: Tensor | None = None,
        label: Tensor | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor]:
        """Run a training step (``'loss'``) or extract backbone features (``'tensor'``, ``'predict'``).

        ``label`` is accepted because batches carry it, and never read: pre-training knows no labels.

        Raises:
            ValueError: If ``mode`` is another one.
        """
        if mode == 'loss':
            return self.loss([inputs] if isinstance(inputs, Tensor) else inputs, index)
        if mode in ('tensor', 'predict'):
            return self.extract_feat(inputs if isinstance(inputs, Tensor) else inputs[0])
        raise ValueError(f"mode is {mode!r}; it is 'loss', 'tensor' or 'predict'.")
