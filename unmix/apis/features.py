"""Features of a folder of images: function and command."""

import argparse
import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.data import DataLoader

from unmix.checkpoint.of_run import checkpoint_of, config_beside, is_place
from unmix.config import load_config
from unmix.datasets import ImageFolder, collate
from unmix.engine.loops.feature_loop import eval_mode
from unmix.evaluation.extraction import Encoder, collect_features
from unmix.registry import DATASETS, MODELS
from unmix.utils.files import atomic_path, check_writable
from unmix.utils.matching import check_match
from unmix.utils.names import text
from unmix.zoo.index import TRUST, find_model
from unmix.zoo.models import below, read_weights
from unmix.zoo.preparation import evaluated, evaluation_pipeline
from unmix.zoo.weights import download

SUFFIXES = ('.npz', '.parquet')
DESCRIPTION = """Write the features of all images below a folder to a file.

%(prog)s unmix-moco_digits images/ --out features.npz
%(prog)s work_dirs/NAME images/ --out features.parquet

The file holds paths, features and, where sub-folders are classes, labels and classes; images are prepared as the config
prepares those that it evaluates on. A .parquet file has a row per image: path, feature, label and class. Where a
name of a file is not UTF-8, its paths or classes are bytes.
"""


@DefaultScope.overwrite_default_scope('unmix')  # another toolbox's may be the default
def extract_features(
    model: str | Path | nn.Module,
    folder: str | Path,
    *,
    config: str | Path | None = None,
    stage: str | None = None,
    size: int | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str | None = None,
    trust: bool = False,
) -> dict[str, np.ndarray]:
    """Return the features of all images below a folder, as ``tools/test.py`` computes them.

    Images are not augmented; they are prepared as the config prepares those that it evaluates on. If those all have
    one size, or are grey, the images are resized to it, or converted to grey. Photographs are turned upright, as their
    EXIF orientation says, also where the config's data set has ``exif=False``.

    Args:
        model: Name of a model of the zoo, a checkpoint, the work dir of a run (its newest checkpoint), or a network:
            one of :func:`unmix.get_model`, an algorithm, or any module that takes normalised images (N, C, H, W) to
            features (N, ...).
        folder: A folder or archive, as for :class:`unmix.datasets.ImageFolder`: at least two sub-folders and no image
            beside them are classes, all else is unlabelled.
        config: Path or name of the model's config; not needed for names of the zoo, networks of ``get_model``, and
            checkpoints that have the config of their training beside them.
        stage: ``'backbone'``, or ``'neck'`` for the projection. None: as in the config's evaluation.
        size: Side of the centre crop, out of images of 8/7 of that on their shorter side. None: as the config has it.
        batch_size: None: the config's for evaluation.
        num_workers: Likewise.
        device: Where the network is moved to. None: a network stays, a model from a file goes to the accelerator if
            there is one.
        trust: As for :func:`unmix.get_model`.

    Returns:
        ``paths`` (N,), relative to the folder, in order; ``features`` (N, D) float32; with classes also ``labels``
        (N,) int64 and ``classes``, their names. Names are read as UTF-8, other bytes as surrogates
        (``os.fsencode(path)`` is the name in the file system).

    Raises:
        FileNotFoundError: If there is no such folder, checkpoint or config, or no image.
        ValueError: If an image cannot be read, there is no such model, a checkpoint does not fit, or the config has no
            pipeline for evaluation.
    """
    for name, value in dict(size=size, batch_size=batch_size).items():
        if value is not None and value < 1:
            raise ValueError(f'{name} is {value}; expected a whole number from 1.')
    _check_device(device)
    model, cfg = _located(model, config, trust)
    decode_size = evaluated(cfg).get('decode_size') if size is None else None
    decoder = evaluated(cfg).get('decoder', 'auto')
    pipeline = evaluation_pipeline(cfg, size)
    dataset = ImageFolder(folder, pipeline=pipeline, decode_size=decode_size, decoder=decoder)
    features = _compute(model, cfg, dataset, stage, batch_size, num_workers, device)
    paths = np.array([text(path) for path in dataset.paths.tolist()])
    found = dict(paths=paths, features=features)
    if dataset.labels is not None and dataset.classes is not None:
        found |= dict(labels=dataset.labels.numpy(), classes=np.array(dataset.classes))
    return found


@DefaultScope.overwrite_default_scope('unmix')
def features_of_test_set(
    model: str | Path, *, config: str | Path | None = None, stage: str | None = None, device: str | None = None
) -> tuple[np.ndarray, Any]:
    """Return the features (N, D) float32 of the images that a model is tested on, and their data set.

    Arguments and errors are those of :func:`extract_features`.

    Raises:
        ValueError: Also if the config tests on nothing.
    """
    located, cfg = _located(model, config, False)
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        raise ValueError(f'{cfg.filename} has no test_dataloader: give a folder of images.')
    dataset = DATASETS.build(loader['dataset'])
    return _compute(located, cfg, dataset, stage, None, None, device), dataset


def _located(
    model: str | Path | nn.Module, config: str | Path | None, trust: bool
) -> tuple[str | Path | nn.Module, Config]:
    """Return a model, whose checkpoint, if it has one, is a path, and its config."""
    if not isinstance(model, nn.Module) and is_place(model):
        model = checkpoint_of(model)
    return model, load_config(str(config or _config_of(model, trust)))


def _compute(
    model: str | Path | nn.Module,
    cfg: Config,
    dataset: Any,
    stage: str | None,
    batch_size: int | None,
    num_workers: int | None,
    device: str | None,
) -> np.ndarray:
    """Return the features (N, D) of a data set; arguments are those of :func:`extract_features`."""
    evaluation = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    stage = stage or (cfg.get('test_cfg') or cfg.get('val_cfg') or {}).get('stage', 'backbone')
    if isinstance(model, nn.Module):
        network, default = model, next((parameter.device for parameter in model.parameters()), 'cpu')
    else:
        network, default = _load(model, cfg, stage), get_device()
    network.to(device or default)
    encode = _encoder(network, cfg, stage, device or default)
    loader = DataLoader(
        dataset,
        batch_size or evaluation.get('batch_size', 256),
        num_workers=evaluation.get('num_workers', 0) if num_workers is None else num_workers,
        collate_fn=collate,
        pin_memory=torch.device(device or default).type == 'cuda',
    )
    with eval_mode(network):
        # A folder may have no labels; collect_features needs some, so it gets the index.
        shards = collect_features((dict(batch, label=batch['index']) for batch in loader), {'': encode})
    assert shards is not None
    rows = shards[''].whole()
    assert rows is not None
    return rows.features.float().numpy()


def _check_device(device: str | None) -> None:
    """Check that tensors can be on a device.

    Raises:
        ValueError: If they cannot.
    """
    try:
        torch.empty(0, device=device or None)
    except (RuntimeError, AssertionError) as error:  # the latter: PyTorch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(
            f'device is {device!r}, which cannot be used ({reason}). Leave it out, or give cpu, or an accelerator that '
            'is here, such as cuda:0.'
        ) from error


def _encoder(network: Any, cfg: Config, stage: str, device: Any) -> Encoder:
    """Return the function from a batch of images to features.

    Raises:
        ValueError: If the stage is not ``'backbone'`` and the network is no algorithm.
    """
    preprocessor = getattr(network, 'data_preprocessor', None)
    if preprocessor is None:
        preprocessor = MODELS.build(dict(type='DataPreprocessor') | (cfg.model.get('data_preprocessor') or {}))
    preprocessor.to(device)
    forward = network
    if hasattr(network, 'extract_feat'):
        forward = partial(network.extract_feat, stage=stage)
    elif stage != 'backbone':
        raise ValueError(f'A {type(network).__name__} has no stage {stage!r}; give an algorithm, or a checkpoint.')
    return lambda batch: forward(preprocessor(dict(inputs=batch['inputs']), False)['inputs'])


def _config_of(model: str | Path | nn.Module, trust: bool) -> str:
    """Return the config of a name of the zoo, of a checkpoint, or of a network of ``get_model``.

    Raises:
        FileNotFoundError: If the checkpoint does not exist, or has no config beside it.
        ValueError: If the network is another one, or the index of a name is not trusted.
    """
    if isinstance(model, nn.Module):
        known = getattr(model, 'pretrained_cfg', None)
        if known is None or 'config' not in known:
            raise ValueError(f'How images are prepared for this {type(model).__name__} is not known; give its config.')
        return str(known['config'])
    return str(config_beside(model) if isinstance(model, Path) else find_model(model).config_to_read(trust))


def _load(model: str | Path, cfg: Config, stage: str) -> nn.Module:
    """Build the network that computes the features, and load its weights from a checkpoint or the zoo."""
    file = model if isinstance(model, Path) else download(model)
    parts: tuple[str, ...] = ('',)
    if stage == 'backbone':  # the rest is not needed, and banks are large
        network = MODELS.build(cfg.model.backbone)
        own = {f'backbone.{name}': tensor for name, tensor in network.state_dict().items()}
        state = below(read_weights(file, cfg.model.backbone, str(file), own), 'backbone.')
    else:
        network, parts = MODELS.build(cfg.model), ('backbone.', 'neck.')
        state = read_weights(file, cfg.model.backbone, str(file), network.state_dict())
    own, state = (
        {name: tensor for name, tensor in tensors.items() if name.startswith(parts)}
        for tensors in (network.state_dict(), state)
    )
    check_match(own, state, str(file))
    network.load_state_dict(state, strict=False)
    return cast(nn.Module, network)


def features(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Write features to a file, whole or not at all; ``prog`` is the name of the command in messages.

    Raises:
        ValueError: If the file ends neither in .npz nor in .parquet, or pyarrow is missing for the latter.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help="a run, a checkpoint, or a model of the zoo ('unmix list --pretrained')")
    parser.add_argument('folder', help='images at any depth; two or more sub-folders are classes')
    parser.add_argument('--out', required=True, metavar='FILE', help='.npz or .parquet')
    parser.add_argument('--config', help='path or name of a config (default: the one beside the checkpoint)')
    parser.add_argument('--stage', choices=['backbone', 'neck'], help="default: as in the config's evaluation")
    parser.add_argument('--size', type=int, help='side of the centre crop (default: as in the config)')
    parser.add_argument('--batch-size', type=int, help='default: as in the config')
    parser.add_argument('--num-workers', type=int, help='default: as in the config')
    parser.add_argument('--device', help='default: a GPU if there is one')
    parser.add_argument('--trust', action='store_true', help=TRUST)
    args = vars(parser.parse_args(arguments))
    out = Path(args.pop('out'))
    if out.suffix not in SUFFIXES:
        raise ValueError(f'--out is {out}; expected a file that ends in {" or ".join(SUFFIXES)}.')
    if out.suffix == '.parquet' and importlib.util.find_spec('pyarrow') is None:
        raise ValueError(f"{out} needs pyarrow: pip install 'unmix[parquet]', or let --out end in .npz.")
    check_writable('--out', out)
    found = extract_features(args.pop('model'), args.pop('folder'), **args)
    with atomic_path(out) as temporary:
        if out.suffix == '.npz':
            np.savez(temporary, **dict[str, Any](found))
        else:
            _write_parquet(found, temporary)
    labelled = f', {len(found["classes"])} classes' if 'classes' in found else ', no labels'
    print(f'{out}: {len(found["paths"])} images, features of width {found["features"].shape[1]}{labelled}')


def _write_parquet(found: dict[str, np.ndarray], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = found['features']
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows.shape[1])

    def column(names: np.ndarray) -> Any:
        try:
            return pyarrow.array(names)
        except UnicodeError:  # a name that is not UTF-8
            return pyarrow.array([name.encode(errors='surrogateescape') for name in names.tolist()])

    columns = dict(path=column(found['paths']), feature=vectors)
    if 'labels' in found:
        columns |= {'label': pyarrow.array(found['labels']), 'class': column(found['classes'][found['labels']])}
    parquet.write_table(pyarrow.table(columns), path)
