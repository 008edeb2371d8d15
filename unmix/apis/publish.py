"""Make a file to publish from a checkpoint, with its entry in the metafile."""

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
from pooch import file_hash

from unmix.checkpoint.load import load_from_local
from unmix.checkpoint.of_run import checkpoint_of
from unmix.checkpoint.save import save_checkpoint
from unmix.config import find_config, load_config
from unmix.models.pretrained import check_backbone, model_settings
from unmix.registry import MODELS
from unmix.utils.files import atomic_path
from unmix.utils.matching import check_match, tensors_of
from unmix.version import __version__

DESCRIPTION = """Make a file to publish from a checkpoint: CONFIG_DATE-SHA256.pth, weights without the optimiser.

If a metafile.yml is beside the config, the config's entry gets the address and digest, where the model zoo reads them.

python tools/model_converters/publish_model.py unmix::moco/NAME.py work_dirs/NAME/epoch_200.pth weights
"""


def publish_model(
    config: str,
    checkpoint: str,
    directory: str | Path | None = None,
    url: str | None = None,
    backbone_only: bool = False,
    classifier: str | None = None,
    replace: bool = False,
) -> Path:
    """Write the weights of a checkpoint and the entry of the metafile; see ``DESCRIPTION``.

    Args:
        config: Path, or ``unmix::...``.
        checkpoint: Of a training of this config; or the work dir of the run, for its newest one.
        directory: Folder of the file. None: that of the checkpoint.
        url: Address of the folder where it will be published. None: ``directory``; the metafile then has a path
            relative to the folder of its index, if ``directory`` is below that folder.
        backbone_only: Leave out all that follows the backbone.
        classifier: Checkpoint, or run, of a linear evaluation on this backbone. Its classifier replaces all that
            follows the backbone, so that the file is one of a :class:`Classifier`.
        replace: Whether the entry may be written if it already has the digest of another file.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If config or checkpoint do not exist.
        ValueError: If the checkpoint is not one of this config, the classifier is not one on its backbone, or the
            metafile has no entry of its name, or one with another digest and ``replace`` is not set; nothing is written
            then.
    """
    path = find_config(config)
    checkpoint = str(checkpoint_of(checkpoint))
    metafile = path.with_name('metafile.yml')
    text = metafile.read_text(encoding='utf-8') if metafile.is_file() else ''
    text += '' if text.endswith('\n') or not text else '\n'
    start, end = _entry(text, path.stem, metafile) if text else (0, 0)
    content = _weights(config, path.stem, checkpoint, backbone_only or classifier is not None)
    if classifier is not None:
        _add_classifier(content, classifier, checkpoint)
    directory = Path(checkpoint).parent if directory is None else Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix='.publish-') as temporary:
        file = Path(temporary) / 'weights.pth'
        save_checkpoint(content, str(file))
        digest = file_hash(file)
        if not replace:
            _refuse_another(text[start:end], digest, path.stem, metafile)
        target = directory / f'{path.stem}_{content["meta"]["date"]}-{digest[:8]}.pth'
        os.replace(file, target)
    if text:
        address = f'{url.rstrip("/")}/{target.name}' if url else _address(target, metafile, path.stem)
        with atomic_path(metafile) as place:
            written = f'    Weights: {address}\n    SHA256: {digest}\n'
            place.write_text(text[:start] + written + text[end:], encoding='utf-8')
    return target


def _refuse_another(entry: str, digest: str, name: str, metafile: Path) -> None:
    """Refuse to write over the digest of another file."""
    published = re.search(r'^    SHA256: *(\w+)', entry, re.MULTILINE)
    if published and published[1].lower() != digest:
        raise ValueError(
            f'{metafile} has published weights of {name} already, and their digest would be replaced:\n'
            f'- SHA256: {published[1]}\n+ SHA256: {digest}\nNothing was written. Everyone who has the weights would '
            'be told that they are damaged. Give --replace to do it, or publish under a config of another name.'
        )


def _address(file: Path, metafile: Path, name: str) -> str:
    """Return the path of a file relative to the folder of the model index, as ``Config`` is, or else its URI."""
    models = yaml.safe_load(metafile.read_text(encoding='utf-8'))['Models']
    config = Path(next(model for model in models if model['Name'] == name).get('Config', f'{name}.py'))
    root = metafile.resolve().parents[len(config.parts) - 1]
    file = file.resolve()
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_uri()


def _weights(config: str, name: str, checkpoint: str, backbone_only: bool) -> dict[str, Any]:
    """Return the weights of a checkpoint, checked against the config, with ``meta`` on their training."""
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
    """Add the classifier of a linear evaluation on exactly this backbone."""
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


def _entry(text: str, name: str, metafile: Path) -> tuple[int, int]:
    """Return where the lines of the weights in the entry of a model begin and end."""
    pattern = rf'^  - Name: {re.escape(name)}\n(?:(?!  - Name:).*\n)*?(    Weights:.*\n(?:    SHA256:.*\n)?)'
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        names = [model['Name'] for model in yaml.safe_load(text).get('Models', [])]
        raise ValueError(
            f'{metafile} has no entry "- Name: {name}" with "Weights:"; add one. It has {", ".join(names)}.'
        )
    return match.span(1)


def publish(arguments: Sequence[str] | None = None) -> None:
    """Run ``publish_model`` with arguments of the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config, or unmix::METHOD/NAME')
    parser.add_argument('checkpoint', help='checkpoint of a training of this config, or its work dir')
    parser.add_argument('directory', nargs='?', help='folder of the file (default: that of the checkpoint)')
    parser.add_argument('--url', help='where the folder will be published (default: the directory)')
    parser.add_argument('--backbone-only', action='store_true', help='leave out all that follows the backbone')
    parser.add_argument('--classifier', help='checkpoint of a linear evaluation on this backbone, to be put with it')
    parser.add_argument('--replace', action='store_true', help='replace a digest that the metafile already has')
    args = parser.parse_args(arguments)
    print(publish_model(**vars(args)))
