"""Downloads from a real server on this machine: cut, resumed, damaged, shared, killed, without room."""

import errno
import hashlib
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from file_server import FileServer, serving

from unmix.zoo import fetch as module
from unmix.zoo.fetch import fetch

CONTENT = b''.join(hashlib.sha256(bytes([i])).digest() for i in range(100)) * 100  # 320 kB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF, THIRD = len(CONTENT) // 2, len(CONTENT) // 3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(module, 'WAITS', (0.0, 0.0))
    with serving(CONTENT) as server:
        yield server


def test_it_brings_the_file_and_leaves_nothing_else(server: FileServer, tmp_path: Path) -> None:
    fetch(f'{server.url}/x.pth', tmp_path / 'new' / 'x.pth', SHA256)
    assert (tmp_path / 'new' / 'x.pth').read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['x.pth']
    assert server.requests == [None]


def test_it_goes_on_where_the_connection_broke(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [THIRD, HALF]
    fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT
    assert server.requests == [None, THIRD, HALF]


def test_the_next_call_goes_on_where_the_last_one_gave_up(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [THIRD, HALF, HALF + 1]
    with pytest.raises(ConnectionError, match=rf'the connection ended {len(CONTENT) - HALF - 1} bytes too early'):
        fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert not (tmp_path / 'x.pth').exists()
    fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT
    assert server.requests[3:] == [HALF + 1]
    assert [path.name for path in tmp_path.iterdir()] == ['x.pth']


def test_a_part_is_of_one_address_and_digest(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [HALF] * 3
    with pytest.raises(ConnectionError):
        fetch(f'{server.url}/other/x.pth', tmp_path / 'x.pth', SHA256)
    fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert server.requests[-1] is None


def test_a_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [HALF]
    fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT


@pytest.mark.parametrize('part', [b'of an earlier file', CONTENT + b'more'], ids=['other bytes', 'too long'])
def test_a_part_of_another_file_is_not_trusted(part: bytes, server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1, 1, 1]
    with pytest.raises(ConnectionError):
        fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    (path,) = tmp_path.iterdir()
    path.write_bytes(part)
    fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT
    assert server.requests[-2:] == [len(part), None]


@pytest.mark.parametrize('cuts', [[], [HALF]], ids=['whole', 'resumed'])
def test_one_changed_bit_is_refused(cuts: list[int], server: FileServer, tmp_path: Path) -> None:
    changed = bytearray(CONTENT)
    changed[THIRD] ^= 1
    server.content, server.cuts = bytes(changed), cuts
    digest = hashlib.sha256(changed).hexdigest()
    with pytest.raises(ValueError, match=rf'refused: its SHA-256 is {digest}, expected {SHA256}'):
        fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_not_there_is_not_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(ConnectionError, match=r'x\.pth could not be downloaded: the server answers 404'):
        fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert server.requests == [None]


def test_a_server_in_trouble_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(ConnectionError, match=r'the server answers 503.*UNMIX_MIRROR'):
        fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert server.requests == [None] * 3


def start(function, *args: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context('fork').Process(target=function, args=args)
    process.start()
    return process


def test_processes_share_one_download(server: FileServer, tmp_path: Path) -> None:
    arguments = (f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    processes = [start(fetch, *arguments) for _ in range(4)]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ['x.pth']
    assert server.requests == [None]


def no_locks_available(*args: object) -> None:
    raise OSError(errno.ENOLCK, 'No locks available')


@pytest.mark.parametrize(
    'locks', [None, SimpleNamespace(flock=no_locks_available, LOCK_EX=2, LOCK_NB=4)], ids=['system', 'disk']
)
def test_without_locks_each_process_has_a_part_of_its_own(
    locks: object, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'fcntl', locks)
    server.cuts = [HALF]
    processes = [start(fetch, f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256) for _ in range(3)]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 3
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ['x.pth']


def test_a_killed_download_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.stall, server.cuts = Event(), [HALF]
    process = start(fetch, f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not sum(path.stat().st_size for path in tmp_path.iterdir()):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (part,) = tmp_path.iterdir()
    kept = part.stat().st_size
    fetch(f'{server.url}/x.pth', tmp_path / 'x.pth', SHA256)
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT
    assert 0 < kept <= HALF
    assert server.requests == [None, kept]


def fetch_with_little_room(url: str, target: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))
    try:
        fetch(url, target, SHA256)
    except OSError as error:
        target.with_name('message').write_text(str(error))


def test_a_full_disk_is_one_message(server: FileServer, tmp_path: Path) -> None:
    start(fetch_with_little_room, f'{server.url}/x.pth', tmp_path / 'x.pth').join(30)
    message = (tmp_path / 'message').read_text()
    assert f'{tmp_path / "x.pth"} could not be written: File too large' in message
    assert 'UNMIX_HOME' in message
    assert not (tmp_path / 'x.pth').exists()
    assert len(server.requests) == 1  # it is not the network's fault


def test_a_folder_that_cannot_be_written_is_one_message(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=r'x\.pth could not be written: .*name another folder: UNMIX_HOME'):
        fetch(f'{server.url}/x.pth', tmp_path / 'file' / 'x.pth', SHA256)
    assert server.requests == []
