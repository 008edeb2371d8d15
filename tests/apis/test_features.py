"""Features of folders: the same as an evaluation's, labelled or not, in files that are whole."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image

import unmix
from unmix.apis.command import run_tool
from unmix.apis.features import _write_parquet, evaluation_pipeline, extract_features, features
from unmix.apis.train import evaluate
from unmix.config import load_config
from unmix.registry import MODELS

CONFIG = """
_base_ = 'unmix::_base_/default_runtime.py'
model = dict(
    type='MoCo',
    backbone=dict(type='ResNet', depth=8, width=4, stem=dict(kernel_size=3, stride=1, padding=1, maxpool=False)),
    neck=dict(type='LinearNeck', in_dim=16, out_dim=8),
    head=dict(type='InfoNCEHead', dim=8, queue_size=16),
)
data_preprocessor = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 61.0, 62.0])
pipeline = dict(type='SingleView', transforms=[dict(type='Resize', size=20), dict(type='CenterCrop', size=16)])
test_dataloader = dict(
    batch_size=5,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate'),
    dataset=dict(type='ImageFolder', data_root='val', pipeline=pipeline),
)
bank = dict(test_dataloader, dataset=dict(type='ImageFolder', data_root='bank', pipeline=pipeline))
test_cfg = dict(type='FeatureLoop', bank_dataloader=bank, cache=True)
test_evaluator = [dict(type='KNN', k=3)]
"""


def write_images(folder: Path, count: int, mode: str = 'RGB', side: int = 0) -> None:
    """Noise; of sizes that differ unless there is a side."""
    rng = np.random.default_rng(count)
    folder.mkdir(parents=True)
    for i in range(count):
        shape = (side or 20 + i, side or 24) + ((3,) if mode == 'RGB' else ())
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f'{i:02}.png')


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """A config with its images, labelled, and a checkpoint."""
    work = tmp_path_factory.mktemp('features')
    for part, counts in (('val', (7, 6)), ('bank', (5, 4))):
        for name, count in zip(('ants', 'bees'), counts, strict=True):
            write_images(work / part / name, count)
    (work / 'small.py').write_text(CONFIG)
    torch.manual_seed(0)
    model = MODELS.build(load_config(str(work / 'small.py')).model)
    model.init_weights()
    for name, buffer in model.named_buffers():
        if 'running_var' in name:
            buffer.uniform_(0.5, 2)
    torch.save(dict(state_dict=model.state_dict(), meta={}), work / 'last.pth')
    return work


@pytest.mark.slow
def test_bit_for_bit_what_knn_sees(work, monkeypatch):
    monkeypatch.chdir(work)
    evaluate(['small.py', 'last.pth', '--work-dir', 'test'])
    seen = [torch.load(path) for path in Path('test', 'features').glob('*.pt')]
    for folder, count in (('val', 13), ('bank', 9)):
        (wanted,) = [one for one in seen if len(one['labels']) == count]
        found = extract_features('last.pth', folder, config='small.py')
        assert found['features'].dtype == np.float32
        np.testing.assert_array_equal(found['features'], wanted['features'].numpy())
        np.testing.assert_array_equal(found['labels'], wanted['labels'].numpy())
        assert found['classes'].tolist() == ['ants', 'bees']
        assert found['paths'].tolist() == sorted(str(p.relative_to(folder)) for p in Path(folder).rglob('*.png'))


@pytest.mark.slow
def test_a_network_a_checkpoint_and_its_neck(work):
    config, folder = str(work / 'small.py'), work / 'val'
    model = MODELS.build(load_config(config).model)
    model.load_state_dict(torch.load(work / 'last.pth')['state_dict'])
    for stage in ('backbone', 'neck'):
        wanted = extract_features(model, folder, config=config, stage=stage)['features']
        found = extract_features(work / 'last.pth', folder, config=config, stage=stage)['features']
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert model.training
    images = torch.stack(
        [
            tv.functional.pil_to_tensor(tv.CenterCrop(16)(tv.Resize(20)(Image.open(folder / path))))
            for path in extract_features(model, folder, config=config)['paths']
        ]
    ).float()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in ([120.0, 110, 100], [60.0, 61, 62]))
    with torch.no_grad():
        wanted = model.eval().backbone((images - mean) / std)
    found = extract_features(model.backbone, folder, config=config, batch_size=13)['features']
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=0.02)  # a pixel may be rounded otherwise
    with pytest.raises(ValueError, match="A ResNet has no stage 'neck'"):
        extract_features(model.backbone, folder, config=config, stage='neck')
    with pytest.raises(ValueError, match='prepared for this ResNet is not known'):
        extract_features(model.backbone, folder)


@pytest.mark.slow
def test_a_folder_without_labels(work, tmp_path):
    (tmp_path / 'flat').mkdir()
    for path in (work / 'val').rglob('*.png'):
        (tmp_path / 'flat' / f'{path.parent.name}-{path.name}').write_bytes(path.read_bytes())
    arguments = dict(config=work / 'small.py', batch_size=13)
    found = extract_features(work / 'last.pth', tmp_path / 'flat', **arguments)
    assert set(found) == {'paths', 'features'}
    labelled = extract_features(work / 'last.pth', work / 'val', **arguments)
    np.testing.assert_array_equal(found['features'], labelled['features'])


@pytest.mark.slow
def test_a_model_of_the_zoo_takes_grey_images_of_its_size(tmp_path):
    write_images(tmp_path / 'grey', 3, 'L', 16)
    write_images(tmp_path / 'colour', 3, 'RGB', 40)
    model = unmix.get_model('moco_digits', pretrained=False)
    resize = tv.Compose([tv.Grayscale(), tv.Resize(16)])
    for folder, tolerance in (('grey', 1e-5), ('colour', 0.05)):
        images = [np.array(resize(Image.open(path))) for path in sorted((tmp_path / folder).iterdir())]
        with torch.no_grad():
            wanted = model((torch.tensor(np.stack(images))[:, None].float() - 79.88) / 90.37)
        found = unmix.extract_features(model, tmp_path / folder)
        np.testing.assert_allclose(found['features'], wanted.numpy(), rtol=0, atol=tolerance)


def test_names_of_any_characters_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ['a/x #1.png', 'b /é.png', 'b /\udcff.png', '\udcfe/n\nl .png']
    for name in names:
        Path('images', name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (16, 16)).save(Path('images', name))
    names.sort(key=os.fsencode)
    model = unmix.get_model('moco_digits', pretrained=False)
    found = unmix.extract_features(model, 'images')
    np.savez('features.npz', **found)
    with np.load('features.npz') as file:
        assert file['paths'].tolist() == names
        assert file['classes'].tolist() == ['a', 'b ', '\udcfe']
    parquet = pytest.importorskip('pyarrow.parquet')
    _write_parquet(found, Path('features.parquet'))
    table = parquet.read_table('features.parquet').to_pydict()
    assert table['path'] == [os.fsencode(name) for name in names]  # some are not UTF-8
    assert table['class'] == [b'a', b'b ', b'b ', b'\xfe']


@pytest.mark.parametrize(('name', 'transforms'), [
    ('moco_digits', 'Grayscale Resize16 CenterCrop16'),
    ('cmc_digits', 'Grayscale Resize16 CenterCrop16'),
    ('unmix-moco_fashion-mnist', 'Grayscale Resize28 CenterCrop28'),
    ('moco-sym_resnet18_1xb512-coslr-1000e_cifar100', 'Resize32 CenterCrop32'),
    ('simclr_resnet18_1xb512-steplr-1000e_tiny-imagenet', 'Resize64 CenterCrop64'),
    ('mocov2_resnet50_8xb32-coslr-200e_in1k', 'Resize256 CenterCrop224'),
    ('semi_resnet50_8xb32-steplr-20e_in1k-1p', 'Resize256 CenterCrop224'),
])  # fmt: skip
def test_images_are_prepared_as_the_config_does(name, transforms):
    pipeline = evaluation_pipeline(load_config(name))
    found = [f'{transform["type"]}{transform.get("size", "")}' for transform in pipeline['transforms']]
    assert ' '.join(found) == transforms


def test_the_size_of_a_config_that_evaluates_nothing():
    cfg = load_config('unmix-moco_folder')
    with pytest.raises(ValueError, match=r'unmix-moco_folder\.py has no test_dataloader.*give --size'):
        evaluation_pipeline(cfg)
    cfg.test_dataloader = dict(dataset=dict(type='ImageFolder', pipeline=dict(type='SingleView', transforms=[], a=1)))
    assert evaluation_pipeline(cfg) == cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline.transforms = [dict(type='CenterCrop', size=8)]
    assert evaluation_pipeline(cfg) == cfg.test_dataloader.dataset.pipeline
    assert evaluation_pipeline(cfg, 224)['transforms'] == [
        dict(type='Resize', size=256),
        dict(type='CenterCrop', size=224),
    ]


@pytest.mark.slow
def test_the_command_writes_npz(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    features(['last.pth', 'val', '--config', 'small.py', '--out', 'out/features.npz'])
    assert 'out/features.npz: 13 images, features of width 16, 2 classes' in capsys.readouterr().out
    written, found = np.load('out/features.npz'), extract_features('last.pth', 'val', config='small.py')
    assert set(written) == set(found)
    for name in found:
        np.testing.assert_array_equal(written[name], found[name])


def test_the_command_writes_parquet(work, monkeypatch):
    parquet = pytest.importorskip('pyarrow.parquet')
    monkeypatch.chdir(work)
    features(['last.pth', 'val', '--config', 'small.py', '--out', 'features.parquet'])
    rows, found = (
        parquet.read_table('features.parquet').to_pydict(),
        extract_features('last.pth', 'val', config='small.py'),
    )
    np.testing.assert_array_equal(np.array(rows['feature'], np.float32), found['features'])
    assert rows['path'] == found['paths'].tolist()
    assert rows['label'] == found['labels'].tolist()
    assert rows['class'] == [Path(path).parent.name for path in rows['path']]


@pytest.mark.slow
def test_a_damaged_image_is_named_and_the_old_file_stays(work, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / 'images', 4)
    path = tmp_path / 'images' / '02.png'
    path.write_bytes(path.read_bytes()[:-200])
    Path('out.npz').write_text('old', encoding='utf-8')
    command = [str(work / 'last.pth'), 'images', '--config', str(work / 'small.py'), '--out', 'out.npz']
    for workers in ('0', '1'):
        with pytest.raises(SystemExit):
            run_tool(lambda workers=workers: features([*command, '--num-workers', workers]))
        error = capsys.readouterr().err
        assert 'error: The image images/02.png cannot be read' in error
        assert 'Traceback' not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ['images', 'out.npz']
    assert Path('out.npz').read_text(encoding='utf-8') == 'old'


@pytest.mark.slow
@pytest.mark.parametrize(('arguments', 'message'), [
    (['last.pth', 'val', '--out', 'x.npz'], 'The config of last.pth is not beside it; beside it are small.py'),
    (['lost.pth', 'val', '--out', 'x.npz'], 'The checkpoint lost.pth does not exist'),
    (['moco_digitz', 'val', '--out', 'x.npz'], 'Did you mean moco_digits'),
    (['moco_digits', 'lost', '--out', 'x.npz'], 'there is no folder lost'),
    (['last.pth', 'val', '--out', 'x.csv'], 'ends in .npz or .parquet'),
    (['lost.pth', 'val', '--out', 'dir.npz'], r'--out is dir\.npz, which cannot be written \(it is a folder\)'),
    (['moco_digits', 'val', '--out', 'x.npz', '--size', '0'], 'size is 0; expected a whole number from 1'),
    (['moco_digits', 'val', '--out', 'x.npz', '--batch-size', '0'], 'batch_size is 0; expected a whole number'),
    (['moco_digits', 'val', '--out', 'x.npz', '--device', 'gpu'], "device is 'gpu', which cannot be used .* give cpu"),
    (['last.pth', 'val', '--config', 'moco_digits', '--out', 'x.npz'], 'last.pth is a checkpoint of another model'),
])  # fmt: skip
def test_errors_say_what_to_do(work, monkeypatch, arguments, message):
    monkeypatch.chdir(work)
    Path('dir.npz').mkdir(exist_ok=True)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        features(arguments)
    assert not Path('x.npz').exists()
