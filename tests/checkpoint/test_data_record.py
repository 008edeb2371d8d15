"""Training data that changed between a kill and a resumption."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_toy import ToyData
from mmengine.dataset import BaseDataset as MMEngineDataset
from mmengine.dataset import ConcatDataset, RepeatDataset
from PIL import Image
from torch.utils.data import ConcatDataset as TorchConcat
from torch.utils.data import Subset as TorchSubset

from unmix.apis import build_runner, load_config
from unmix.checkpoint.data import SAMPLE, Items, difference, fingerprint, sample
from unmix.datasets import ArrayDataset, BaseDataset, Digits, ImageFolder, MixtureDataset, Subset


def folder(root: Path, count: int = 6) -> Path:
    for label in 'ab':
        (root / label).mkdir(parents=True)
        for i in range(count // 2):
            write(root / label / f'{i}.png', i)
    return root


def write(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


def changed(make, change) -> str | None:
    then = fingerprint(make())
    change()
    dataset = make()
    return difference(then, fingerprint(dataset), dataset)


CHANGES = {
    'nothing': (lambda root: None, None),
    'copied': (lambda root: (shutil.move(root, f'{root}.old'), shutil.copytree(f'{root}.old', root)), None),
    'date': (lambda root: (root / 'a' / '0.png').touch(), None),
    'renamed': (lambda root: (root / 'a' / '0.png').rename(root / 'a' / 'z.png'),
                '3 of 6 images have another name or label, first image 0, which is now a/1.png (label 0)'),
    'added': (lambda root: write(root / 'b' / '9.png', 9), 'it had 6 images and has 7 now'),
    'removed': (lambda root: (root / 'b' / '0.png').unlink(),
                'it had 6 images and has 5 now; 2 of 5 images have another name or label, first image 3, which is now '
                'b/1.png (label 1)'),
    'replaced': (lambda root: write(root / 'b' / '1.png', 9),
                 '1 of 6 images have another content, first image 4, b/1.png (label 1)'),
    'exchanged': (lambda root: ((root / 'a' / '0.png').rename(root / 't'), (root / 'a' / '1.png').rename(root / 'a' /
                  '0.png'), (root / 't').rename(root / 'a' / '1.png')), '2 of 6 images have another content, first'),
    'moved': (lambda root: (root / 'a' / '2.png').rename(root / 'b' / '+.png'), '1 of 6 images have another name or'),
}  # fmt: skip


@pytest.mark.parametrize('change', CHANGES)
def test_each_change_of_a_folder_is_named(tmp_path: Path, change: str):
    root = folder(tmp_path / 'data')
    apply, words = CHANGES[change]
    found = changed(lambda: ImageFolder(root), lambda: apply(root))
    assert found == words or (words is not None and found is not None and found.startswith(words))


class Pictures(MMEngineDataset):
    """MMEngine's kind of data set, with one annotation a file."""

    def load_data_list(self):
        return [dict(img_path=str(path), gt_label=0) for path in sorted(Path(self.data_root).rglob('*.png'))]


def pictures(root: Path) -> Pictures:
    return Pictures(data_root=str(root))


WRAPPERS = {
    'Subset': lambda root: Subset(ImageFolder(root, labelled=True), share=1.0),
    'MixtureDataset': lambda root: MixtureDataset(ImageFolder(root), mixing=dict(type='Mixup')),
    'torch Subset': lambda root: TorchSubset(ImageFolder(root), [5, 4, 3]),
    'torch ConcatDataset': lambda root: TorchConcat([ImageFolder(root / 'a'), ImageFolder(root / 'b')]),
    'ConcatDataset': lambda root: ConcatDataset([pictures(root / 'a'), pictures(root / 'b')]),
    'RepeatDataset': lambda root: RepeatDataset(pictures(root), 3),
    'nested': lambda root: MixtureDataset(
        TorchConcat([Subset(ImageFolder(root), per_class=3), RepeatDataset(pictures(root), 2)]), dict(type='Mixup')
    ),
    'of MMEngine': pictures,
}


@pytest.mark.slow
@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_a_replaced_file_is_seen_through_wrappers(tmp_path: Path, wrapper: str):
    root = folder(tmp_path / 'data')
    assert changed(lambda: WRAPPERS[wrapper](root), lambda: None) is None
    found = changed(lambda: WRAPPERS[wrapper](root), lambda: write(root / 'b' / '1.png', 9))
    assert found is not None
    assert 'have another content' in found


def test_another_subset_of_the_same_images(tmp_path: Path):
    root = folder(tmp_path / 'data')
    then = fingerprint(Subset(ImageFolder(root), per_class=2, seed=0))
    now = Subset(ImageFolder(root), per_class=2, seed=1)
    assert 'have another name or label' in difference(then, fingerprint(now), now)


def test_images_in_memory():
    images, labels = torch.rand(20, 1, 4, 4), torch.arange(20)
    then = fingerprint(ArrayDataset(images, labels))
    assert difference(then, fingerprint(ArrayDataset(images.clone(), labels)), ArrayDataset(images, labels)) is None
    other = ArrayDataset(images, labels.flip(0))
    assert '20 of 20 images have another name or label' in difference(then, fingerprint(other), other)
    images[7, 0, 3, 3] += 1
    other = ArrayDataset(images, labels)
    assert (
        difference(then, fingerprint(other), other) == '1 of 20 images have another content, first image 7, (label 7)'
    )


def test_no_file_left_says_nothing_of_an_image(monkeypatch: pytest.MonkeyPatch):
    def no_file(self: object, index: int) -> bytes:
        raise OSError(errno.EMFILE, 'Too many open files')

    monkeypatch.setattr(Named, 'content', no_file)
    with pytest.raises(OSError, match='Too many open files'):
        fingerprint(Named(['a']))


class Named(BaseDataset):
    """A user's data set, which opens its file late: load must not be called before there are workers."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int):
        raise AssertionError('loaded')

    def name(self, index: int) -> str:
        return self.names[index]


def test_data_sets_of_users():
    then, other = fingerprint(Named(['a', 'b'])), Named(['a', 'c'])
    assert difference(then, fingerprint(other), other) == (
        '1 of 2 images have another name or label, first image 1, which is now c'
    )
    toy = ToyData(7)
    assert difference(fingerprint(ToyData(6)), fingerprint(toy), toy) == 'it had 6 images and has 7 now'
    assert toy.loaded == []


def test_the_sample_of_many_images():
    chosen = sample(10 * SAMPLE)
    assert chosen == sample(10 * SAMPLE) == sorted(set(chosen))
    assert len(chosen) == SAMPLE
    assert np.histogram(chosen, bins=10, range=(0, 10 * SAMPLE))[0].min() > SAMPLE / 20
    assert sample(3) == [0, 1, 2]
    assert len(Items(TorchConcat([ToyData(5), ToyData(4)]))) == 9


CONFIGS = {'moco': ('unmix-moco_digits', False), 'instdisc': ('instdisc_digits', True), 'cmc': ('cmc_digits', True),
           'pic': ('pic_digits', True), 'deepcluster': ('deepclusterv2_digits', True)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('method', CONFIGS)
def test_a_state_for_each_image_is_not_given_to_other_images(tmp_path: Path, method: str, monkeypatch, capsys):
    name, refused = CONFIGS[method]
    options = {'train_cfg.max_epochs': 2, 'default_hooks.checkpoint.interval': 1}
    options['custom_hooks'] = [dict(type='InstanceHook')]
    options |= dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))

    def runner(work_dir: str, **changes):
        cfg = load_config(f'quickstart/{name}', options | changes)
        cfg.work_dir = str(tmp_path / work_dir)
        return build_runner(cfg)

    runner('a', **{'train_cfg.max_epochs': 1}).train()
    monkeypatch.setattr(Digits, 'content', lambda self, index: self.images[index - 1].numpy().tobytes())
    other = runner('b', resume=True, load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    if refused:
        with pytest.raises(
            ValueError, match=r'have another content, first image 0.*has a state for each image.*Restore'
        ):
            other.train()
        assert not (tmp_path / 'b' / 'run.json').exists()
    else:
        other.train()
        assert 'The training data set has changed since this checkpoint was written' in capsys.readouterr().out
