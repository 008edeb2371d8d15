"""Images that cannot be read in a run: which are counted, where they are reported, and that a resumption is exact."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import toy_runner
from feature_toy import ToyImages, feature_runner, loader
from PIL import Image
from test_train_loop import assert_same, interrupt, state
from torch import Tensor

from unmix.cli import main
from unmix.datasets import BaseDataset, BrokenImage
from unmix.engine import pace
from unmix.registry import DATASETS
from unmix.testing import run_ranks

BAD = (3, 4, 17)


@DATASETS.register_module(force=True)
class HarmedData(BaseDataset):
    """Vectors, some of which cannot be read."""

    def __init__(self, bad: tuple[int, ...] = BAD, broken: str = 'skip', size: int = 24) -> None:
        super().__init__(lambda image, key: image, broken)
        self.bad = bad
        self.data = torch.randn(size, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.data)

    def name(self, index: int) -> str:
        return f'{index}.png'

    def load(self, index: int) -> tuple[Tensor, None]:
        if index in self.bad:
            raise BrokenImage(f'The image {index}.png cannot be read (test).')
        return self.data[index], None


DATA = dict(train_dataloader__dataset=dict(type='unmix.HarmedData'))


def log(work_dir: Path) -> str:
    return ''.join(file.read_text() for file in sorted(work_dir.glob('*/*.log')))


def skipped(work_dir: Path) -> dict[str, Any]:
    return json.loads((work_dir / 'results.json').read_text())['skipped']


def test_a_run_counts_and_names_what_it_skipped(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, **DATA)
    runner.train()
    assert skipped(tmp_path) == {'train': {f'{index}.png': 3 for index in (17, 3, 4)}}
    text = log(tmp_path)
    for index in BAD:
        assert text.count(f'The image {index}.png cannot be read (test). It is number {index} of the data set') == 1
    assert '3 images could not be read, and others took their places: 17.png (3 times), 3.png (3 times)' in text
    assert 'Replace or delete the files; write an archive or a table again without them.' in text
    for batch in runner.model.seen:
        assert len(set(batch)) == 4  # the model sees the numbers of the images that it gets
        assert not set(BAD) & set(batch)


@pytest.mark.slow
def test_left_out_by_the_epoch_is_not_skipped(tmp_path: Path) -> None:
    """Only images that the run asked for count: batches of 5 leave out 4 of 24 images, others each epoch."""
    runner = toy_runner(tmp_path, train_dataloader__batch_size=5, **DATA)
    runner.train()
    sampler, asked = runner.train_dataloader.sampler, Counter()
    for epoch in range(3):
        asked.update(f'{index}.png' for index in sampler.order(epoch)[:20].tolist() if index in BAD)
    assert skipped(tmp_path) == {'train': dict(asked)}
    assert sum(asked.values()) < 9


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_a_resumed_run_is_exact_and_counts_each_step_once(tmp_path: Path, workers: int) -> None:
    whole = toy_runner(tmp_path / 'whole', **DATA)
    whole.train()
    changes = DATA | dict(train_dataloader__num_workers=workers)
    first = interrupt(tmp_path / 'parts', 8, **changes)
    assert not (tmp_path / 'parts' / 'results.json').exists()
    second = toy_runner(tmp_path / 'parts', resume=True, **changes)
    second.train()
    assert_same(state(second), state(whole))
    assert first.model.seen + second.model.seen == whole.model.seen
    assert skipped(tmp_path / 'parts') == skipped(tmp_path / 'whole')


@pytest.mark.slow
def test_a_sampler_without_an_order_is_refused(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, train_dataloader__sampler=dict(type='DefaultSampler', shuffle=True), **DATA)
    with pytest.raises(ValueError, match=r"a DefaultSampler does not tell it\. Set .*sampler\.type='EpochSampler'"):
        runner.train()
    toy_runner(tmp_path, train_dataloader__sampler=dict(type='EpochSampler'), **DATA).train()


def test_the_default_ends_the_run(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, train_dataloader__dataset=dict(type='unmix.HarmedData', broken='error'))
    with pytest.raises(BrokenImage, match=r'The image \d+\.png cannot be read'):
        runner.train()


@DATASETS.register_module(force=True)
class HarmedImages(BaseDataset):
    """``ToyImages``, some of which cannot be read."""

    def __init__(self, size: int, bad: tuple[int, ...] = BAD, broken: str = 'skip', **kwargs: Any) -> None:
        super().__init__(None, broken)
        self.bad, self.toy = bad, ToyImages(size, **kwargs)
        self.labels = self.toy.label

    def __len__(self) -> int:
        return len(self.toy)

    def load(self, index: int) -> tuple[Tensor, int]:
        if index in self.bad:
            raise BrokenImage(f'The image {index}.png cannot be read (test).')
        item = self.toy[index]
        return item['inputs'], item['label']


@pytest.mark.slow
def test_an_evaluation_leaves_them_out_and_says_so(tmp_path: Path) -> None:
    """Not replaced: the features are those of the images that can be read, each once."""

    def harmed(size: int, **kwargs: Any) -> dict[str, Any]:
        cfg = loader(size)
        return dict(cfg, dataset=dict(cfg['dataset'], type='unmix.HarmedImages', **kwargs))

    runner = feature_runner(
        tmp_path,
        dict(bank_dataloader=harmed(23, bad=(5,))),
        val_dataloader=harmed(21),
        test_dataloader=harmed(21),
        test_evaluator=[dict(type='Recorder'), dict(type='KNN', k=5)],
        custom_hooks=[dict(type='ReportHook')],
    )
    runner.train()
    runner.test()
    recorder = runner.test_loop.metrics[0]
    bank, test = recorder.calls[-1]
    assert (len(bank.labels), len(test.labels)) == (22, 18)
    kept = [index for index in range(21) if index not in BAD]
    assert test.labels.tolist() == ToyImages(21).label[kept].tolist()
    assert skipped(tmp_path) == {
        'test': {f'image {index}': 1 for index in BAD},
        'bank': {'image 5': 1},
    }
    assert log(tmp_path).count('val_dataloader: 3 of 21 images cannot be read and are left out of the evaluation') == 1


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_a_loop_of_mmengine_that_would_count_others_twice_is_refused(tmp_path: Path, stage: str) -> None:
    cfg = dict(batch_size=4, sampler=dict(type='EpochSampler'), dataset=dict(type='unmix.HarmedData'))
    changes = {
        f'{stage}_dataloader': cfg,
        f'{stage}_cfg': dict(type=f'{stage.title()}Loop'),
        f'{stage}_evaluator': dict(type='Accuracy'),
    }
    runner = toy_runner(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"{stage}_dataloader.dataset.broken='skip' would count other images twice"):
        runner.train() if stage == 'val' else runner.test()


def two_ranks(rank: int, work_dir: str) -> None:
    runner = toy_runner(work_dir, train_dataloader__batch_size=2, **DATA)
    runner.train()
    seen = getattr(runner.model, 'module', runner.model).seen
    Path(work_dir, f'seen_{rank}.json').write_text(json.dumps(seen))


@pytest.mark.ranks
@pytest.mark.slow
def test_ranks_add_up(tmp_path: Path) -> None:
    run_ranks(two_ranks, 2, tmp_path, str(tmp_path))
    assert skipped(tmp_path) == {'train': {f'{index}.png': 3 for index in (17, 3, 4)}}
    seen = [json.loads((tmp_path / f'seen_{rank}.json').read_text()) for rank in range(2)]
    for first, second in zip(*seen, strict=True):
        assert not set(BAD) & {*first, *second}
        assert len({*first, *second}) == 4


@pytest.mark.slow
def test_a_folder_with_one_bad_jpeg_trains_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, with the recipe for folders and worker processes."""
    monkeypatch.setattr(pace, 'SECONDS', 0.0)
    for number in range(16):
        Image.effect_noise((40, 40), 90).convert('RGB').save(tmp_path / f'{number:02}.jpg')
    bad = tmp_path / '07.jpg'
    bad.write_bytes(bad.read_bytes()[:300])
    options = {
        'data_root': tmp_path, 'train_cfg.max_epochs': 2, 'train_dataloader.batch_size': 4, 'model.backbone.width': 4,
        'model.backbone.num_splits': 1, 'model.neck.in_dim': 32, 'model.head.queue_size': 4,
        'num_threads': 1, 'train_dataloader.dataset.broken': 'skip',
    }  # fmt: skip
    command = ['train', 'quickstart/unmix-moco_folder', '--out']
    words = [f'{key}={value}' for key, value in options.items()]
    main([*command, str(tmp_path / 'run'), '--cfg-options', *words])
    assert skipped(tmp_path / 'run') == {'train': {'07.jpg': 2}}
    assert '1 images could not be read, and others took their places: 07.jpg (2 times)' in log(tmp_path / 'run')
    words[-1] = 'train_dataloader.dataset.broken=error'
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / 'other'), '--cfg-options', *words])
    error = capsys.readouterr().err
    assert f'error: The image {bad} cannot be read' in error
    assert f'It is number 7 of the data set. "unmix doctor {tmp_path}" lists all such images' in error


def test_fewer_images_than_a_batch_are_one_message(tmp_path: Path) -> None:
    data = dict(train_dataloader__dataset=dict(type='unmix.HarmedData', size=8, bad=(2, 5)))
    with pytest.raises(ValueError, match=r'batch_size is 8, but of the 8 images .* only 6 can be read'):
        toy_runner(tmp_path, train_dataloader__batch_size=8, **data).train()
