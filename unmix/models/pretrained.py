"""Load the weights of an earlier training into a part of a model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit as MMEnginePretrainedInit
from mmengine.model import update_init_info
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from unmix.config.check import arguments
from unmix.models.backbones.resnet import STEMS
from unmix.registry import MODELS, WEIGHT_INITIALIZERS
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
    *('init_cfg', '_scope_', 'num_splits', 'zero_init_residual'),
    *('drop_path', 'freeze_patch_embed', 'fixed_positions', 'dynamic_img_size', 'channels_last'),
}


def check_backbone(own: Mapping[str, Any], checkpoint: Any, source: str) -> None:
    """Compare a backbone's config with the one in the ``meta`` of a checkpoint, if there is one.

    Stride, padding and max-pool of a stem, the pooling and the heads of a ViT do not show in names and shapes of
    tensors. A setting that one side omits has its default there. Settings that are written in two ways, such as the
    default of a library, are equal if both networks give the same features.

    Raises:
        ValueError: If they differ.
    """
    place = checkpoint
    for key in ('meta', 'model', 'backbone'):
        place = place.get(key) if isinstance(place, Mapping) else None
    if not own or not isinstance(place, Mapping):
        return
    kinds = dict(_classes(own))
    here, there = _settings(own, kinds), _settings(place, kinds)
    differ = [key for key in sorted(here.keys() | there.keys()) if here.get(key, ...) != there.get(key, ...)]
    if differ and not ('type' not in differ and _compute_the_same(own, place)):
        key = 'type' if 'type' in differ else differ[0]
        a, b = (_told(key, given, full) for given, full in ((own, here), (place, there)))
        raise ValueError(
            f'{source} is a checkpoint of another model: backbone.{key} is {b} there and {a} here. Give the '
            'config that the checkpoint was trained with, or another checkpoint.'
        )


def _told(key: str, given: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    value = full.get(key, 'not set')
    return f'{value}' if key in given or key not in full else f'{value} (the default)'


def _classes(config: Mapping[str, Any]) -> Iterator[tuple[str, type]]:
    """Yield names and classes of the networks in a config."""
    found = MODELS.get(config['type']) if isinstance(config.get('type'), str) else config.get('type')
    if isinstance(found, type):
        yield found.__name__, found
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _classes(value)


def _settings(value: Any, kinds: Mapping[str, type]) -> Any:
    """Return settings in one form: a stem's name as its settings, lists as tuples, and of a network all that count.

    Args:
        value: Settings. A checkpoint's may name any Python object as ``type``, so none is looked for.
        kinds: Classes of networks by name.
    """
    if isinstance(value, Mapping):
        found = {key: _settings(x, kinds) for key, x in value.items()}
        name = getattr(value.get('type'), '__name__', str(value.get('type'))).rpartition('.')[2]
        if name in kinds:
            parameters = arguments(kinds[name])[0].values()
            defaults = {p.name: _settings(p.default, kinds) for p in parameters if p.default is not p.empty}
            found = {k: x for k, x in (defaults | found | dict(type=name)).items() if k not in _OF_THE_TRAINING}
        return found
    if isinstance(value, str):
        return STEMS.get(value, value)
    return tuple(_settings(x, kinds) for x in value) if isinstance(value, list | tuple) else value


@torch.no_grad()
def _compute_the_same(own: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Whether two backbones of a type give the same features of an image with the same weights, in evaluation mode.

    False if this cannot be found out: one cannot be built, has further networks in it, or has other weights.
    """
    if any(isinstance(x, Mapping) and 'type' in x for key, x in written.items() if key != 'init_cfg'):
        return False
    generator = torch.Generator().manual_seed(0)

    def random(size: Sequence[int]) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    configs = [{k: x for k, x in config.items() if k not in ('init_cfg', '_scope_')} for config in (own, written)]
    try:
        with torch.random.fork_rng(devices=[]):
            a, b = (MODELS.build(config | dict(type=own['type'])).double().eval() for config in configs)
        state = a.state_dict()
        # The initial weights may be 0 where networks differ.
        noisy = {name: x + 0.02 * random(x.shape) if x.is_floating_point() else x for name, x in state.items()}
        a.load_state_dict(noisy)
        b.load_state_dict(noisy)
        channels = getattr(a, 'in_channels', None) or next(x.shape[1] for x in state.values() if x.ndim == 4)
        side = getattr(a, 'probe', 64)
        image = random((1, channels, side, side))
        x, y = a(image), b(image)
        return bool((x - y).norm() <= 1e-9 * x.norm())  # float64 rounds by far less
    except (ImportError, LookupError, TypeError, ValueError, RuntimeError, AssertionError, StopIteration):
        return False


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
