"""``backend='torch'``: workers decode, the model's device makes the views. They are those of other backends."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from test_fused_views import COLOUR, Photos, crop, photo
from torch.utils.data import DataLoader

from unmix.config import load_config
from unmix.datasets import ArrayDataset, BaseDataset, EpochSampler, SampleKey, Subset, collate
from unmix.datasets.transforms import MultiView, deferred
from unmix.datasets.transforms.deferred import DeferredViews
from unmix.models import DataPreprocessor

PIPELINES: dict[str, dict[str, Any]] = {
    'crop first': dict(type='MultiView', transforms=[*crop(16, 'bicubic'), *COLOUR]),
    'colour first': dict(type='MultiView', num_views=3, transforms=[*COLOUR, *crop((12, 16))]),
    'resized': dict(type='MultiView', transforms=[dict(type='Resize', size=18), dict(type='CenterCrop', size=16)]),
    'crops': dict(
        type='MultiCrop',
        crops=[dict(num_views=2, transforms=[*crop(16), *COLOUR]), dict(num_views=3, transforms=crop(8))],
    ),
    'normalised': dict(type='MultiView', transforms=crop(16), dtype='float32', mean=[90, 100, 110], std=[50, 60, 70]),
}


def datasets(pipeline: dict[str, Any]) -> list[Any]:
    """Images of several sizes, of one size, a part of these, floats, and grey images."""
    photos = torch.stack([photo(20, 23, i) for i in range(20)])
    return [
        Photos(pipeline=pipeline),
        ArrayDataset(photos, range(20), pipeline),
        Subset(ArrayDataset(photos, [0] * 20, pipeline), share=0.5),
        ArrayDataset(photos.float(), range(20), pipeline),
        *([] if pipeline.get('mean') else [Photos(channels=1, pipeline=pipeline)]),
    ]


def batch(dataset: Any, index: list[int], epoch: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = dataset.__getitems__([SampleKey(i, epoch, 7) for i in index])
    return found


@pytest.mark.parametrize('numbers', [1 << 26, 5000], ids=['at once', 'in groups'])
@pytest.mark.parametrize('name', PIPELINES)
def test_views_are_those_of_the_workers(monkeypatch: pytest.MonkeyPatch, name: str, numbers: int) -> None:
    monkeypatch.setattr(deferred, 'NUMBERS', numbers)
    pipeline = PIPELINES[name]
    pairs = zip(datasets(dict(pipeline, backend='torch')), datasets(pipeline), strict=True)
    for number, (on_device, in_workers) in enumerate(pairs):
        index = [4, 9, 0, 7, 1, 3, 2]
        left, expected = batch(on_device, index), batch(in_workers, index)
        assert isinstance(left['inputs'], DeferredViews)
        made = DataPreprocessor()(left)
        assert torch.equal(made['index'], expected['index'])
        assert torch.equal(made['label'], expected['label'])
        assert len(left['inputs']) == len(made['inputs']) == len(expected['inputs'])
        for view, again, other in zip(made['inputs'], left['inputs'], expected['inputs'], strict=True):
            assert view.shape == other.shape
            # uint8 is rounded; a pixel as bright as the threshold of solarize falls on either side.
            bound = 1.0 if other.dtype == torch.uint8 else 5e-3
            assert ((view - other.float()).abs() <= bound).float().mean() > 0.998, number
            assert torch.equal(view, again.float())


@pytest.mark.parametrize('name', ['crop first', 'crops'])
def test_a_view_depends_on_its_image_only(name: str) -> None:
    """Not on the batch, its order, the number of workers or of images that are changed at a time."""
    for dataset in datasets(dict(PIPELINES[name], backend='torch'))[:2]:
        whole, part = (batch(dataset, index)['inputs'] for index in ([4, 9, 0, 7], [7, 4]))
        for view, few in zip(whole, part, strict=True):
            torch.testing.assert_close(view[[3, 0]], few, rtol=0, atol=1)
        other_epoch = batch(dataset, [4, 9, 0, 7], epoch=4)['inputs']
        assert not any(torch.equal(x, y) for x, y in zip(whole, other_epoch, strict=True))


def test_autocast_changes_no_view() -> None:
    """A training step makes the views within the autocast of its forward pass."""
    left = batch(Photos(pipeline=dict(PIPELINES['crops'], backend='torch')), [4, 9, 0])
    expected = DataPreprocessor()(left)['inputs']
    with torch.autocast('cpu', torch.bfloat16):
        found = DataPreprocessor()(left)['inputs']
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['crop first', 'crops'])
def test_workers_send_the_images(name: str) -> None:
    for dataset in datasets(dict(PIPELINES[name], backend='torch'))[:3]:
        found = []
        for workers in (0, 2):
            sampler = EpochSampler(dataset, seed=2)
            sampler.set_epoch(3)
            found.append(list(DataLoader(dataset, 5, sampler=sampler, num_workers=workers, collate_fn=collate)))
        for one, other in zip(*found, strict=True):
            assert isinstance(other['inputs'], DeferredViews)
            assert all(torch.equal(x, y) for x, y in zip(one['inputs'], other['inputs'], strict=True))
        again = pickle.loads(pickle.dumps(found[0][0]))  # as by workers that are not forked
        assert all(torch.equal(x, y) for x, y in zip(again['inputs'], found[0][0]['inputs'], strict=True))


def test_images_stay_as_they_are_decoded() -> None:
    """A batch holds the bytes of its images and nothing else, whatever their sizes."""
    dataset = Photos(pipeline=dict(PIPELINES['crop first'], backend='torch'))
    left = batch(dataset, [3, 5])['inputs']
    sizes = [dataset.load(i)[0].shape for i in (3, 5)]
    assert left.pixels.dtype == torch.uint8
    assert left.pixels.shape == (sum(shape.numel() for shape in sizes),)
    assert left.sizes.tolist() == [list(shape[1:]) for shape in sizes]


def test_what_cannot_be_left_to_the_device() -> None:
    with pytest.raises(ValueError, match=r"backend='torch' cannot do RandomRotation here; use 'auto' or 'pil'"):
        MultiView([*crop(8), dict(type='RandomRotation', degrees=10)], backend='torch')
    mixed = Photos(pipeline=dict(PIPELINES['resized'], backend='torch'))
    mixed.load = lambda index: (photo(20, 20, 0, 3 - 2 * index), 0)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r'1 \(torch.uint8\), 3 \(torch.uint8\) channels.*load all alike'):
        batch(mixed, [0, 1])
    colours = ArrayDataset(
        torch.zeros(3, 6, 20, 20, dtype=torch.uint8), None, dict(PIPELINES['crops'], backend='torch')
    )
    with pytest.raises(ValueError, match='is for images of 1 or 3 channels, and the data set gives 6'):
        batch(colours, [0, 1])


class OwnItems(Photos):
    """A data set whose items are its own: they are made one by one, where the data set is."""

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        return BaseDataset.__getitem__(self, key)


def test_items_that_are_made_one_by_one_are_views() -> None:
    dataset = OwnItems(pipeline=dict(PIPELINES['crop first'], backend='torch'))
    items: Any = dataset.__getitems__([1, 2])
    assert all(torch.is_tensor(view) for item in items for view in item['inputs'])


@pytest.mark.slow
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    transforms = [dict(type='RandomResizedCrop', size=16, scale=(0.5, 1.0)), dict(type='RandomHorizontalFlip')]
    cfg = load_config('unmix::quickstart/unmix-moco_digits.py')
    cfg.train_dataloader.dataset.pipeline = dict(
        type='MultiView', transforms=transforms, backend='torch', dtype='float32'
    )
    cfg.train_dataloader.num_batch_per_epoch = 3
    cfg.train_cfg.update(max_epochs=2)
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None, test_cfg=None, test_dataloader=None)
    cfg.update(test_evaluator=None, work_dir=str(tmp_path / 'whole'), seed=3)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=-1)
    weights = []
    for _ in range(2):
        runner = Runner.from_cfg(copy.deepcopy(cfg))
        runner.train()
        weights.append({key: value.clone() for key, value in runner.model.state_dict().items()})
        cfg.update(resume=True, load_from=str(tmp_path / 'whole' / 'iter_2.pth'), work_dir=str(tmp_path / 'again'))
        cfg.experiment_name = 'again'
    assert runner.iter == 6
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
