"""Frames of videos as images: nothing is unpacked or written.

A frame is told by its time. The times of all frames of a video are read from its packets, which takes no decoding
(``cv2.VideoCapture`` with ``CAP_PROP_FORMAT=-1``): their number is exact, where the header of a file may name another.
OpenCV seeks to a time; in some videos it finds another one. So the time of the frame that it finds is compared, and if
it is not the right one, the video is decoded from its beginning up to the frame.
"""

import os
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


class Video:
    """A video that is open in this process.

    Args:
        path: The file.
        times: (n,) milliseconds at which its frames are shown, rising.
    """

    def __init__(self, path: bytes, times: np.ndarray) -> None:
        self.path, self.times = path, times
        self._begin()

    def _begin(self) -> None:
        import mmcv  # takes half a second

        self._capture = mmcv.VideoReader(os.fsdecode(self.path), cache_capacity=1).vcap
        self._next = 0  # number of the frame that comes next

    def frame(self, number: int) -> np.ndarray | None:
        """Return a frame (H, W, 3), BGR; None if it cannot be decoded."""
        import cv2

        time = float(self.times[number])
        if not self._next <= number <= self._next + NEAR:
            self._capture.set(cv2.CAP_PROP_POS_MSEC, time)
            self._next = max(0, number - NEAR)  # or any later one
        for _ in range(number - self._next + 1):
            if not self._capture.grab() or self._capture.get(cv2.CAP_PROP_POS_MSEC) > time - SAME:
                break
        if abs(self._capture.get(cv2.CAP_PROP_POS_MSEC) - time) > SAME:
            self._begin()
            if not all(self._capture.grab() for _ in range(number + 1)):
                return None
        self._next = number + 1
        found, pixels = self._capture.retrieve()
        return np.asarray(pixels) if found else None


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

    def frame(self, path: bytes, times: np.ndarray, number: int) -> np.ndarray | None:
        """Return a frame; see :class:`Video`."""
        with self.lock:
            if path not in self.videos or self.videos[path].times is not times:
                self.videos[path] = Video(path, times)
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
            found = list(pool.map(_times, [os.path.join(self.root, path) for path in paths]))
        bad = [path for path, (_, reason) in zip(paths, found, strict=True) if reason]
        if bad:
            reason = next(filter(None, (reason for _, reason in found)))
            message = (
                f'dataset.data_root: {len(bad)} of the {len(paths)} videos of {shown(self.data_root)} cannot be read: '
                f'{few(bad)} ({reason}).'
            )
            if broken != 'skip' or len(bad) == len(paths):
                raise ValueError(f"{message} Replace or delete them, or set dataset.broken='skip'.")
            warnings.warn(f'{message} They are left out.', stacklevel=2)
        kept = [number for number, (_, reason) in enumerate(found) if not reason]
        self.videos = byte_array([paths[number] for number in kept])
        self.times = [found[number][0] for number in kept]
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
        pixels = _opened.frame(path, self.times[video], number)
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


def _times(path: bytes) -> tuple[np.ndarray, str]:
    """Return the times of the frames of a video in milliseconds, (n,), and what is wrong, '' if nothing."""
    import cv2

    times: list[float] = []
    capture = cv2.VideoCapture(os.fsdecode(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    if not capture.isOpened():
        return np.array(times), 'OpenCV cannot open it'
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    return np.sort(times), '' if times else 'it has no frame'


def _chosen(times: np.ndarray, every: int | None, fps: float | None) -> np.ndarray:
    """Return the numbers of the frames that are taken."""
    if fps is None:
        return np.arange(0, len(times), every or 1)
    shown_at = times - times[0]
    wanted = np.arange(0, int((shown_at[-1] + SAME) * fps / 1000) + 1) * 1000 / fps
    return np.unique(np.searchsorted(shown_at, wanted - SAME))
