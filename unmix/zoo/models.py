"""Networks by name or of a run, with or without their weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from unmix.checkpoint.load import load_from_local
from unmix.checkpoint.of_run import checkpoint_of, config_beside, is_place
from unmix.config import load_config
from unmix.converters.containers import read
from unmix.converters.start import read_start
from unmix.models.pretrained import check_backbone
from unmix.registry import MODELS
from unmix.utils.matching import check_match, tensors_of
from unmix.zoo.index import find_model
from unmix.zoo.preparation import image_transform
from unmix.zoo.weights import download

OTHERS = ('.safetensors', '.pkl')  # files that no training here writes
# Mean and std of torchvision's networks, in units of 0 to 255.
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@DefaultScope.overwrite_default_scope('unmix')  # another toolbox's may be the default
def get_model(
    name: str | Path,
    pretrained: bool = True,
    classifier: bool = False,
    trust: bool = False,
    backbone: str | None = None,
) -> nn.Module:
    """Return a model of the zoo, or of a run, in evaluation mode: its backbone, or the linear classifier with it.

    A backbone takes images (N, C, H, W) to features (N, D), a classifier to class scores (N, classes). Images are
    prepared by ``model.transform``, or normalised as ``pretrained_cfg['data_preprocessor']`` says, in the units of its
    mean and std (0 to 255).

    Args:
        name: As :func:`unmix.list_models` gives it; or the path of a checkpoint, or of the work dir of a run (its
            newest checkpoint). The config of its training is beside it; if not, the backbone is found by what the
            file itself says, as by ``unmix convert``, also in files of other codes. Their normalisation, if they do not
            say it, is that of ImageNet, for one channel the means of its three values.
        pretrained: Whether it has its weights; if not, they are random.
        classifier: Whether the linear classifier that was published or trained with the backbone follows it; of
            several learning rates that which is best in the ``results.json`` of the run.
        trust: Whether to read the config of a model of another index (UNMIX_MODEL_INDEX), which can execute any code.
        backbone: The network of a file of another code that does not say it, ``timm:NAME`` or ``torchvision:NAME``, as
            ``--backbone`` of ``unmix train --data DIR --from FILE``.

    Returns:
        The model, with the attributes ``out_dim``, the dimension D (of a backbone), ``transform``, which turns an image
        or the path of one into the tensor (C, H, W) that the model takes, and ``pretrained_cfg``, a dict of ``name``,
        ``config`` (file, or None), ``weights`` (file, or None) and ``data_preprocessor`` (a config).

    Raises:
        ConnectionError, OSError: If the weights cannot be read, see :func:`unmix.zoo.download`, or there is no config
            beside a checkpoint.
        ValueError: If there is no such model or classifier, its index is not trusted, or the weights are refused:
            another digest, more than weights in the file, or weights of another network.
    """
    if classifier and not pretrained:
        raise ValueError(f'{name} has its linear classifier only with weights; give pretrained=True.')
    config, file, source = _locate(name, pretrained, trust)
    if backbone is not None and (config is not None or file is None):
        raise ValueError(f'{name} has a config, which says its network; leave out backbone={backbone!r}.')
    state: dict[str, Tensor] = {}
    if config is None and file is not None:
        cfg, state = _by_itself(file, classifier, backbone)
    else:
        cfg = load_config(str(config))
    own = cfg.model.to_dict()['backbone']
    preprocessor = dict(type='DataPreprocessor') | (cfg.model.to_dict().get('data_preprocessor') or {})
    network = own
    if file is not None and config is not None:
        state = read_weights(file, own, source)
        if classifier:
            state = {name: tensor for name, tensor in state.items() if not name.startswith('control.')}
            state = _one_head(state, file, source)
            head = _head(state, source)
            trained = cfg.model if cfg.model.get('type') == 'Classifier' else {}
            place = {key: trained[key] for key in ('layer', 'pool') if trained.get(key) is not None}
            network = dict(
                type='Classifier', backbone=own, head=head, freeze=False, data_preprocessor=preprocessor, **place
            )
        else:
            state = below(state, 'backbone.')
    model = MODELS.build(network)
    if file is not None:
        check_match(model.state_dict(), state, source)
        model.load_state_dict(state)
    model.pretrained_cfg = dict(
        name=str(name).removeprefix('unmix::'),
        config=None if config is None else str(config),
        weights=None if file is None else str(file),
        data_preprocessor=preprocessor,
    )
    model.transform = image_transform(cfg)
    return cast(nn.Module, model.eval())


def _locate(name: str | Path, pretrained: bool, trust: bool) -> tuple[Path | None, Path | None, str]:
    """Return the config of a model, the file of its weights, None if they are not wanted, and words for that file.

    The config is None if a file has none beside it, and its weights are wanted.
    """
    if is_place(name):
        file = checkpoint_of(name)
        if file.suffix in OTHERS and file.is_file():
            return None, file, str(file)
        try:
            config = config_beside(file)
        except FileNotFoundError:
            if not pretrained or not file.is_file():
                raise
            return None, file, str(file)
        return config, file if pretrained else None, str(file)
    entry = find_model(str(name))
    config = entry.config_to_read(trust)
    weights = download(entry.name) if pretrained else None
    return config, weights, f'{weights}, the weights of {entry.name},'


def _by_itself(file: Path, classifier: bool, network: str | None) -> tuple[Config, dict[str, Tensor]]:
    """Return the config of the backbone in a file that has no config beside it, and its tensors.

    Raises:
        ValueError: If the file does not say which network it is of, or a classifier is wanted.
    """
    if classifier:
        raise ValueError(f'The config of {file}, which a classifier needs, is not beside it; take classifier=False.')
    content = read(file)
    written = (content.get('meta') or {}).get('model') or {} if isinstance(content, Mapping) else {}
    found = read_start(str(file), network)
    grey = {key: [sum(values) / 3] for key, values in IMAGENET.items()}
    unsaid = grey if found.backbone.get('in_channels') == 1 else IMAGENET
    preprocessor = written.get('data_preprocessor') or found.statistics or unsaid
    return Config(dict(model=dict(backbone=found.backbone, data_preprocessor=preprocessor))), found.state


def read_weights(
    file: Path, backbone: Mapping[str, Any], source: str, own: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint.

    Args:
        file: The checkpoint.
        backbone: Config of the backbone that the tensors are for.
        source: Description of the checkpoint, for messages.
        own: State dict of the network, with ``backbone.`` before the names of its backbone, by which the weights are
            found in a checkpoint of another code. None: they are its ``state_dict``.

    Raises:
        ValueError: If the file holds more than weights, or says that they are those of another backbone.
    """
    checkpoint = load_from_local(str(file), map_location='cpu')
    check_backbone(backbone, checkpoint, source)
    return tensors_of(checkpoint, source, own)


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name begins with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _one_head(state: dict[str, Tensor], file: Path, source: str) -> dict[str, Tensor]:
    """Return the tensors with one linear classifier: of several learning rates that which ``results.json`` names best.

    Raises:
        ValueError: If there are several, and the file is not beside the checkpoint or does not name one.
    """
    if 'head.fc.0.weight' not in state:
        return state
    results = file.with_name('results.json')
    try:
        best = int(json.loads(results.read_text(encoding='utf-8'))['accuracy']['head'])
        one = {f'head.fc.{key}': state[f'head.fc.{best}.{key}'] for key in ('weight', 'bias')}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{source} has linear classifiers of several learning rates, and {results}, which says which one is best, '
            'is missing or does not say it. Take classifier=False, or train one with model.head.lrs=None.'
        ) from error
    return {name: x for name, x in state.items() if not name.startswith('head.fc.')} | one


def _head(state: dict[str, Tensor], source: str) -> dict[str, Any]:
    """Return the config of the classifier that a checkpoint has beside its backbone."""
    rest = {name for name in state if not name.startswith('backbone.')}
    if rest != {'head.fc.weight', 'head.fc.bias'}:
        raise ValueError(
            f'{source} has no linear classifier but {", ".join(sorted(rest)[:3]) or "a backbone only"}; take '
            'classifier=False. publish_model.py --classifier puts one with a backbone.'
        )
    return dict(type='ClassificationHead', num_classes=len(state['head.fc.bias']))


def load_weights(filename: str, map_location: Any = None) -> Any:
    """Load the checkpoint of a model of the zoo; MMEngine's loader of ``unmix::NAME``.

    Raises:
        ConnectionError, OSError, ValueError: As :func:`unmix.zoo.download`; also if the file holds more than weights.
    """
    return load_from_local(str(download(filename)), map_location=map_location)
