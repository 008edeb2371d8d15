"""Images in memory: the same batches, one copy on a host, nothing left behind, an estimate before."""

import gc
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_toy import ToyModel, toy_runner
from mmengine.registry import MODELS
from PIL import Image
from test_archives import FORMS, VIEWS, batches, images, pack_zip, same
from test_train_loop import assert_same, state
from torch import Tensor
from torch.utils.data import DataLoader

from unmix.datasets import BrokenImage, EpochSampler, ImageFolder, SampleKey, TinyImageNet, caches, collate
from unmix.testing.ranks import run_ranks

CACHES = ('full', 'part', 'decoded')
MEMORY = Path('/dev/shm') if os.path.isdir('/dev/shm') else None


def held() -> list[str]:
    """Files of caches that this process has open."""
    gc.collect()
    folder = Path('/proc/self/fd')
    names = [os.readlink(path) for path in folder.iterdir() if os.path.islink(path)] if folder.is_dir() else []
    return [name for name in names if 'unmix-' in os.path.basename(name)]


@pytest.mark.slow
@pytest.mark.parametrize('cache', CACHES)
@pytest.mark.parametrize('form', ['folder', 'stored', 'deflated', 'map', 'tar', 'tars'])
def test_all_caches_give_the_batches_of_the_folder(tmp_path: Path, form: str, cache: str) -> None:
    members = images(tmp_path / 'x')
    path = tmp_path / 'x' if form == 'folder' else FORMS[form](tmp_path, members)
    folder = ImageFolder(tmp_path / 'x', pipeline=VIEWS)
    cached = ImageFolder(path, pipeline=VIEWS, cache=cache)
    cached.files.read = None  # nothing is read again
    assert same(batches(folder), batches(cached))
    assert all('(deleted)' in name for name in held())
    del cached
    assert held() == []
    assert MEMORY is None or not list(MEMORY.glob('unmix-*'))


@pytest.mark.slow
@pytest.mark.parametrize(('cache', 'context'), [('full', 'fork'), ('part', 'spawn'), ('decoded', 'forkserver')])
def test_workers_share_the_cache(tmp_path: Path, cache: str, context: str) -> None:
    members = images(tmp_path / 'x')
    folder = ImageFolder(tmp_path / 'x', pipeline=VIEWS)
    cached = ImageFolder(FORMS['stored'](tmp_path, members), pipeline=VIEWS, cache=cache)
    (tmp_path / 'x.zip').unlink()  # a worker that is started has only the cache
    assert same(batches(folder), batches(cached, 2, context))


@pytest.mark.parametrize(('form', 'cache'), [('folder', 'full'), ('stored', 'part'), ('tars', 'decoded')])
def test_training_set_and_bank_share_one_copy(tmp_path: Path, form: str, cache: str) -> None:
    members = images(tmp_path / 'x')
    path = tmp_path / 'x' if form == 'folder' else FORMS[form](tmp_path, members)
    train = ImageFolder(path, cache=cache)
    bank = ImageFolder(path, cache=cache, labelled=False, decoder='pil' if cache == 'full' else 'auto')
    assert bank._kept is train._kept
    bank.files.read = None  # nothing is read again
    del train
    assert bank.load(7)[0].shape == (3, 16, 16)


def test_other_bytes_are_another_cache(tmp_path: Path) -> None:
    images(tmp_path / 'x')
    first = ImageFolder(tmp_path / 'x', cache='full')
    path = tmp_path / 'x' / 'a' / '0.jpg'
    state = path.stat()
    path.write_bytes(path.read_bytes()[::-1])  # as many bytes
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    other = ImageFolder(tmp_path / 'x', cache='full')
    sets = [first, other, *(ImageFolder(tmp_path / 'x' / 'a', labelled=False, cache=cache) for cache in CACHES[:2])]
    path.write_bytes((tmp_path / 'x' / 'a' / '1.JPEG').read_bytes())
    sets += [ImageFolder(tmp_path / 'x', cache='decoded', exif=exif) for exif in (False, True)]
    assert len({id(dataset._kept) for dataset in sets}) == len(sets)
    assert other._kept.get(0) != first._kept.get(0)


def test_what_does_not_fit_is_an_error_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack_zip(tmp_path / 'x.zip', images(tmp_path / 'x'))
    needed = int((ImageFolder(path).files.sizes() + 1).sum())
    monkeypatch.setattr(caches, 'free_memory', lambda folder: {'in /dev/shm': 2**40, 'in the memory': needed - 1})
    expected = (
        rf"dataset\.cache='full': the images have .* MiB \({needed} bytes\), but only .* MiB \({needed - 1} bytes\)"
    )
    with pytest.raises(ValueError, match=expected + r" are free in the memory\. Set dataset\.cache='none'"):
        ImageFolder(path, cache='full')
    ImageFolder(path, cache='none')
    monkeypatch.setattr(caches, 'free_memory', lambda folder: {'in /dev/shm': needed})
    ImageFolder(path, cache='full')
    monkeypatch.setattr(caches, 'free_memory', lambda folder: {'in /dev/shm': 12 * 3 * 256})
    with pytest.raises(ValueError, match=rf"dataset\.cache='decoded': .*\({12 * (3 * 256 + 1)} bytes\)"):
        ImageFolder(path, cache='decoded')
    assert held() == []


def test_a_device_that_is_full_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(caches, '_write', full)
    images(tmp_path / 'x')
    with pytest.raises(ValueError, match=r'the images cannot be kept in /.* \(No space left on device\)\. Set dataset'):
        ImageFolder(tmp_path / 'x', cache='full')


def test_memory_that_cannot_be_had_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(27, 'File too large')

    monkeypatch.setattr(os, 'truncate', refused)
    images(tmp_path / 'x')
    with pytest.raises(ValueError, match=r"dataset\.cache='part': the images cannot be kept in /.* \(File too large\)"):
        ImageFolder(tmp_path / 'x', cache='part')
    assert MEMORY is None or not list(MEMORY.glob('unmix-*'))


def test_limits_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for group, limit in (('a/b', '1000'), ('a', '700'), ('.', 'max')):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / 'memory.max').write_text(limit)
        (tmp_path / group / 'memory.current').write_text('600')
        (tmp_path / group / 'memory.stat').write_text('anon 1\ninactive_file 50\n')
    monkeypatch.setattr(caches, 'GROUPS', tmp_path)
    assert list(caches._limits('', Path('a/b'))) == [450, 150]
    assert list(caches._limits('cpu,pids', Path('a/b'))) == []
    (tmp_path / 'memory' / 'a').mkdir(parents=True)
    for name, value in (('limit', 900), ('usage', 100)):
        (tmp_path / 'memory' / 'a' / f'memory.{name}_in_bytes').write_text(str(value))
    (tmp_path / 'memory' / 'a' / 'memory.stat').write_text('total_inactive_file 30')
    assert list(caches._limits('cpu,memory', Path('a/gone'))) == [830]
    assert min(caches.free_memory('/').values()) > 0


def test_images_of_several_sizes_become_squares(tmp_path: Path) -> None:
    images(tmp_path / 'x')
    Image.new('RGB', (20, 40), (9, 8, 7)).save(tmp_path / 'x' / 'a' / '0.jpg')
    with pytest.raises(
        ValueError, match=r'image .*a/1\.JPEG has 16 x 16 pixels, the first 20 x 40\. Set dataset\.cache_size'
    ):
        ImageFolder(tmp_path / 'x', cache='decoded')
    cached, plain = ImageFolder(tmp_path / 'x', cache='decoded', cache_size=16), ImageFolder(tmp_path / 'x')
    shapes = {tuple(cached.load(i)[0].shape) for i in range(12)}
    assert shapes == {(3, 16, 16)}
    assert all(torch.equal(cached.load(i)[0], plain.load(i)[0]) for i in range(1, 12))
    assert cached.load(0)[0].permute(1, 2, 0).is_contiguous()


def test_options_of_the_cache(tmp_path: Path) -> None:
    images(tmp_path / 'x')
    with pytest.raises(ValueError, match=r"dataset\.cache is 'all'; expected one of 'none', 'full', 'part', 'decoded'"):
        ImageFolder(tmp_path / 'x', cache='all')
    with pytest.raises(ValueError, match=r"dataset\.cache_size is 8 with cache='full'"):
        ImageFolder(tmp_path / 'x', cache='full', cache_size=8)
    (tmp_path / 'x').rename(tmp_path / 'train')
    assert TinyImageNet(tmp_path, cache='decoded').load(0)[0].shape == (3, 16, 16)


@pytest.mark.parametrize('cache', CACHES)
def test_a_broken_image_is_named_when_it_is_its_turn(tmp_path: Path, cache: str) -> None:
    images(tmp_path / 'x')
    (tmp_path / 'x' / 'b é' / '2.png').write_bytes(b'\x89PNG hello')
    dataset = ImageFolder(tmp_path / 'x', cache=cache)
    assert dataset.load(5)[0].shape == (3, 16, 16)
    with pytest.raises(ValueError, match=r'The image .*b é/2\.png cannot be read'):
        dataset.load(6)


def test_the_size_is_that_of_the_first_image_that_can_be_read(tmp_path: Path) -> None:
    images(tmp_path / 'x')
    folder = ImageFolder(tmp_path / 'x', broken='skip')
    (tmp_path / 'x' / 'a' / '0.jpg').write_bytes(b'')
    (tmp_path / 'x' / 'a' / '1.JPEG').write_bytes(b'no image')
    cached = ImageFolder(tmp_path / 'x', cache='decoded', broken='skip')
    assert [item['index'] for item in cached.__getitems__(range(10))] == [*range(2, 12)]
    assert all(torch.equal(cached.load(number)[0], folder.load(number)[0]) for number in range(2, 12))
    with pytest.raises(BrokenImage, match=r'a/0\.jpg cannot be read'):
        cached[0]
    for path in folder.paths.tolist():
        (tmp_path / 'x' / os.fsdecode(path)).write_bytes(b'')
    with pytest.raises(
        BrokenImage, match=r"cache='decoded': the first 12 images cannot be read, .*server there\? .*0\.jpg"
    ):
        ImageFolder(tmp_path / 'x', cache='decoded', broken='skip')


def test_a_file_that_grows_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / 'x')
    dataset = ImageFolder(tmp_path / 'x')
    sizes = dataset.files.sizes()
    monkeypatch.setattr(type(dataset.files), 'sizes', lambda self: sizes - 1)
    with pytest.raises(ValueError, match=r'a/0\.jpg has changed while it was read: it had \d+ bytes and has \d+ now'):
        ImageFolder(tmp_path / 'x', cache='full')


@MODELS.register_module(force=True)
class ImageToy(ToyModel):
    """The toy on images."""

    def forward(self, inputs: Tensor, index: Tensor, label: Tensor, mode: str = 'tensor') -> dict[str, Tensor] | Tensor:
        return super().forward(inputs.flatten(1).float() / 255, index, mode)


CROP = dict(type='SingleView', transforms=[dict(type='RandomResizedCrop', size=4), dict(type='RandomHorizontalFlip')])


@pytest.mark.slow
@pytest.mark.parametrize(('form', 'cache'), [
    ('folder', 'none'), ('stored', 'none'), ('map', 'full'), ('deflated', 'part'), ('tar', 'none'), ('tars', 'decoded'),
])  # fmt: skip
def test_a_run_continues_exactly_from_each(
    tmp_path: Path, form: str, cache: str, capsys: pytest.CaptureFixture
) -> None:
    """A run on the folder is interrupted, and goes on from the archive."""
    members = images(tmp_path / 'x')
    path = tmp_path / 'x' if form == 'folder' else FORMS[form](tmp_path, members)

    def runner(name: str, root: Path, cache: str, **changes: object) -> object:
        dataset = dict(type='ImageFolder', data_root=str(root), cache=cache, pipeline=CROP, _delete_=True)
        checkpoint = dict(default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=2)
        return toy_runner(
            tmp_path / name, train_dataloader__dataset=dataset, train_dataloader__batch_size=4,
            train_dataloader__collate_fn=dict(type='collate'),
            model=dict(type='ImageToy', dim=48), **checkpoint, default_hooks__checkpoint__max_keep_ckpts=-1, **changes,
        )  # fmt: skip

    whole = runner('whole', tmp_path / 'x', 'none')
    whole.train()
    second = runner('second', path, cache, resume=True, load_from=str(tmp_path / 'whole' / 'iter_4.pth'))
    second.train()
    assert_same(state(second), state(whole))
    assert second.model.seen == whole.model.seen[4:] != []
    assert 'data set has changed since this checkpoint' not in capsys.readouterr().out


def pss(process: int | str) -> int:
    """Bytes of memory of a process; what several share is divided among them."""
    text = Path(f'/proc/{process}/smaps_rollup').read_text()
    return 1024 * int(re.search(r'^Pss:\s+(\d+)', text, re.MULTILINE)[1])


def _on_rank(rank: int, root: Path) -> None:
    dataset = ImageFolder(root / 'x.zip', cache='part')
    (file,) = {os.stat(f'/proc/self/fd/{name}').st_ino for name in os.listdir('/proc/self/fd') if _is_cache(name)}
    blocks = os.stat(f'/proc/self/fd/{dataset._kept._descriptor}').st_blocks * 512
    dataset.files.read = None  # all is in memory, whoever of the host has read it
    for part in (False, True):
        sampler = EpochSampler(dataset, seed=5, part=part)
        sampler.set_epoch(1)
        loader = DataLoader(
            dataset, 2, sampler=sampler, num_workers=2, collate_fn=collate, multiprocessing_context='fork'
        )
        torch.save((list(loader), file, blocks), root / f'{rank}-{part}.pth')


def _is_cache(name: str) -> bool:
    path = f'/proc/self/fd/{name}'
    return os.path.islink(path) and 'unmix-' in os.readlink(path)


@pytest.mark.slow
@pytest.mark.ranks
def test_two_ranks_with_two_workers_see_each_image_once(tmp_path: Path) -> None:
    pack_zip(tmp_path / 'x.zip', images(tmp_path / 'x'))
    run_ranks(_on_rank, 2, tmp_path, tmp_path)
    folder = ImageFolder(tmp_path / 'x')
    needed = int((folder.files.sizes() + 1).sum())
    for part in (False, True):
        (ours, file, size), (theirs, other, _) = (torch.load(tmp_path / f'{rank}-{part}.pth') for rank in range(2))
        assert file == other  # one file for both
        assert needed <= size <= needed + 4096
        seen = [torch.cat([batch['index'] for batch in batches]).tolist() for batches in (ours, theirs)]
        assert sorted(seen[0] + seen[1]) == list(range(12))
        assert not part or [{i % 2 for i in own} for own in seen] == [{0}, {1}]
        for batch in ours + theirs:  # those of the folder, without a cache
            plain = collate(folder.__getitems__([SampleKey(i, 1, 5) for i in batch['index'].tolist()]))
            assert torch.equal(batch['label'], plain['label'])
            assert torch.equal(batch['inputs'], plain['inputs'])


def large(root: Path, number: int = 40, size: int = 2**20) -> Path:
    """Write a zip of files of 1 MiB: small images, and then other bytes."""
    members = []
    for i in range(number):
        Image.new('RGB', (8, 8), (i, i, i)).save(root / 'x.png')
        members.append((f'a/{i}.png', (root / 'x.png').read_bytes() + np.random.default_rng(i).bytes(size)))
    return pack_zip(root / 'large.zip', members)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/smaps_rollup').exists(), reason='needs /proc/PID/smaps_rollup of Linux')
@pytest.mark.parametrize(('context', 'workers'), [('fork', 4), ('spawn', 2)])
def test_workers_have_one_copy(tmp_path: Path, context: str, workers: int) -> None:
    """40 MiB: each worker would have 40 more."""

    def memory(cache: str) -> int:
        dataset = ImageFolder(path, cache=cache)
        loader = DataLoader(dataset, 2, num_workers=workers, persistent_workers=True, collate_fn=collate,
                            multiprocessing_context=context)  # fmt: skip
        for _ in range(2):
            list(loader)
        return sum(pss(worker.pid) for worker in loader._iterator._workers)

    path = large(tmp_path)
    assert memory('part') - memory('none') < 20 * 2**20


CRASH = """
import sys
from unmix.datasets import ImageFolder, archive
if sys.argv[2] == 'filling':
    read = archive.Archive.read
    def slow(self, number):
        if number == 30:
            print('ready', flush=True)
            import time; time.sleep(60)
        return read(self, number)
    archive.Archive.read = slow
dataset = ImageFolder(sys.argv[1], cache='full')
print('ready', flush=True)
sys.stdin.read()
"""


def shared_memory(process: str) -> dict[int, int]:
    """The files in /dev/shm that a process has open, by number, and their bytes there."""
    found = {}
    with suppress(OSError):  # of another user, or it has ended
        for name in os.listdir(f'/proc/{process}/fd'):
            with suppress(OSError):
                state = os.stat(f'/proc/{process}/fd/{name}')
                if state.st_dev == MEMORY.stat().st_dev:
                    found[state.st_ino] = 512 * state.st_blocks
    return found


@pytest.mark.slow
@pytest.mark.skipif(MEMORY is None or not Path('/proc/self/fd').is_dir(), reason='needs /dev/shm and /proc')
@pytest.mark.parametrize('when', ['filling', 'filled'])
def test_a_killed_process_leaves_no_memory_behind(tmp_path: Path, when: str) -> None:
    """Its memory has no name and no other process has it, so that the system frees it."""
    command = [sys.executable, '-c', CRASH, str(large(tmp_path)), when]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while 'ready' not in process.stdout.readline():
            pass
        own = shared_memory(str(process.pid))
        assert sum(own.values()) > 20 * 2**20
        assert not list(MEMORY.glob('unmix-*'))
        process.send_signal(signal.SIGKILL)
        process.wait()
    others = [entry.name for entry in Path('/proc').glob('[0-9]*')]
    assert not [other for other in others if own.keys() & shared_memory(other).keys()]


@pytest.mark.parametrize('cache', ['none', *CACHES])
def test_others_take_the_places_of_broken_images_in_an_archive(tmp_path: Path, cache: str) -> None:
    images(tmp_path / 'x')
    (tmp_path / 'x' / 'c' / '2.png').write_bytes(b'no image')
    path = pack_zip(tmp_path / 'x.zip', [(str(p.relative_to(tmp_path / 'x')), p.read_bytes())
                                         for p in sorted((tmp_path / 'x').rglob('*')) if p.is_file()])  # fmt: skip
    folder = ImageFolder(tmp_path / 'x', pipeline=VIEWS, broken='skip')
    packed = ImageFolder(path, pipeline=VIEWS, broken='skip', cache=cache)
    assert packed.encoded(10) == b'no image'
    with pytest.raises(BrokenImage, match=r'x\.zip@/c/2\.png'):
        packed.read(10)
    assert same(batches(folder), batches(packed))
