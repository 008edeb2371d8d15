"""Examine the images of a folder, of archives or of a config: the command ``unmix doctor``."""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from rich.console import Console
from rich.progress import track
from torch.utils.data import IterableDataset

from unmix.apis.command import Options
from unmix.apis.doctor_page import page
from unmix.apis.findings import Finding, Part, of_normalisation, of_pairs, of_part, summary
from unmix.checkpoint.data import Items
from unmix.config import find_config, load_config
from unmix.config.check import find_type
from unmix.datasets import ImageFolder
from unmix.datasets.archive import ARCHIVES, INSIDE, archives_of, open_archive
from unmix.datasets.examine import CHUNK, RECORD, examine_all
from unmix.datasets.folder import map_beside, scan_root
from unmix.datasets.samplers import KeySampler
from unmix.datasets.scan import Scan
from unmix.datasets.survey import TESTED, TRAIN
from unmix.engine.sizes import misfits_of
from unmix.registry import DATA_SAMPLERS, DATASETS, MODELS
from unmix.utils.files import atomic_path, check_writable
from unmix.utils.names import path_bytes, shown, text

DESCRIPTION = """Examine the images of a folder or archive, or those that a config trains and tests on.

%(prog)s images/
%(prog)s train.zip --test val.zip
%(prog)s 'shard-{000000..000146}.tar'
%(prog)s images/ --test other_images/ --html doctor.html --json doctor.json
%(prog)s quickstart/unmix-moco_folder --cfg-options data_root=images/

It finds images that cannot be read, duplicates, images to test on among those to train on, and more: docs/doctor.md.
Of a folder or archive with the sub-folders train and val or test, these are its parts. The exit status is 1 if
something was found that breaks a run or falsifies its results.
"""
FEW = 4  # names that are printed of a warning; all of an error
OTHER = ('decode_size', 'broken')  # keys that do not choose images
READER = 'LoadImageFromFile'
CONFIGS = (b'.py', b'.json', b'.yaml', b'.yml')
RANK = {'error': 0, 'warning': 1, 'note': 2}


def doctor(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Examine images, print what is wrong and write it to files; ``prog`` is the name of the command in messages.

    Raises:
        FileNotFoundError: If there is neither a folder, archive nor config of the name, or no image.
        SystemExit: With status 1, if something breaks a run or falsifies its results.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'data', help='a folder of images, a zip, a tar or shards, or a config: its path, or its name METHOD/NAME'
    )
    parser.add_argument('--test', metavar='DIR', help='images to test on, if they are in another folder or archive')
    parser.add_argument('--html', metavar='FILE', help='write a page with pictures')
    parser.add_argument('--json', metavar='FILE', help='write all that was found, with the names of all images')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes (default: all cores)')
    parser.add_argument('--processes', type=int, default=1, help='of the training by the config (default: 1)')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='changes to the config')
    args = parser.parse_args(arguments)
    outputs = {name: path for name, path in (('--json', args.json), ('--html', args.html)) if path is not None}
    for name, path in outputs.items():
        check_writable(name, path)
    if len(outputs) == 2 and os.path.realpath(args.json) == os.path.realpath(args.html):
        raise ValueError(f'--json and --html are both {shown(args.json)}. Give each a file of its own.')
    report = examine_data(args.data, args.test, args.cfg_options, args.workers, args.processes)
    _print(report)
    for path, content in ((args.json, _as_json), (args.html, page)):
        if path is not None:
            with atomic_path(path) as temporary:
                temporary.write_text(content(report), encoding='utf-8', errors='backslashreplace')
            print(f'written: {shown(path)}')
    if any(finding.severity == 'error' for finding in report['findings']):
        sys.exit(1)


@DefaultScope.overwrite_default_scope('unmix')
def examine_data(
    data: str | Path,
    test: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    workers: int = 0,
    processes: int = 1,
) -> dict[str, Any]:
    """Examine the images of a folder, of archives or of a config.

    Args:
        data: The folder; a zip, a tar or shards, as for ``ImageFolder.data_root``; or path or name of the config.
        test: A folder or archives of images to test on.
        options: Changes to the config.
        workers: Processes that read images.
        processes: Of a training by the config, whose batches together the sizes are compared with.

    Returns:
        ``data``; ``parts``, a list of :class:`Part`; ``findings``, a list of :class:`Finding`, the worst first.

    Raises:
        FileNotFoundError: If there is neither a folder, archive nor config of the name, or no image.
        ValueError: If options or processes of a config are given with a folder, or the config has no data.
    """
    findings: list[Finding] = []
    if processes < 1:
        raise ValueError(f'--processes is {processes}; expected the number of processes of the training, from 1.')
    cfg = None
    root = path_bytes(data)
    if os.path.isdir(root) or _names_archives(root):
        given = ['--cfg-options'] * bool(options) + ['--processes'] * (processes > 1)
        if given:
            raise ValueError(f'{" and ".join(given)}: only for a config, and {shown(root)} is a folder or archive.')
        try:
            parts = list(_parts_of_root(root))
        except (FileNotFoundError, ValueError) as error:
            if root.lower().endswith(ARCHIVES):
                raise
            raise type(error)(f'{error} Videos, tables and the like need a config: unmix doctor CONFIG.') from error
    else:
        try:
            find_config(str(data))
        except FileNotFoundError as error:
            raise FileNotFoundError(f'DATA: there is no folder, archive or config {shown(root)}. {error}') from error
        cfg = load_config(str(data), dict(options or {}))
        built: dict[str, Any] = {}
        parts = list(_parts_of_config(cfg, findings, built))
        if not parts and not findings:
            raise ValueError(
                f'{shown(root)} has no data set to examine: set train_dataloader, val_dataloader or test_dataloader, '
                'or give a folder of images.'
            )
    if test is not None:
        parts = [part for part in parts if part.role == 'train'] + [_part('test', 'test', path_bytes(test))]
    for part in parts:
        _examine(part, workers)
        scan = Scan(part.root, None) if part.root is not None and os.path.isdir(part.root) else None
        findings += of_part(part, scan)
    findings += of_pairs(parts)
    if cfg is not None:
        findings += _of_config(cfg, parts, built.get('train'), processes)
    findings.sort(key=lambda finding: RANK[finding.severity])
    return dict(data=str(data), parts=parts, findings=findings)


def _names_archives(root: bytes) -> bool:
    """Return whether a name is that of archives: of a file that is no config, or of several."""
    try:
        return not root.lower().endswith(CONFIGS) and archives_of(root) is not None
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f'DATA: {error}') from error


def _parts_of_root(root: bytes) -> Iterator[Part]:
    """Yield the parts of a folder or archive: its sub-folders train and val or test, or itself."""
    archive = open_archive(root, 'DATA')
    inside = root if archive is None or INSIDE.match(root) else root + b'@'
    if archive is None:
        names = {text(entry.name).lower(): entry.path for entry in os.scandir(root) if entry.is_dir()}
    else:
        tops = {name.partition(b'/')[0] for name in archive.paths.tolist() if b'/' in name}
        names = {text(top).lower(): inside + b'/' + top for top in tops} if len(archive.files) == 1 else {}
    roles = {name: role for role, known in (('train', TRAIN), ('test', TESTED)) for name in known if name in names}
    if {*roles.values()} == {'train', 'test'}:
        for name, role in roles.items():
            yield _part(name, role, names[name])
    else:
        yield _part('images', 'train', root)


def _part(name: str, role: str, root: bytes) -> Part:
    """Return the images of a folder or archive; their labels are those beside them, or else their folders."""
    archive = open_archive(root, 'DATA')
    labelled = archive is not None and bool(archive.label.any() or map_beside(root))
    with _quiet():
        dataset = ImageFolder(text(root), labelled=None if labelled else False)
    items = Items(dataset)
    if dataset.labels is not None:
        return Part(name, role, items.leaves, items.leaf, items.row, dataset.labels.numpy(), dataset.classes, root)
    separators = os.sep.encode() if archive is None else b'/'
    tops = [path.partition(separators) for path in dataset.paths.tolist()]
    labels, classes = None, None
    if all(separator for _, separator, _ in tops):
        folders = scan_root(root, None, archive).folders
        found = sorted({text(top) for top, _, _ in tops} | {text(folder) for folder in folders})
        if len(found) > 1:
            numbers = {label: number for number, label in enumerate(found)}
            classes, labels = found, np.array([numbers[text(top)] for top, _, _ in tops])
    return Part(name, role, items.leaves, items.leaf, items.row, labels, classes, root)


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Build a data set without its line in the log: the findings have more. Its warnings come to the list."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            said: list[str] = []
            yield said
            said += dict.fromkeys(str(one.message) for one in caught if str(one.message).startswith('dataset.'))
    finally:
        logger.setLevel(level)


def _parts_of_config(cfg: Any, findings: list[Finding], built: dict[str, Any]) -> Iterator[Part]:
    """Yield the data sets of a config, each once, and add them to ``built``; one that cannot be built is a finding."""
    sources = [('train', 'train', cfg.get('train_dataloader'))]
    for stage in ('val', 'test'):
        sources.append((stage, 'test', cfg.get(f'{stage}_dataloader')))
        sources.append((f'bank of {stage}', 'train', (cfg.get(f'{stage}_cfg') or {}).get('bank_dataloader')))
    seen: list[Any] = []
    for name, role, loader in sources:
        dataset = _plain((loader or {}).get('dataset'))
        plain = _without(dataset, OTHER)
        if not isinstance(dataset, Mapping) or (role, plain) in seen:
            continue
        seen.append((role, plain))
        try:
            with _quiet() as said:
                data = built[name] = DATASETS.build(dict(dataset))
            if isinstance(data, IterableDataset):
                words = 'The data set is a stream, whose images have no numbers: they are not examined.'
                findings.append(Finding('stream', 'note', name, words))
                continue
            items = Items(data)
        except Exception as error:  # of many types: it may be a class of one's own
            findings.append(Finding('data_set', 'error', name, f'The data set cannot be built: {error}'))
            continue
        findings += [Finding('data_set', 'warning', name, words) for words in said]
        labels = getattr(data, 'labels', None)
        labels = None if labels is None or len(labels) != len(items) else np.asarray(labels)
        classes = getattr(data, 'classes', None)
        root = path_bytes(data.data_root) if isinstance(data, ImageFolder) else None
        exif = getattr(items.leaves[0], 'upright', getattr(items.leaves[0], 'exif', True))
        yield Part(name, role, items.leaves, items.leaf, items.row, labels, classes, root, exif, True)


def _without(node: Any, keys: Sequence[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _without(value, keys) for key, value in node.items() if key not in keys}
    return node


def _plain(dataset: Any) -> Any:
    """Return the config of a data set with nothing in its pipeline but what decodes files, if there is that."""
    if not isinstance(dataset, Mapping):
        return dataset
    plain = {key: _plain(value) for key, value in dataset.items() if key != 'pipeline'}
    reader = _reader(dataset.get('pipeline'))
    return plain if reader is None else plain | dict(pipeline=dict(type='SingleView', transforms=[reader]))


def _reader(pipeline: Any) -> Any:
    """Return the config of the first transform of a pipeline if it decodes files, else None."""
    for key in ('crops', 'transforms'):
        if isinstance(pipeline, Mapping) and pipeline.get(key):
            pipeline = pipeline[key][0]
    kind = find_type(pipeline.get('type'))[0] if isinstance(pipeline, Mapping) else None
    names = [base.__name__ for base in kind.__mro__] if isinstance(kind, type) else []
    return pipeline if READER in names else None


def _examine(part: Part, workers: int) -> None:
    part.records = np.empty(len(part), RECORD)
    chunks = examine_all(part.leaves, part.leaf, part.row, workers if len(part) > 256 else 0)
    console = Console(stderr=True)
    done = 0
    total = -(-len(part) // CHUNK)
    for records, reasons in track(chunks, part.name, total, console=console, disable=not console.is_terminal):
        part.records[done : done + len(records)] = records
        part.reasons |= reasons
        done += len(records)


def _of_config(cfg: Any, parts: Sequence[Part], dataset: Any, processes: int) -> Iterator[Finding]:
    """Yield what does not fit between the config and its images; ``dataset`` is that to train on."""
    for train in parts:
        if train.name == 'train':
            yield from _of_images(cfg, train)
    if isinstance(dataset, Sized):
        yield from _of_sizes(cfg, dataset, processes)


def _of_images(cfg: Any, train: Part) -> Iterator[Finding]:
    """Yield what does not fit between the config and the images to train on."""
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    yield from of_normalisation(train, preprocessor.get('mean'), preprocessor.get('std'))
    classes = None if train.labels is None else len(train.classes or ()) or int(train.labels.max()) + 1
    outputs = ((cfg.get('model') or {}).get('head') or {}).get('num_classes')
    if classes is not None and isinstance(outputs, int) and outputs < classes:
        words = f'model.head.num_classes is {outputs}, but the images have {classes} classes.'
        yield Finding('num_classes', 'error', 'train', words)


def _of_sizes(cfg: Any, dataset: Any, processes: int) -> Iterator[Finding]:
    """Yield what does not fit between the sizes of the config and the number of images to train on."""
    loader = cfg.get('train_dataloader') or {}
    batch = loader.get('batch_size')
    if not isinstance(batch, int) or cfg.get('model') is None:
        return
    model_cfg = {key: value for key, value in cfg.model.items() if key != 'pretrained'}
    model = MODELS.build(model_cfg)
    sampler = loader.get('sampler')
    if sampler is not None:
        sampler = DATA_SAMPLERS.build(dict(sampler) | dict(dataset=dataset, seed=0))
    drawn = min(len(dataset), len(sampler)) if isinstance(sampler, KeySampler) else len(dataset)
    drop_last = loader.get('drop_last', False)
    batches = drawn // (batch * processes) if drop_last else -(-drawn // (batch * processes))
    epochs = (cfg.get('train_cfg') or {}).get('max_epochs', 1)
    dim = ((cfg.model.get('neck')) or {}).get('out_dim')
    found = misfits_of(model, sampler, len(dataset), drawn, batch, processes, drop_last, batches, epochs, dim)
    if found is not None:
        yield Finding('sizes_of_method', 'error' if found[1] else 'warning', 'train', found[0])


def _print(report: Mapping[str, Any]) -> None:
    for part in report['parts']:
        numbers = summary(part)
        parts = [f'{part.name}: {numbers["images"]} images']
        if 'classes' in numbers:
            parts.append(f'{len(numbers["classes"])} classes')
        if 'mean' in numbers:
            low, middle, high = zip(numbers['width'], numbers['height'], strict=True)
            parts.append(f'{low[0]}x{low[1]} to {high[0]}x{high[1]} pixels, median {middle[0]}x{middle[1]}')
            parts.append(', '.join(f'{number} {kind}' for kind, number in numbers['channels'].items()))
            parts.append(f'mean {numbers["mean"]}, std {numbers["std"]} (0 to 255)')
        print('; '.join(parts))
    for finding in report['findings']:
        print(f'\n{finding.severity}: {finding.kind}, {finding.part}: {finding.text}')
        names = finding.images if finding.severity == 'error' else finding.images[:FEW]
        for name in names:
            print(f'  {shown(name)}')
        if len(names) < len(finding.images):
            print(f'  and {len(finding.images) - len(names)} more (--json lists all)')
    if not report['findings']:
        print('\nNothing is wrong.')


def _as_json(report: Mapping[str, Any]) -> str:
    content = dict(
        data=report['data'],
        parts={part.name: summary(part) for part in report['parts']},
        findings=[
            dict(kind=one.kind, severity=one.severity, part=one.part, text=one.text, images=one.images)
            for one in report['findings']
        ],
    )
    return json.dumps(content, indent=2) + '\n'
