"""Linear evaluation and fine-tuning."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel, ModuleDict
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.models.guarded import Guarded
from unmix.models.heads.classification_head import ClassificationHead
from unmix.models.pretrained import load_pretrained
from unmix.registry import MODELS
from unmix.utils.rng import seeded


@MODELS.register_module()
class Classifier(Guarded, BaseModel):
    """A classifier on a pre-trained backbone, which is frozen (linear evaluation) or trained along (fine-tuning).

    A frozen backbone has no gradient and stays in evaluation mode, so BatchNorm's running statistics do not move either
    (`MoCo <https://arxiv.org/abs/1911.05722>`_, Sec. 4.1, and its released code). PIC's released code leaves BatchNorm
    in training mode instead: batch statistics while the classifier is trained, running ones that follow the new data
    and are used in the test. Its published figures are made that way.

    Without head it is a backbone alone, for protocols on frozen features: of any method's checkpoint, ``backbone.*`` is
    taken.

    Args:
        backbone: Images to features (N, D).
        head: A :class:`ClassificationHead`; ``in_dim`` is the backbone's if it is not given. None: no classifier.
        freeze: Whether the backbone is frozen.
        bn_mode: ``'eval'``, or ``'train'`` for the training mode of a frozen backbone's BatchNorm.
        layer: Take the map after this layer of the backbone (see :class:`ResNet`), pooled to ``pool`` x ``pool`` pixels
            by adaptive averages and flattened, as `CMC <https://arxiv.org/abs/1906.05849>`_ does. None: its features.
        pool: Side of the pooled map.
        pretrained: Checkpoint of a pre-training, file or http(s) address; its ``backbone.*`` is loaded in
            ``init_weights``, that is before a training and not before a test. None: random weights.
        strict: Whether all tensors of the backbone must be there. If not, those that fit are loaded.
        control: Also train the same head on a frozen backbone with random weights, with the same batches. Its
            accuracies are named ``random_init/...``. It costs a second pass through the backbone, without gradients.
        data_preprocessor: Device, float, normalisation; see :class:`DataPreprocessor`.

    Raises:
        FileNotFoundError: If there is no file ``pretrained``.
        ValueError: If it holds another backbone, or bn_mode, layer, pool or control do not fit.
    """

    head: ClassificationHead | None
    data_preprocessor: Any

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any] | None = None,
        freeze: bool = True,
        bn_mode: str = 'eval',
        layer: int | None = None,
        pool: int | None = None,
        pretrained: str | None = None,
        strict: bool = True,
        control: bool = False,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(MODELS.build(dict(type='DataPreprocessor') | (data_preprocessor or {})), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.freeze, self.bn_mode, self.layer, self.pool = freeze, bn_mode, layer, pool
        self.pretrained, self.strict, self._config = pretrained, strict, backbone
        if bn_mode not in ('eval', 'train') or (bn_mode == 'train' and not freeze):
            raise ValueError(
                f"model.bn_mode is {bn_mode!r} with freeze={freeze}; it is 'eval' or 'train', the latter for a frozen "
                'backbone: one that is fine-tuned is in training mode anyway.'
            )
        dims = getattr(self.backbone, 'layer_dims', ())
        if (layer is None) != (pool is None) or (layer is not None and not 1 <= layer <= len(dims)):
            raise ValueError(
                f'model.layer is {layer} and model.pool {pool}; give both or none, and a layer from 1 to {len(dims)}.'
            )
        if layer is not None and pool is not None:
            in_dim = dims[layer - 1] * pool**2
        else:
            in_dim = getattr(self.backbone, 'out_dim', None)
        known = {} if in_dim is None else {'in_dim': in_dim}
        self.head = None if head is None else MODELS.build(known | head)
        if self.head is not None:
            self.data_preprocessor.num_classes = self.head.num_classes
        self.control = None
        if control:
            if head is None or not freeze:
                raise ValueError(
                    'model.control needs model.head and freeze=True. For fine-tuning from random weights, train again '
                    'with model.pretrained=None.'
                )
            with seeded('random_init'):
                self.control = ModuleDict(dict(backbone=MODELS.build(backbone), head=MODELS.build(known | head)))
        if freeze:
            for network in self._backbones():
                # Without head nothing is trained, but DistributedDataParallel wants something that could be.
                network.requires_grad_(self.head is None)
                network.eval()

    def _backbones(self) -> list[nn.Module]:
        return [self.backbone] if self.control is None else [self.backbone, self.control['backbone']]

    def init_weights(self) -> None:
        """Initialise all weights, then load the backbone's from ``pretrained``."""
        super().init_weights()
        if self.pretrained is not None:
            args = (self.pretrained, 'backbone.', 'model.pretrained', self.strict)
            load_pretrained(self.backbone, *args, config=self._config)
        elif self.freeze and self.head is not None:
            print_log(
                'model.pretrained is not set: unless load_from gives other weights, the frozen backbone stays random.',
                logger='current',
                level=logging.WARNING,
            )

    def train(self, mode: bool = True) -> 'Classifier':
        """Set the mode; a frozen backbone stays in evaluation mode unless ``bn_mode`` says otherwise."""
        super().train(mode)
        if self.freeze and self.bn_mode == 'eval':
            for network in self._backbones():
                network.eval()
        return self

    def select(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors of a checkpoint that are this model's: without head the backbone's, else all."""
        if self.head is not None:
            return state_dict
        return {name: tensor for name, tensor in state_dict.items() if name.startswith('backbone.')}

    def extract_feat(self, x: Tensor, stage: str = 'backbone') -> Tensor:
        """Return features (N, D) of images (N, C, H, W): the backbone's, or the pooled map of its ``layer``.

        Raises:
            ValueError: If ``stage`` is not ``'backbone'``; a classifier has no other.
        """
        if stage != 'backbone':
            raise ValueError(f"stage is {stage!r}; the features of a Classifier are taken after its 'backbone'.")
        return self._features(self.backbone, x)

    def _features(self, backbone: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad() if self.freeze else nullcontext():
            if self.layer is None:
                return backbone(x)
            return F.adaptive_avg_pool2d(backbone(x, self.layer), self.pool).flatten(1)

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
            ValueError: If labels are missing in mode ``'loss'``, there is no head, there are several views, or the mode
                is another one.
        """
        if not isinstance(inputs, Tensor):
            if len(inputs) != 1:
                raise ValueError(f'Classifier received {len(inputs)} views an image; the data set must deliver one.')
            inputs = inputs[0]
        features = self.extract_feat(inputs)
        if self.head is None:
            if mode == 'tensor':
                return features
            raise ValueError('Classifier has no model.head to train or to test; FeatureLoop needs none.')
        if mode == 'loss':
            if label is None:
                raise ValueError(
                    'Classifier cannot be trained: train_dataloader delivers no labels. Set train_dataloader.dataset '
                    'to one that has them; ImageFolder reads them from one folder for each class.'
                )
            losses = dict(loss_classification=self.head(features, label))
            if self.control is not None:
                losses['loss_random_init'] = self.control['head'](
                    self._features(self.control['backbone'], inputs), label
                )
            return losses
        scores = self.head.logits(features)
        if mode == 'tensor':
            return scores
        if mode == 'predict':
            labels = [None] * len(scores) if label is None else label
            names = self.head.names
            samples = [dict(scores=score, label=y, names=names) for score, y in zip(scores, labels, strict=True)]
            if self.control is not None:
                features = self._features(self.control['backbone'], inputs)
                for sample, score in zip(samples, self.control['head'].logits(features), strict=True):
                    sample['random_init'] = score
            return samples
        raise ValueError(f"mode is {mode!r}; it is 'loss', 'tensor' or 'predict'.")
