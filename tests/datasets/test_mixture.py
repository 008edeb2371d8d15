"""Mixtures in the data set: what stays, how often, how views and partners go together."""

import pytest
import torch
from torch.utils.data import DataLoader

from unmix.datasets import ArrayDataset, BrokenImage, EpochSampler, MixtureDataset, SampleKey, Subset, collate
from unmix.datasets.transforms import Cutout, RandomErasing
from unmix.registry import DATASETS
from unmix.utils.rng import generator, seeded


def flat_images(num=40, size=8):
    """Image n has the value n everywhere."""
    images = torch.arange(num, dtype=torch.float32)[:, None, None, None].expand(-1, 3, size, size)
    return ArrayDataset(images, torch.arange(num) % 4, pipeline=lambda image, key: [image, -image])


def build(kind, **options):
    mixing = dict(type='Mixup' if kind == 'global' else 'CutMix')
    if kind == 'IM':
        return MixtureDataset(MixtureDataset(flat_images(), dict(type='Mixup'), **options), mixing, **options)
    return MixtureDataset(flat_images(), mixing, **options)


@pytest.mark.parametrize('kind', ['global', 'region', 'IM'])
def test_index_and_label_stay_and_views_are_mixed_alike(kind):
    dataset = build(kind, prob=1.0)
    for index in range(20):
        item = dataset[SampleKey(index, 1, 2)]
        assert (item['index'], item['label']) == (index, index % 4)
        assert torch.equal(item['inputs'][0], -item['inputs'][1])
        assert not torch.equal(item['inputs'][0], flat_images()[index]['inputs'][0])


def test_default_share_of_untouched_images():
    """0.9^4 of the images of IM; 4 standard deviations of 2000 draws are 4.2 %."""
    dataset = build('IM')
    clean = flat_images()
    same = [
        torch.equal(dataset[SampleKey(n % 40, n // 40)]['inputs'][0], clean[n % 40]['inputs'][0]) for n in range(2000)
    ]
    assert sum(same) / 2000 == pytest.approx(0.9**4, abs=0.045)


def test_an_item_is_a_function_of_its_key():
    dataset = build('IM', prob=0.5)
    key = SampleKey(3, 4, 5)
    first = dataset[key]['inputs'][0]
    for other in range(10):
        dataset[other]
    assert torch.equal(dataset[key]['inputs'][0], first)
    changed = [SampleKey(3, epoch, seed) for epoch in range(4, 14) for seed in range(5, 7)]
    assert len({dataset[key]['inputs'][0].numpy().tobytes() for key in changed}) > 5


def test_region_holds_pixels_of_two_images():
    dataset = build('region', num_mix=1, prob=1.0)
    for index in range(20):
        values = dataset[index]['inputs'][0].unique().tolist()
        assert len(values) <= 2
        assert index in values


def test_decay_fades_to_the_mean_once():
    dataset = build('region', num_mix=3, prob=1.0, decay=0.5, mean=10.0)
    item = dataset[30]['inputs'][0]
    assert 10 + 0.5 * (30 - 10) in item.unique().tolist()


def test_labels_and_classes_are_the_data_sets():
    dataset = DATASETS.build(dict(type='MixtureDataset', dataset=flat_images(), mixing=dict(type='Mixup')))
    assert torch.equal(dataset.labels, torch.arange(40) % 4)
    assert dataset.num_classes == 4
    assert len(dataset) == 40
    with pytest.raises(AttributeError, match='colour'):
        _ = dataset.colour


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r'MixtureDataset\.prob is 2'):
        build('global', prob=2)
    crops = ArrayDataset(torch.zeros(4, 3, 8, 8), pipeline=lambda image, key: [image, image[:, :4, :4]])
    with pytest.raises(ValueError, match='views of the sizes'):
        MixtureDataset(crops, dict(type='Mixup'))[0]
    with pytest.raises(ValueError, match=r'Cutout\.mask_size is 0'):
        Cutout(mask_size=0)
    with pytest.raises(ValueError, match=r'Cutout\.mask_size is 9 with inside=True'):
        Cutout(mask_size=9, p=1.0, inside=True)(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r'RandomErasing\.min_aspect is 0'):
        RandomErasing(min_aspect=0)
    with pytest.raises(ValueError, match=r'Cutout\.p is -1'):
        Cutout(p=-1)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(3, 20, 30), (3, 30, 20)])
def test_boxes_of_non_square_images(shape):
    """Inside, a square of full size anywhere; the whole image is reached; the fill is mean + std * colour."""
    covered = torch.zeros(shape[1:], dtype=torch.bool)
    transform = Cutout(mask_size=4, p=1.0, inside=True, color=2.0, mean=[1.0, 2.0, 3.0], std=10.0)
    for n in range(2000):
        image = transform.apply(torch.zeros(shape), transform.draw(generator(n), shape[1:]))
        assert (image != 0).sum() == 3 * 16
        assert image.amax((1, 2)).tolist() == [21.0, 22.0, 23.0]
        covered |= image[0] != 0
    assert covered.all()


def test_erased_area_and_aspect():
    transform = RandomErasing(p=1.0, area=(0.1, 0.2), min_aspect=0.5)
    for n in range(200):
        (top, bottom, left, right), value = transform.draw(generator(n), (100, 150))
        height, width = bottom - top, right - left
        assert 0 <= top < bottom <= 100
        assert 0 <= left < right <= 150
        assert 0.09 < height * width / 15000 <= 0.2
        assert 0.45 < height / width < 2.2
        assert 0 <= value < 1


def test_transforms_draw_from_the_seeded_stream():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    for transform in (Cutout(mask_size=3, p=1.0, color=1.0), RandomErasing(p=1.0)):
        results = []
        for _ in range(2):
            with seeded('a', 1):
                results.append(transform(image))
        assert torch.equal(*results)
        assert results[0].any()
        assert not image.any()


BAD = {7, 8, 39}


class Flaky(ArrayDataset):
    """Some of its images cannot be read."""

    def load(self, index):
        if index in BAD:
            raise OSError(f'no image {index}')
        return super().load(index)


def flaky(broken='skip'):
    dataset = Flaky(flat_images().images, None, pipeline=lambda image, key: [image])
    dataset.broken = broken
    return dataset


def whole():
    """The image after it in the place of each that cannot be read."""
    images = flat_images().images.clone()
    for index in sorted(BAD, reverse=True):
        images[index] = images[(index + 1) % len(images)]
    return ArrayDataset(images, None, pipeline=lambda image, key: [image])


@pytest.mark.parametrize('form', ['one', 'nested', 'subset'])
@pytest.mark.parametrize('workers', [0, 2])
def test_the_next_image_is_the_partner_in_the_place_of_one_that_cannot_be_read(form, workers, capfd):
    def mixed(source):
        if form == 'nested':
            source = MixtureDataset(source, dict(type='CutMix'), num_mix=1, prob=0.5)
        dataset = MixtureDataset(source, dict(type='Mixup'), prob=1.0)
        return Subset(dataset, num_images=20) if form == 'subset' else dataset

    def loaded(dataset):
        sampler = EpochSampler(dataset, seed=3)
        found = {}
        for epoch in range(4):
            sampler.set_epoch(epoch)
            loader = DataLoader(dataset, 5, sampler=sampler, num_workers=workers, collate_fn=collate)
            for batch in loader:
                found |= {(epoch, i): x for i, x in zip(batch['index'].tolist(), batch['inputs'][0], strict=True)}
        return found

    dataset = mixed(flaky())
    found, expected = loaded(dataset), loaded(mixed(whole()))
    own = {i for i in range(len(dataset)) if (int(dataset.rows[i]) if form == 'subset' else i) not in BAD}
    assert {i for _, i in found} == own  # those whose partners cannot be read are there
    if form != 'nested':  # there the partner is mixed by its own number
        assert all(torch.equal(image, expected[key]) for key, image in found.items())
    said = capfd.readouterr().out
    most = max(1, workers) * (
        2 if form == 'nested' else 1
    )  # of 8 workers in 4 epochs, two may see one at the same time
    assert all(0 < said.count(f'(no image {i}). It is number {i} ') <= most for i in BAD)
    with pytest.raises(BrokenImage, match='no image 8'):
        dataset.dataset[8] if form == 'subset' else dataset[8]


def test_a_partner_that_cannot_be_read_is_an_error_by_default(monkeypatch):
    dataset = MixtureDataset(flaky('error'), dict(type='Mixup'), prob=1.0)
    with pytest.raises(BrokenImage, match='no image'):
        dataset.batch([SampleKey(index, 1, 2) for index in sorted(set(range(40)) - BAD)])
    monkeypatch.setattr('unmix.datasets.wrappers.GIVE_UP', 2)  # so many in a row: the disk is gone
    dataset = MixtureDataset(flaky(), dict(type='Mixup'), prob=1.0)
    with pytest.raises(BrokenImage, match='no image 8'):
        dataset.batch([SampleKey(index, 1, 2) for index in sorted(set(range(40)) - BAD)])
