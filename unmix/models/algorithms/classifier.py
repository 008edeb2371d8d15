"""Linear evaluation and fine-tuning."""

import logging
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from unmix.models.heads.classification_head import ClassificationHead
from unmix.registry import MODELS
from unmix.utils.matching import check_match


@MODELS.register_module()
class Classifier(BaseModel):
    """A classifier on a pre-trained backbone, which is frozen (linear evaluation) or trained along (fine-tuning).

    A frozen backbone has no gradient and stays in evaluation mode, so BatchNorm's running statistics do not move either
    (`MoCo <https://arxiv.org/abs/1911.05722>`_, Sec. 4.1, and its released code).

    Args:
        backbone: Images to features (N, D).
        head: A :class:`ClassificationHead`.
        freeze: Whether the backbone is frozen.
        pretrained: Checkpoint of a pre-training, file or http(s) address; its ``backbone.*`` is loaded in
            ``init_weights``, that is before a training and not before a test. None: random weights.
        data_preprocessor: Device, float, normalisation; see :class:`DataPreprocessor`.

    Raises:
        FileNotFoundError: If there is no file ``pretrained``.
        ValueError: If it holds another backbone.
    """

    head: ClassificationHead

    def __init__(
        self,
        backbone: dict,
        head: dict,
        freeze: bool = True,
        pretrained: str | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(MODELS.build(dict(type='DataPreprocessor') | (data_preprocessor or {})), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.head = MODELS.build(head)
        self.freeze = freeze
        self.pretrained = pretrained
        if freeze:
            self.backbone.requires_grad_(False)
            self.backbone.eval()

    def init_weights(self) -> None:
        """Initialise all weights, then load the backbone's from ``pretrained``."""
        super().init_weights()
        if self.pretrained is not None:
            load_backbone(self.backbone, self.pretrained)
        elif self.freeze:
            print_log(
                'model.pretrained is not set: unless load_from gives other weights, the frozen backbone stays random.',
                logger='current',
                level=logging.WARNING,
            )

    def train(self, mode: bool = True) -> 'Classifier':
        """Set the mode of all but a frozen backbone."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def extract_feat(self, x: Tensor, stage: str = 'backbone') -> Tensor:
        """Return backbone features (N, D) of images (N, C, H, W).

        Raises:
            ValueError: If ``stage`` is not ``'backbone'``; a classifier has no other.
        """
        if stage != 'backbone':
            raise ValueError(f"stage is {stage!r}; the features of a Classifier are taken after its 'backbone'.")
        with torch.no_grad() if self.freeze else nullcontext():
            return self.backbone(x)

    def forward(
        self, inputs: Tensor, index: Tensor | None = None, label: Tensor | None = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[dict[str, Any]]:
        """Return the loss, class scores (N, C), or what :class:`Accuracy` reads.

        Args:
            inputs: Images (N, C, H, W), normalised; a list must hold one view.
            index: Accepted because batches carry it.
            label: Classes (N,).
            mode: ``'loss'``, ``'tensor'`` or ``'predict'``.

        Raises:
            ValueError: If labels are missing in mode ``'loss'``, there are several views, or the mode is another one.
        """
        if not isinstance(inputs, Tensor):
            if len(inputs) != 1:
                raise ValueError(f'Classifier received {len(inputs)} views an image; the data set must deliver one.')
            inputs = inputs[0]
        features = self.extract_feat(inputs)
        if mode == 'loss':
            if label is None:
                raise ValueError('Classifier cannot be trained: train_dataloader delivers no labels.')
            return dict(loss_classification=self.head(features, label))
        scores = self.head.logits(features)
        if mode == 'tensor':
            return scores
        if mode == 'predict':
            labels = [None] * len(scores) if label is None else label
            return [dict(scores=score, label=y) for score, y in zip(scores, labels, strict=True)]
        raise ValueError(f"mode is {mode!r}; it is 'loss', 'tensor' or 'predict'.")


def load_backbone(backbone: nn.Module, path: str) -> None:
    """Load the tensors ``backbone.*`` of a checkpoint, and say how many there were.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Unless names and shapes match, all of them.
    """
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'model.pretrained={path!r} does not exist; give the checkpoint of a pre-training.'
        ) from error
    prefix = 'backbone.'
    state = checkpoint.get('state_dict', checkpoint)
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    share = check_match(backbone.state_dict(), found, f'model.pretrained={path!r}')
    backbone.load_state_dict(found)
    print_log(f'Loaded {len(found)} backbone tensors ({share:.0%} of the model) from {path}', logger='current')
