"""Frames of videos as images: nothing is unpacked or written.

Frame k of a video is the k-th that OpenCV decodes from its beginning, whatever the order of reading. OpenCV seeks to a
time; in some videos it finds another one. So the time of the frame that it finds is compared, and if it is not the
right one, the video is decoded from its beginning.

For this, the times of the decoded frames must be those of the packets (``cv2.VideoCapture``, ``CAP_PROP_FORMAT=-1``).
MP4, MOV, Matroska and WebM name the time of each frame: there the packets are read without decoding, and only the first
and the last frame are decoded. Packets that give no frame, as in a copy that was cut, lie at the ends, or their times
occur twice. Then, and in every other container, the video is decoded once at the start. If the times differ, as with
B-frames in AVI and in MPEG program streams, OpenCV cannot seek: frames are counted from the beginning, or from the last
one that was read.
"""

import os
import re
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.datasets.base import BaseDataset, Pipeline
from unmix.datasets.decode import BrokenImage
from unmix.datasets.evidence import file_evidence
from unmix.datasets.scan import Scan, count
from unmix.datasets.storage import LocalCopies, Storage, open_storage
from unmix.registry import DATASETS
from unmix.utils.names import byte_array, few, path_bytes, shown, text

SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')
OPEN = 8  # videos that stay open in a process
THREADS = 4  # that read times
NEAR = 32  # frames that are decoded on the way to another one, rather than to seek it
SAME = 0.5  # milliseconds: times of a frame that OpenCV computes in two ways
# The first bytes of Matroska and WebM, and of MP4 and MOV.
TIMED = re.compile(rb'\x1a\x45\xdf\xa3|.{4}(ftyp|moov|mdat|wide|free|skip)', re.DOTALL)


class Video:
    """A video that is open in this process.

    Args:
        path: The file.
        times: (n,) milliseconds at which its frames are shown, rising.
        seeks: Whether frames are found by their times. If not, they are counted from the beginning.
    """

    def __init__(self, path: bytes, times: np.ndarray, seeks: bool) -> None:
        self.path, self.times, self.seeks = path, times, seeks
        self._begin()

    def _begin(self) -> None:
        import mmcv  # takes half a second

        self._capture = mmcv.VideoReader(os.fsdecode(self.path), cache_capacity=1).vcap
        self._next = 0  # number of the frame that comes next

    def frame(self, number: int) -> np.ndarray | None:
        """Return a frame (H, W, 3), BGR; None if it cannot be decoded."""
        if not (self._found(number) if self.seeks else self._counted(number)):
            self._begin()
            return None
        self._next = number + 1
        found, pixels = self._capture.retrieve()
        return np.asarray(pixels) if found else None

    def _counted(self, number: int) -> bool:
        """Go to a frame by counting; return whether it is there."""
        if number < self._next:
            self._begin()
        return all(self._capture.grab() for _ in range(number + 1 - self._next))

    def _found(self, number: int) -> bool:
        """Go to a frame by its time; return whether it is there."""
        import cv2

        time = float(self.times[number])
        if not self._next <= number <= self._next + NEAR:
            self._capture.set(cv2.CAP_PROP_POS_MSEC, time)
        if self._reached(time):
            return True
        self._begin()
        return self._reached(time)

    def _reached(self, time: float) -> bool:
        """Decode up to a time; return whether there is a frame of this time."""
        import cv2

        while self._capture.grab():
            if self._capture.get(cv2.CAP_PROP_POS_MSEC) > time - SAME:
                return abs(self._capture.get(cv2.CAP_PROP_POS_MSEC) - time) <= SAME
        return False


class Opened:
    """The videos that are open in this process, the last :data:`OPEN` that were read.

    They are closed before a process is forked: decoders have threads, which the new process has not.
    """

    def __init__(self) -> None:
        self.videos = OrderedDict[bytes, Video]()
        self.lock = Lock()

    def renew(self) -> None:
        """Let a new process have a lock of its own, which no thread of another one holds."""
        self.lock = Lock()

    def frame(self, path: bytes, times: np.ndarray, seeks: bool, number: int) -> np.ndarray | None:
        """Return a frame; see :class:`Video`."""
        with self.lock:
            if path not in self.videos or self.videos[path].times is not times:
                self.videos[path] = Video(path, times, seeks)
            self.videos.move_to_end(path)
            if len(self.videos) > OPEN:
                self.videos.popitem(last=False)
            return self.videos[path].frame(number)


_opened = Opened()
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=_opened.videos.clear, after_in_child=_opened.renew)


@DATASETS.register_module()
class VideoFrames(BaseDataset):
    """The frames of the videos below a folder, as RGB images, by OpenCV.

    Frame k of a video is the k-th that OpenCV decodes from its beginning, in any order and process. Videos in which
    OpenCV cannot seek, such as AVI with B-frames and MPEG program streams, are read from the beginning, with a warning.

    Labelled: each sub-folder is a class, as in :class:`~unmix.datasets.folder.ImageFolder`. Videos are in the order of
    their paths, frames in the order of their times. Each process opens the videos that it reads for itself.

    Args:
        data_root: The folder, or one video.
        every: Take each such frame of a video, from the first on. None: all.
        fps: Take so many frames a second instead: the first frame at or after 0, 1 / fps, 2 / fps, ... seconds.
        labelled: Whether the videos have labels. None: if all lie in sub-folders, and these are at least two.
        pipeline: As for :class:`BaseDataset`.
        broken: As for :class:`BaseDataset`. With 'skip' a video that cannot be opened is left out, with a warning.
        backend_args: As for :class:`~unmix.datasets.encoded.EncodedDataset`. OpenCV opens local files only, so the
            videos are copied to a temporary folder first, by each rank for itself. A backend that cannot list files
            (``http``, ``lmdb``) gives one video.

    Attributes:
        videos: (M,) bytes, paths of the videos below ``data_root``.
        video: (N,) int32, the number of the video that a frame is in.
        frame: (N,) int32, the number of the frame there.
        times: For each video, (n,) milliseconds at which its frames are shown.
        seeks: For each video, whether OpenCV finds its frames by their times.

    Raises:
        FileNotFoundError: If there is no such folder, no video, or none in a class.
        ImportError: If mmcv is not installed.
        ValueError: If ``every`` or ``fps`` is not positive, or both are given, or a video cannot be opened.
    """

    def __init__(
        self,
        data_root: str | Path,
        every: int | None = None,
        fps: float | None = None,
        labelled: bool | None = None,
        pipeline: dict[str, Any] | Pipeline | None = None,
        broken: str = 'error',
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pipeline, broken)
        given = [value for value in (every, fps) if value is not None]
        if len(given) > 1 or min(given, default=1) <= 0 or not isinstance(every, int | None):
            raise ValueError(
                f'dataset.every is {every!r} and dataset.fps {fps!r}; give one of them: a whole number from 1, or '
                'frames a second.'
            )
        try:
            import mmcv

            mmcv.VideoReader  # noqa: B018
        except (ImportError, AttributeError) as error:
            raise ImportError(
                'VideoFrames needs the package mmcv: pip install mmcv-lite, or onedl-mmcv beside onedl-mmengine.'
            ) from error
        self.root = path_bytes(data_root)
        storage = open_storage(backend_args, self.root)
        self.data_root = Path(text(self.root)) if storage is None else text(self.root)
        self._copies = None if storage is None else self._copied(storage, broken)
        paths, labels = self._videos(labelled)
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(_frames, [os.path.join(self.root, path) for path in paths]))
        bad = [path for path, (*_, reason) in zip(paths, found, strict=True) if reason]
        if bad:
            reason = next(filter(None, (reason for *_, reason in found)))
            message = (
                f'dataset.data_root: {len(bad)} of the {len(paths)} videos of {shown(self.data_root)} cannot be read: '
                f'{few(bad)} ({reason}).'
            )
            if broken != 'skip' or len(bad) == len(paths):
                raise ValueError(f"{message} Replace or delete them, or set dataset.broken='skip'.")
            warnings.warn(f'{message} They are left out.', stacklevel=2)
        kept = [number for number, (*_, reason) in enumerate(found) if not reason]
        self.videos = byte_array([paths[number] for number in kept])
        self.times = [found[number][0] for number in kept]
        self.seeks = [found[number][1] for number in kept]
        if slow := [paths[number] for number in kept if not found[number][1]]:
            warnings.warn(
                f'dataset.data_root: OpenCV cannot seek in {len(slow)} of the {len(kept)} videos of '
                f'{shown(self.data_root)}: {few(slow)}. Their frames are decoded from the beginning, which is slow in '
                'random order. To read them fast, convert them: ffmpeg -i FILE FILE.mp4.',
                stacklevel=2,
            )
        chosen = [_chosen(times, every, fps) for times in self.times]
        self.video = np.repeat(np.arange(len(chosen), dtype=np.int32), [len(frames) for frames in chosen])
        self.frame = np.concatenate(chosen).astype(np.int32)
        if labels is not None:
            self.labels = torch.tensor([labels[number] for number in kept])[torch.from_numpy(self.video).long()]
        self._evidence: dict[int, bytes] = {}

    def _copied(self, storage: Storage, broken: str) -> LocalCopies:
        """Return copies of the videos of a backend, which become the root."""
        address, single = self.root, self.root.lower().endswith(tuple(suffix.encode() for suffix in SUFFIXES))
        if single:
            above, name = os.path.split(address)
            names = [name]
        elif storage.lists:
            above = address
            names = [name for name in storage.names(address) if os.fsdecode(name).lower().endswith(SUFFIXES)]
        else:
            raise ValueError(
                f'dataset.data_root: the backend {storage.name!r} cannot list what lies in {shown(address)}. Give one '
                f'video ({", ".join(SUFFIXES)}), or copy the videos to this machine and leave dataset.backend_args out.'
            )
        copies = LocalCopies(storage, above, names)
        if copies.absent:
            message = (
                f'dataset.data_root: the backend {storage.name!r} does not give {len(copies.absent)} of the '
                f'{len(names)} videos of {shown(address)}: {few([*copies.absent])} '
                f'({next(iter(copies.absent.values()))}).'
            )
            if broken != 'skip' or len(copies.absent) == len(names):
                raise FileNotFoundError(f"{message} Put them there, or set dataset.broken='skip'.")
            warnings.warn(f'{message} They are left out.', stacklevel=3)
        self.root = os.path.join(copies.folder, names[0]) if single else copies.folder
        return copies

    def _videos(self, labelled: bool | None) -> tuple[list[bytes], list[int] | None]:
        """Return the paths of the videos and their labels; set classes."""
        if os.path.isfile(self.root):
            self.root, name = os.path.split(os.path.abspath(self.root))
            return [name], None
        if not os.path.isdir(self.root):
            raise FileNotFoundError(
                f'dataset.data_root: there is no folder {shown(self.data_root)}, and no such video (looked in '
                f'{shown(Path.cwd())}).'
            )
        classes = sorted(Scan(self.root, (), SUFFIXES).folders) if labelled else None
        scan = Scan(self.root, classes, SUFFIXES)
        groups = scan.by_folder()
        if not groups:
            raise FileNotFoundError(
                f'dataset.data_root: {shown(self.data_root)} holds no video ({", ".join(SUFFIXES)})'
                f'{" in a sub-folder" if labelled else ""}; passed over: {count(scan.passed)}.'
            )
        if labelled is None and b'' not in groups and len(groups) > 1:
            classes = sorted(scan.folders)
        if classes is None:
            return scan.paths(), None
        if absent := [name for name in classes if name not in groups]:
            raise FileNotFoundError(
                f'dataset.data_root: no video in the class folders {few(absent)} of {shown(self.data_root)}. Delete '
                'them, or set dataset.labelled=False.'
            )
        self.classes = tuple(map(text, classes))
        pairs = [(path, number) for number, name in enumerate(classes) for path in groups[name]]
        return [path for path, _ in pairs], [number for _, number in pairs]

    def __len__(self) -> int:
        return len(self.frame)

    def load(self, index: int) -> tuple[Tensor, int | None]:
        """Return a frame and its label."""
        video, number = int(self.video[index]), int(self.frame[index])
        path = os.path.join(self.root, self.videos[video])
        if not os.path.isfile(path):
            raise BrokenImage(f'The video {shown(path)} is not there. Put it back.')
        pixels = _opened.frame(path, self.times[video], self.seeks[video], number)
        if pixels is None:
            raise BrokenImage(f'The frame {shown(self.name(index))} cannot be decoded. Replace or delete the video.')
        rgb = torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1])).permute(2, 0, 1)
        return rgb, None if self.labels is None else int(self.labels[index])

    def name(self, index: int) -> str:
        """Return the path of the video below ``data_root``, ``@``, and the number of the frame."""
        return f'{text(self.videos[self.video[index]])}@{self.frame[index]}'

    def content(self, index: int) -> bytes:
        """Return a digest of parts of the video, and the time of the frame."""
        video = int(self.video[index])
        if video not in self._evidence:
            evidence = file_evidence(os.path.join(self.root, self.videos[video]))
            self._evidence[video] = sha256(evidence).digest()
        return self._evidence[video] + self.times[video][self.frame[index]].tobytes()


def _frames(path: bytes) -> tuple[np.ndarray, bool, str]:
    """Return the times of the frames of a video in milliseconds, (n,), whether they find frames, and what is wrong."""
    import cv2

    capture = cv2.VideoCapture(os.fsdecode(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    if not capture.isOpened():
        return np.zeros(0), False, 'OpenCV cannot open it'
    listed = []
    while capture.grab():
        listed.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    packets = np.sort(listed)
    if not listed:
        return packets, False, 'it has no frame'
    differ = bool((np.diff(packets) > SAME).all())
    with open(path, 'rb') as file:
        timed = TIMED.match(file.read(8))
    if timed and differ:
        video = Video(path, packets, True)
        first, last = video.frame(0), video.frame(len(packets) - 1)
        if first is not None and last is not None and not np.array_equal(first, last):
            return packets, True, ''
    times, reason = _decoded(path)
    if not differ or len(times) != len(packets):
        return times, False, reason
    return packets, np.allclose(times, packets, rtol=0, atol=SAME), reason


def _decoded(path: bytes) -> tuple[np.ndarray, str]:
    """Decode a video; return the times of its frames in milliseconds, (n,), and what is wrong, '' if nothing.

    OpenCV 5.0 does not convert interlaced frames: without an error it returns what was in the memory, the same for each
    frame. So if all frames are the same, a second capture must give them too, and not zeros.
    """
    import cv2

    capture = cv2.VideoCapture(os.fsdecode(path), cv2.CAP_FFMPEG)
    step = 1000 / max(1.0, capture.get(cv2.CAP_PROP_FPS))
    times: list[float] = []
    first, same = None, True
    while capture.grab():
        time = capture.get(cv2.CAP_PROP_POS_MSEC)
        times.append(time if not times or time > times[-1] else times[-1] + step)  # the last ones may have no time
        if same:
            pixels = capture.retrieve()[1]
            first = pixels if first is None else first
            same = np.array_equal(first, pixels)
    if first is None:
        return np.array(times), 'OpenCV decodes no frame of it'
    if same:
        again = cv2.VideoCapture(os.fsdecode(path), cv2.CAP_FFMPEG).read()[1]  # while the first one keeps its memory
        if not first.any() or not np.array_equal(first, again):
            return np.array(times), 'black, or interlaced, which OpenCV cannot read: ffmpeg -i FILE -vf yadif FILE.mp4'
    return np.array(times), ''


def _chosen(times: np.ndarray, every: int | None, fps: float | None) -> np.ndarray:
    """Return the numbers of the frames that are taken."""
    if fps is None:
        return np.arange(0, len(times), every or 1)
    shown_at = times - times[0]
    wanted = np.arange(0, int((shown_at[-1] + SAME) * fps / 1000) + 1) * 1000 / fps
    return np.unique(np.searchsorted(shown_at, wanted - SAME))
