"""Load the weights of an earlier training into a part of a model."""

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit as MMEnginePretrainedInit
from mmengine.model import update_init_info
from mmengine.runner import CheckpointLoader
from torch import nn

from unmix.models.backbones.resnet import STEMS
from unmix.registry import WEIGHT_INITIALIZERS
from unmix.utils.matching import check_match, tensors_of


def load_pretrained(
    module: nn.Module,
    path: str,
    prefix: str,
    key: str,
    strict: bool = True,
    map_location: Any = 'cpu',
    config: Mapping[str, Any] | None = None,
) -> None:
    """Load the tensors of a checkpoint whose names begin with ``prefix``; log how many the module got.

    Args:
        module: What they are loaded into.
        path: Checkpoint, a file or an http(s) address.
        prefix: Such as ``'backbone.'``; ``''`` for all.
        key: The config key that names the checkpoint, for messages.
        strict: Whether names and shapes must match, all of them. If not, what fits is loaded.
        map_location: As for ``torch.load``.
        config: The module's, if it is a backbone: what the checkpoint says of its own must not differ.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ``strict`` and it does not match, or nothing does.
    """
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location=map_location)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{key}={path!r} does not exist; give the checkpoint of a pre-training.') from error
    own = module.state_dict()
    found = tensors_of(checkpoint, f'{key}={path!r}', own, prefix)
    if strict and config is not None:
        check_backbone(config, checkpoint, f'{key}={path!r}')
    share = check_match(own, found, f'{key}={path!r}', strict, f'{key.rpartition(".")[0]}.strict')
    fitting = {name: tensor for name, tensor in found.items() if name in own and tensor.shape == own[name].shape}
    module.load_state_dict(fitting, strict=False)
    what = f'{prefix.rstrip(".") or "model"} tensors'
    print_log(f'Loaded {len(fitting)} {what} ({share:.0%} of the model) from {path}', logger='current')


def model_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a model that a checkpoint stores in ``meta.model``, in plain containers.

    That is the config of its backbone and its normalisation, and of a classifier its head.

    Args:
        model: Config of a model.
    """
    keys = ('backbone', 'data_preprocessor', *(['head'] if model.get('type') == 'Classifier' else []))
    return {key: _plain(model[key]) for key in keys if model.get(key) is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    return [_plain(x) for x in value] if isinstance(value, list | tuple) else value


# Settings of a backbone that do not change what trained weights compute.
_OF_THE_TRAINING = {
    *('init_cfg', 'num_splits', 'zero_init_residual'),
    *('drop_path', 'freeze_patch_embed', 'fixed_positions', 'dynamic_img_size', 'channels_last'),
}


def check_backbone(own: Mapping[str, Any], checkpoint: Any, source: str) -> None:
    """Compare a backbone's config with the one in the ``meta`` of a checkpoint, if there is one.

    Stride, padding and max-pool of a stem do not show in names and shapes of tensors.

    Raises:
        ValueError: If they differ.
    """
    place = checkpoint
    for key in ('meta', 'model', 'backbone'):
        place = place.get(key) if isinstance(place, Mapping) else None
    written = place if isinstance(place, Mapping) else {}
    for key in sorted((own.keys() & written.keys()) - _OF_THE_TRAINING):
        a, b = _settings(own[key]), _settings(written[key])
        if a != b:
            raise ValueError(
                f'{source} is a checkpoint of another model: backbone.{key} is {b} there and {a} here. Give the '
                'config that the checkpoint was trained with, or another checkpoint.'
            )


def _settings(value: Any) -> Any:
    """Return settings in one form: a stem's name as its settings, lists as tuples."""
    if isinstance(value, Mapping):
        return {key: _settings(x) for key, x in value.items()}
    if isinstance(value, str):
        return STEMS.get(value, value)
    return tuple(map(_settings, value)) if isinstance(value, list | tuple) else value


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class PretrainedInit(MMEnginePretrainedInit):
    """MMEngine's ``init_cfg=dict(type='Pretrained', checkpoint=...)``, which loads what fits, with a guard.

    Args:
        checkpoint: File or http(s) address.
        prefix: Take the tensors whose names begin with it, such as ``'backbone'``. None: all.
        map_location: As for ``torch.load``.
        strict: Whether names and shapes must match, all of them. If not, what fits is loaded.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: Any = 'cpu', strict: bool = True
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.strict = strict

    def __call__(self, module: nn.Module) -> None:
        """Load the module's tensors."""
        prefix = f'{self.prefix.rstrip(".")}.' if self.prefix else ''
        load_pretrained(module, self.checkpoint, prefix, 'init_cfg.checkpoint', self.strict, self.map_location)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
