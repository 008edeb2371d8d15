"""A part of a labelled data set."""

import pytest
import torch
from PIL import Image

from unmix.datasets import ArrayDataset, FirstImages, ImageFolder, SampleKey, Subset


def data():
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 7)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    return ArrayDataset(torch.arange(20.0).view(20, 1, 1, 1), labels)


def test_images_are_drawn_of_each_class_by_the_seed_alone():
    subset = Subset(data(), per_class=4)
    assert subset.labels.bincount().tolist() == [4, 3, 4]  # all there are of class 1
    assert Subset(data(), share=0.3).labels.bincount().tolist() == [3, 1, 3]  # rounded up
    torch.manual_seed(7)
    assert torch.equal(Subset(data(), per_class=4).rows, subset.rows)
    assert not torch.equal(Subset(data(), per_class=4, seed=1).rows, subset.rows)
    assert torch.equal(subset.rows, subset.rows.unique())
    assert subset.num_classes == 3


def test_an_item_is_the_data_sets_under_a_new_number():
    source, seen = data(), []
    source.pipeline = lambda image, key: seen.append(key) or torch.as_tensor(image)
    subset = Subset(source, per_class=2)
    for i in range(len(subset)):
        item = subset[SampleKey(i, 3, 4)]
        assert (item['index'], item['label']) == (i, int(source.labels[subset.rows[i]]))
        assert item['inputs'].item() == subset.rows[i]
        assert seen[-1] == SampleKey(int(subset.rows[i]), 3, 4)  # augmented as in the whole data set
    assert [item['index'] for item in subset.__getitems__([1, 0])] == [1, 0]


def test_images_of_a_list_of_files(tmp_path):
    for name in ('a/x1', 'a/x2', 'b/y1', 'b/y2', 'b/y3'):
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (4, 4)).save(tmp_path / 'images' / f'{name}.png')
    names = tmp_path / 'few.txt'
    names.write_text('y3.png\na/x2.png\ny3.png\n')
    subset = Subset(ImageFolder(tmp_path / 'images'), files=names)
    assert subset.rows.tolist() == [1, 4]
    assert subset.labels.tolist() == [0, 1]
    assert subset.classes == ('a', 'b')
    names.write_text('z.png\n')
    with pytest.raises(FileNotFoundError, match=r'1 of the 1 images of .* are not in the data set: z\.png'):
        Subset(ImageFolder(tmp_path / 'images'), files=names)
    with pytest.raises(FileNotFoundError, match=r'dataset\.files: there is no file'):
        Subset(ImageFolder(tmp_path / 'images'), files='nowhere.txt')
    with pytest.raises(ValueError, match='not made of files'):
        Subset(data(), files=names)


@pytest.mark.parametrize('labelled', [True, False])
def test_a_list_chooses_of_the_first_images_only(tmp_path, labelled):
    for number, name in enumerate(('a/1', 'a/2', 'b/3', 'b/4')):
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (4, 4), number).save(tmp_path / 'images' / f'{name}.png')
    names = tmp_path / 'few.txt'
    names.write_text('a/2.png\nb/3.png\n')
    first = FirstImages(ImageFolder(tmp_path / 'images', labelled=labelled), 3)
    assert first.paths.tolist() == [b'a/1.png', b'a/2.png', b'b/3.png']
    subset = Subset(first, files=names)
    assert [int(subset[i]['inputs'].max()) for i in range(len(subset))] == [1, 2]
    assert subset.labels is None if not labelled else subset.labels.tolist() == [0, 1]
    assert Subset(first, files=names, rest=True).rows.tolist() == [0]
    names.write_text('a/2.png\nb/4.png\n')
    with pytest.raises(FileNotFoundError, match=r'1 of the 2 images of .* are not in the data set: b/4\.png'):
        Subset(first, files=names)


@pytest.mark.parametrize('choice', [{}, dict(per_class=1, share=0.1), dict(per_class=0), dict(share=1.5)])
def test_bad_choices_are_refused(choice):
    with pytest.raises(ValueError, match='Subset: files='):
        Subset(data(), **choice)
    with pytest.raises(ValueError, match='no labels'):
        Subset(ArrayDataset(torch.zeros(2, 1, 1, 1)), per_class=1)
