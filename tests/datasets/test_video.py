"""Frames of videos: each is the one of its number, in any order, whatever the header says."""

import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unmix.datasets import BrokenImage, EpochSampler, Subset, VideoFrames, collate, video
from unmix.datasets.video import NEAR, Video
from unmix.registry import DATASETS

pytest.importorskip('mmcv', reason='needs the package mmcv')
HEIGHT, WIDTH, BITS, RATE = 32, 64, 8, 25
FORMS = {'MJPG': '.avi', 'XVID': '.avi', 'mp4v': '.mp4', 'FFV1': '.mkv', 'VP80': '.webm'}


def drawn(number: int) -> np.ndarray:
    """Return a frame that shows its number: a white column for each bit."""
    bits = np.repeat([number >> bit & 1 for bit in range(BITS)], WIDTH // BITS)
    return np.broadcast_to((20 + 200 * bits).astype(np.uint8)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(frame: Tensor) -> int:
    columns = frame.float().mean((0, 1)).view(BITS, -1).mean(1) > 128
    return sum(int(column) << bit for bit, column in enumerate(columns))


def write(path: Path, frames: int = 60, code: str = 'MJPG') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), RATE, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip(f'this OpenCV does not write {code}')
    for number in range(frames):
        writer.write(drawn(number))
    writer.release()
    return path


def write_slowing(path: Path, frames: int = 60, suffix: str = '.mkv') -> list[int]:
    """Write a video whose frames after the 20th are shown four times as long; return when, in frames of 1 / RATE."""
    source = write(path.with_suffix('.avi'), frames)
    reader = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    options = [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
    size = (WIDTH, HEIGHT)
    code = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(path.with_suffix(suffix)), cv2.CAP_FFMPEG, code, RATE, size, options)
    times = [number if number < 20 else 20 + 4 * (number - 20) for number in range(frames)]
    for time in times:
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, 1)
        writer.set(cv2.VIDEOWRITER_PROP_PTS, time)
        writer.write(reader.read()[1])
    writer.release()
    source.unlink()
    return times


def in_order(path: Path) -> list[Tensor]:
    """Return the frames of a plain read from the beginning, RGB."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(torch.from_numpy(read[1][..., ::-1].copy()).permute(2, 0, 1))
    return frames


def assert_same(dataset: VideoFrames, frames: list[Tensor]) -> None:
    """Compare all frames in three orders, and each in a video that was just opened."""
    assert len(dataset) == len(frames)
    random = np.random.default_rng(0).permutation(len(frames)).tolist()
    for order in (random, range(len(frames)), reversed(random)):
        video._opened.videos.clear()
        assert [index for index in order if not torch.equal(dataset.load(index)[0], frames[index])] == []
    for index in random:
        video._opened.videos.clear()
        assert torch.equal(dataset.load(index)[0], frames[index])


@pytest.mark.parametrize('code', FORMS)
def test_frames_in_any_order(code: str, tmp_path: Path) -> None:
    path = write(tmp_path / f'x{FORMS[code]}', code=code)
    dataset, frames = VideoFrames(path), in_order(path)
    assert [number_of(frame) for frame in frames] == [*range(60)]
    assert_same(dataset, frames)
    assert dataset.seeks == [True]
    assert frames[3].shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize('name', ['MPG2.avi', 'MPG1.avi', 'MPG2.mpg', 'MPG1.mpeg', 'MPG2.wmv'])
def test_containers_in_which_opencv_cannot_seek(name: str, tmp_path: Path) -> None:
    """B-frames in containers that do not name the time of each frame."""
    path = write(tmp_path / name, code=name[:4])
    with pytest.warns(UserWarning, match=rf'OpenCV cannot seek in 1 of the 1 videos of .*: {name}\. .*convert'):
        dataset = VideoFrames(path)
    frames = in_order(path)
    assert [number_of(frame) for frame in frames] == [*range(60)]
    assert_same(dataset, frames)
    with pytest.warns(UserWarning, match='seek'):
        assert VideoFrames(path, fps=RATE / 5).frame.tolist() == [*range(0, 60, 5)]


def test_packets_before_the_start(tmp_path: Path) -> None:
    """An MP4 that was cut without decoding keeps frames that are not shown: an edit list names its start."""
    path = write(tmp_path / 'x.mp4', code='mp4v')
    data = bytearray(path.read_bytes())
    media, edits = data.find(b'mdhd') + 4, data.find(b'elst') + 4
    if edits == 3:
        pytest.skip('this OpenCV writes no edit list')
    ticks = int.from_bytes(data[media + 12 : media + 16], 'big') // RATE
    data[edits + 12 : edits + 16] = (5 * ticks).to_bytes(4, 'big')
    path.write_bytes(data)
    frames = in_order(path)
    assert [number_of(frame) for frame in frames] == [*range(5, 60)]
    with pytest.warns(UserWarning, match='seek'):
        assert_same(VideoFrames(path), frames)


@pytest.mark.parametrize('order', [[29, 30, 31, 32], [32, 31, 30, 29], [30], [59, 30, 31]])
def test_a_packet_without_a_frame(order: list[int], tmp_path: Path) -> None:
    """It has no pixels, and the others keep theirs."""
    times = 1000 * np.sort([*range(59), 29.5]) / RATE
    opened = Video(os.fsencode(write(tmp_path / 'x.mp4', code='mp4v')), times, True)
    found = [opened.frame(number) for number in order]
    numbers = [None if frame is None else number_of(torch.from_numpy(frame).permute(2, 0, 1)) for frame in found]
    assert numbers == [None if number == 30 else number - (number > 30) for number in order]


def write_interlaced(path: Path) -> Path:
    """Write MPEG-2 whose headers say that its frames are interlaced."""
    data = bytearray(write(path, code='MPG2').read_bytes())
    start = data.find(b'\0\0\1\xb5')
    while start >= 0:
        if data[start + 4] >> 4 == 1:  # sequence extension (ISO/IEC 13818-2, 6.2.2.3): progressive_sequence
            data[start + 5] &= ~8
        if data[start + 4] >> 4 == 8:  # picture coding extension (6.2.3.1): progressive_frame
            data[start + 8] &= ~128
        start = data.find(b'\0\0\1\xb5', start + 4)
    path.write_bytes(data)
    return path


def test_interlaced_videos(tmp_path: Path) -> None:
    """OpenCV does not convert them, and does not say so."""
    path = write_interlaced(tmp_path / 'x.mkv')
    if number_of(in_order(path)[7]) == 7:
        pytest.skip('this OpenCV converts interlaced frames')
    with pytest.raises(ValueError, match=r'x\.mkv \(black, or interlaced, which OpenCV cannot read: ffmpeg .* yadif'):
        VideoFrames(path)


def test_a_video_that_shows_one_picture(tmp_path: Path) -> None:
    """It is not taken for an interlaced one."""
    writer = cv2.VideoWriter(str(tmp_path / 'x.avi'), cv2.VideoWriter_fourcc(*'MJPG'), RATE, (WIDTH, HEIGHT))
    for _ in range(10):
        writer.write(drawn(7))
    writer.release()
    dataset = VideoFrames(tmp_path)
    assert [number_of(dataset.load(index)[0]) for index in range(10)] == [7] * 10


@pytest.mark.parametrize('suffix', ['.mkv', '.mov'])
def test_frames_of_a_rate_that_changes(suffix: str, tmp_path: Path) -> None:
    """OpenCV finds other frames by their numbers, and the header of the first has another number of them."""
    times = write_slowing(tmp_path / 'x.mkv', suffix=suffix)
    dataset = VideoFrames(tmp_path / f'x{suffix}')
    order = np.random.default_rng(0).permutation(60).tolist()
    assert [number_of(dataset.load(index)[0]) for index in order] == order
    capture = cv2.VideoCapture(str(tmp_path / f'x{suffix}'))
    wrong = 0
    for index in order:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        found, pixels = capture.read()
        wrong += not found or number_of(torch.from_numpy(pixels).permute(2, 0, 1)) != index
    assert wrong or capture.get(cv2.CAP_PROP_FRAME_COUNT) != 60
    taken = VideoFrames(tmp_path / f'x{suffix}', fps=2.5).frame.tolist()
    wanted = range(0, times[-1] + 1, RATE * 2 // 5)
    assert taken == sorted({next(n for n, time in enumerate(times) if time >= second) for second in wanted})


def test_a_seek_that_finds_another_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The video is then decoded from its beginning."""
    begun = []

    class Astray:
        def __init__(self, path: str, cache_capacity: int) -> None:
            self.vcap, self.capture, self.off = self, cv2.VideoCapture(path), 0
            begun.append(self)

        def set(self, what: int, value: float) -> None:
            self.capture.set(what, value + 1000 * 7 / RATE)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.capture, name)

    path, times = write(tmp_path / 'x.avi', 120), 1000 * np.arange(120) / RATE
    monkeypatch.setattr('mmcv.VideoReader', Astray)
    astray = Video(os.fsencode(path), times, True)
    for number in (100, 3, 3 + NEAR, 4, 119):
        assert number_of(torch.from_numpy(astray.frame(number)).permute(2, 0, 1)) == number
    assert len(begun) > 2


def test_which_frames(tmp_path: Path) -> None:
    for name in ('b/y.mp4', 'a/x.avi', 'a/deep/z.avi'):
        write(tmp_path / name, 12, 'mp4v' if name.endswith('mp4') else 'MJPG')
    (tmp_path / 'a' / 'notes.txt').write_text('x')
    dataset = VideoFrames(tmp_path, every=5)
    assert dataset.videos.tolist() == [b'a/x.avi', b'a/deep/z.avi', b'b/y.mp4']
    assert dataset.frame.tolist() == [0, 5, 10] * 3
    assert [dataset.classes, dataset.labels.tolist()] == [('a', 'b'), [0] * 6 + [1] * 3]
    assert [number_of(dataset.load(index)[0]) for index in (7, 0, 5)] == [5, 0, 10]
    assert [dataset.name(4), dataset.load(8)[1]] == ['a/deep/z.avi@5', 1]
    assert len({dataset.content(index) for index in (0, 1, 8)}) == 3
    assert VideoFrames(tmp_path, labelled=False).labels is None
    assert VideoFrames(tmp_path / 'a', every=20).labels is None
    assert VideoFrames(tmp_path, fps=25 / 4).frame.tolist() == [0, 4, 8] * 3
    assert len(Subset(dataset, share=0.5)) == 5


def test_each_process_opens_a_video_for_itself(tmp_path: Path) -> None:
    dataset = VideoFrames(write(tmp_path / 'x.avi'))
    dataset.load(5)
    copy = pickle.loads(pickle.dumps(dataset))
    assert number_of(copy.load(9)[0]) == 9
    child = os.fork()
    if child == 0:
        os._exit(0 if number_of(dataset.load(6)[0]) == 6 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert number_of(dataset.load(6)[0]) == 6


@pytest.mark.slow
@pytest.mark.parametrize('name', ['MJPG.avi', 'MPG2.mpg'])
@pytest.mark.filterwarnings('ignore:.*OpenCV cannot seek')
def test_batches(name: str, tmp_path: Path) -> None:
    views = dict(type='MultiView', transforms=[dict(type='RandomResizedCrop', size=16)])
    dataset = DATASETS.build(
        dict(type='VideoFrames', data_root=write(tmp_path / name, code=name[:4]), every=4, pipeline=views)
    )
    sampler = EpochSampler(dataset, seed=0)
    found = [
        list(DataLoader(dataset, 4, sampler=sampler, num_workers=workers, collate_fn=collate)) for workers in (0, 2)
    ]
    assert sorted(index for batch in found[0] for index in batch['index'].tolist()) == list(range(15))
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one['inputs'], other['inputs'], strict=True))


def test_broken_videos_are_named(tmp_path: Path) -> None:
    whole = write(tmp_path / 'whole.mp4', code='mp4v')
    (tmp_path / 'cut.mp4').write_bytes(whole.read_bytes()[:2000])
    (tmp_path / 'text.avi').write_text('no video')
    with pytest.raises(ValueError, match=r"2 of the 3 videos .* cut\.mp4, text\.avi \(OpenCV.*broken='skip'\.$"):
        VideoFrames(tmp_path)
    with pytest.warns(UserWarning, match=r'2 of the 3 videos .* They are left out'):
        dataset = VideoFrames(tmp_path, broken='skip')
    assert dataset.videos.tolist() == [b'whole.mp4']
    whole.unlink()
    with pytest.raises(BrokenImage, match=r'The video .*whole\.mp4 is not there.* number 7 of'):
        dataset.read(7)
    write(whole, 10, 'mp4v')
    video._opened.videos.clear()
    with pytest.raises(BrokenImage, match=r'The frame whole\.mp4@50 cannot be decoded'):
        dataset.read(50)


@pytest.mark.parametrize(('given', 'error', 'message'), [
    (dict(every=0), ValueError, r'dataset\.every is 0 and dataset\.fps None; give one'),
    (dict(every=2, fps=2.0), ValueError, r'give one of them'),
    (dict(every=1.5), ValueError, r'a whole number'),
    (dict(fps=-1.0), ValueError, r'dataset\.fps -1\.0'),
    (dict(data_root='none'), FileNotFoundError, r'there is no folder none, and no such video'),
    (dict(), FileNotFoundError, r'holds no video \(\.avi, .*passed over: nothing'),
])  # fmt: skip
def test_bad_keys(given: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        VideoFrames(**dict(data_root=tmp_path) | given)
