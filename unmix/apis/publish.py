"""A training's checkpoint as a file to hand out, and its entry in the metafile."""

import argparse
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from unmix.checkpoint.load import load_from_local
from unmix.checkpoint.save import save_checkpoint
from unmix.config import find_config, load_config
from unmix.models.pretrained import check_backbone, model_settings
from unmix.registry import MODELS
from unmix.utils.digest import file_sha256
from unmix.utils.files import atomic_path
from unmix.utils.matching import check_match, tensors_of
from unmix.version import __version__

DESCRIPTION = """Make a checkpoint of a training one to hand out: CONFIG_DATE-SHA256.pth, weights without the optimiser.

Its address and digest are written to the entry of the config in the metafile.yml beside it, if there is one, where the
model zoo finds them.

python tools/model_converters/publish_model.py unmix::moco/NAME.py work_dirs/NAME/epoch_200.pth weights
"""


def publish_model(
    config: str,
    checkpoint: str,
    directory: str | Path,
    url: str | None = None,
    backbone_only: bool = False,
    classifier: str | None = None,
) -> Path:
    """Write the weights of a checkpoint and the entry of the metafile; see ``DESCRIPTION``.

    Args:
        config: Path, or ``unmix::...``.
        checkpoint: Of a training of this config.
        directory: Where the file goes.
        url: Where it will be found, without its name; None: in ``directory``, which the metafile then names from the
            folder of its index on if it is below that one.
        backbone_only: Leave out all that follows the backbone.
        classifier: Checkpoint of a linear evaluation on this backbone. Its classifier takes the place of what followed
            the backbone, so that the file is one of a :class:`Classifier`.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If config or checkpoint do not exist.
        ValueError: If the checkpoint is not one of this config, the classifier is not one on its backbone, or the
            metafile has no entry of its name.
    """
    path = find_config(config)
    metafile = path.with_name('metafile.yml')
    if metafile.is_file():
        _entry(metafile.read_text(encoding='utf-8'), path.stem, metafile)  # complain before anything is written
    content = _weights(config, path.stem, checkpoint, backbone_only or classifier is not None)
    if classifier is not None:
        _add_classifier(content, classifier, checkpoint)
    directory = Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix='.publish-') as temporary:
        file = Path(temporary) / 'weights.pth'
        save_checkpoint(content, str(file))
        digest = file_sha256(file)
        target = directory / f'{path.stem}_{content["meta"]["date"]}-{digest[:8]}.pth'
        os.replace(file, target)
    if metafile.is_file():
        address = f'{url.rstrip("/")}/{target.name}' if url else _address(target, metafile, path.stem)
        write_entry(metafile, path.stem, address, digest)
    return target


def _address(file: Path, metafile: Path, name: str) -> str:
    """Return the path of a file from the folder of the model index on, which ``Config`` counts from, or its URI."""
    models = yaml.safe_load(metafile.read_text(encoding='utf-8'))['Models']
    config = Path(next(model for model in models if model['Name'] == name).get('Config', f'{name}.py'))
    root = metafile.resolve().parents[len(config.parts) - 1]
    file = file.resolve()
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_uri()


def _weights(config: str, name: str, checkpoint: str, backbone_only: bool) -> dict[str, Any]:
    """Return the weights of a checkpoint that is one of the config, and what is worth knowing of their training."""
    content = load_from_local(checkpoint, map_location='cpu')
    state = tensors_of(content, checkpoint)
    model = load_config(config).model
    with torch.device('meta'):
        own = MODELS.build(model).state_dict()
    check_backbone(model.backbone, content, checkpoint)
    check_match(own, state, checkpoint)
    settings = model_settings(model)
    if backbone_only:
        state = {name: tensor for name, tensor in state.items() if name.startswith('backbone.')}
        settings.pop('head', None)
    found = content.get('meta') or {}
    written = str(found.get('time', ''))[:8]
    date = written if re.fullmatch(r'\d{8}', written) else time.strftime('%Y%m%d')
    kept = {key: found[key] for key in ('epoch', 'iter', 'seed') if isinstance(found.get(key), int)}
    meta = dict(config=name, date=date, unmix_version=__version__, model=settings, **kept)
    return dict(meta=meta, state_dict=state)


def _add_classifier(content: dict[str, Any], classifier: str, checkpoint: str) -> None:
    """Add the classifier of a linear evaluation, which must have been trained on the very same backbone."""
    found = tensors_of(load_from_local(classifier, map_location='cpu'), classifier)
    own = content['state_dict']
    for name, tensor in own.items():
        if name not in found or not torch.equal(found[name], tensor):
            raise ValueError(
                f'The backbone of {classifier} is not that of {checkpoint}: {name} '
                f'{"differs" if name in found else "is missing"}. Give the checkpoint of a linear evaluation with '
                f'model.pretrained={checkpoint}, model.freeze=True and model.bn_mode=eval.'
            )
    head = {name: tensor for name, tensor in found.items() if name.startswith('head.')}
    if head.keys() != {'head.fc.weight', 'head.fc.bias'}:
        raise ValueError(
            f'{classifier} has no single linear classifier but {", ".join(sorted(head)[:4]) or "none"}; train one, '
            'with model.head.lrs=None.'
        )
    own |= head
    num_classes, in_dim = head['head.fc.weight'].shape
    content['meta']['model']['head'] = dict(type='ClassificationHead', in_dim=in_dim, num_classes=num_classes)


def _entry(text: str, name: str, metafile: Path) -> re.Match[str]:
    """Return the place of the weights in the entry of a model."""
    pattern = rf'^  - Name: {re.escape(name)}\n(?:(?!  - Name:).*\n)*?(    Weights:.*\n(?:    SHA256:.*\n)?)'
    match = re.search(pattern, text if text.endswith('\n') else text + '\n', re.MULTILINE)
    if match is None:
        names = [model['Name'] for model in yaml.safe_load(text).get('Models', [])]
        raise ValueError(
            f'{metafile} has no entry "- Name: {name}" with "Weights:"; add one. It has {", ".join(names)}.'
        )
    return match


def write_entry(metafile: Path, name: str, address: str, digest: str) -> None:
    """Write where the weights of a model are, and their digest, to its entry; all else stays as it is.

    Raises:
        ValueError: If there is no such entry.
    """
    text = metafile.read_text(encoding='utf-8')
    text = text if text.endswith('\n') else text + '\n'
    start, end = _entry(text, name, metafile).span(1)
    text = f'{text[:start]}    Weights: {address}\n    SHA256: {digest}\n{text[end:]}'
    with atomic_path(metafile) as temporary:
        temporary.write_text(text, encoding='utf-8')


def publish(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config, or unmix::METHOD/NAME')
    parser.add_argument('checkpoint', help='checkpoint of a training of this config')
    parser.add_argument('directory', help='where the file goes')
    parser.add_argument('--url', help='where the file will be found, without its name (default: the directory)')
    parser.add_argument('--backbone-only', action='store_true', help='leave out all that follows the backbone')
    parser.add_argument('--classifier', help='checkpoint of a linear evaluation on this backbone, to be put with it')
    args = parser.parse_args(arguments)
    print(publish_model(**vars(args)))
