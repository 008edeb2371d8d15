"""Downloads from a real server on this machine: cut, damaged, silent, shared, killed, without room."""

import hashlib
import multiprocessing
import os
import resource
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from file_server import FileServer, serving

from unmix.utils import download as module
from unmix.utils.download import fetch

CONTENT = b''.join(hashlib.sha256(bytes([i])).digest() for i in range(100)) * 100  # 320 kB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF, THIRD = len(CONTENT) // 2, len(CONTENT) // 3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(module, 'WAITS', (0.0, 0.0))
    with serving(CONTENT) as server:
        yield server


def test_it_brings_the_file_and_leaves_nothing_else(server: FileServer, tmp_path: Path) -> None:
    path = fetch(f'{server.url}/x.pth', tmp_path / 'new', 'x.pth', SHA256)
    assert path == tmp_path / 'new' / 'x.pth'
    assert path.read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['x.pth']
    assert fetch(f'{server.url}/x.pth', tmp_path / 'new', 'x.pth', SHA256) == path
    assert server.requests == [None]


def test_others_may_read_the_file_as_far_as_the_umask_lets_them(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / 'other').touch()
    path = fetch(f'{server.url}/x.pth', tmp_path, 'x.pth')
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / 'other').stat().st_mode)


def test_two_addresses_that_end_alike_are_two_files(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('UNMIX_HOME', str(tmp_path / 'home'))
    first = fetch(f'{server.url}/a/x.pth')
    server.content = b'other weights'
    second = fetch(f'{server.url}/b/x.pth')
    third = fetch(f'{server.url}/b/x.pth?version=2')
    assert first.read_bytes() == CONTENT
    assert second.read_bytes() == third.read_bytes() == b'other weights'
    assert len({first, second, third}) == 3
    assert {first.parent, second.parent, third.parent} == {tmp_path / 'home'}
    assert fetch(f'{server.url}/a/x.pth') == first
    assert len(server.requests) == 3


def test_a_cut_connection_is_tried_again_from_the_start(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [THIRD, HALF]
    assert fetch(f'{server.url}/x.pth', tmp_path).read_bytes() == CONTENT
    assert server.requests == [None] * 3


@pytest.mark.parametrize('digest', [None, SHA256], ids=['no digest', 'digest'])
def test_a_cut_download_never_stays(digest: str | None, server: FileServer, tmp_path: Path) -> None:
    server.cuts = [THIRD, HALF, HALF]
    with pytest.raises(ConnectionError, match=rf'{server.url}/x\.pth could not be downloaded: .*{HALF} bytes read'):
        fetch(f'{server.url}/x.pth', tmp_path, sha256=digest)
    assert list(tmp_path.iterdir()) == []
    assert fetch(f'{server.url}/x.pth', tmp_path, sha256=digest).read_bytes() == CONTENT


def test_the_length_is_compared_also_where_requests_does_not(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with urllib3 1, which takes the end of a connection for the end of the file."""
    from urllib3.response import HTTPResponse

    own = HTTPResponse.__init__
    monkeypatch.setattr(
        HTTPResponse, '__init__', lambda self, *a, **k: own(self, *a, **dict(k, enforce_content_length=False))
    )
    server.cuts = [HALF] * 3
    with pytest.raises(ConnectionError, match=f'the connection ended {HALF} bytes too early'):
        fetch(f'{server.url}/x.pth', tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_changed_bit_is_refused(server: FileServer, tmp_path: Path) -> None:
    changed = bytearray(CONTENT)
    changed[THIRD] ^= 1
    server.content = bytes(changed)
    digest = hashlib.sha256(changed).hexdigest()
    with pytest.raises(ValueError, match=rf'refused: its SHA-256 is {digest}, expected {SHA256}'):
        fetch(f'{server.url}/x.pth', tmp_path, 'x.pth', SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_replaced(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / 'x.pth').write_bytes(CONTENT[:-1])
    assert fetch(f'{server.url}/x.pth', tmp_path, 'x.pth', SHA256).read_bytes() == CONTENT


def test_an_address_that_is_not_there_is_not_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(ConnectionError, match=r'x\.pth could not be downloaded: the server answers 404'):
        fetch(f'{server.url}/x.pth', tmp_path, 'x.pth', SHA256)
    assert server.requests == [None]


def test_a_server_in_trouble_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(ConnectionError, match=r'the server answers 503.*give its path.*UNMIX_MIRROR'):
        fetch(f'{server.url}/x.pth', tmp_path, 'x.pth', SHA256)
    assert server.requests == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize('begins', [False, True], ids=['never answers', 'stops in the middle'])
def test_a_silent_server_ends_with_an_error(
    begins: bool, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'TIMEOUT', 2.0)
    server.stall, server.cuts = Event(), [HALF] * 3
    with socket.create_server(('127.0.0.1', 0)) as silent:
        url = server.url if begins else f'http://127.0.0.1:{silent.getsockname()[1]}'
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=rf'{url}/x\.pth could not be downloaded: no answer within 2 s'):
            fetch(f'{url}/x.pth', tmp_path)
    assert time.monotonic() - start < 10
    assert len(server.requests) == begins  # it is not asked again
    assert list(tmp_path.iterdir()) == []


def test_nobody_at_the_address_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'WAITS', (0.0,))
    with socket.create_server(('127.0.0.1', 0)) as closed:
        url = f'http://127.0.0.1:{closed.getsockname()[1]}'
    with pytest.raises(ConnectionError, match=rf'{url}/x\.pth could not be downloaded: .*Connection refused'):
        fetch(f'{url}/x.pth', tmp_path)


def start(function, *args: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context('fork').Process(target=function, args=args)
    process.start()
    return process


def test_several_processes_at_once(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [HALF, None, THIRD]
    processes = [start(fetch, f'{server.url}/x.pth', tmp_path, 'x.pth', SHA256) for _ in range(4)]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / 'x.pth').read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ['x.pth']


def test_a_killed_download_leaves_nothing_under_the_name(server: FileServer, tmp_path: Path) -> None:
    server.stall, server.cuts = Event(), [HALF]
    process = start(fetch, f'{server.url}/x.pth', tmp_path, 'x.pth')
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not sum(path.stat().st_size for path in tmp_path.iterdir()):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (part,) = tmp_path.iterdir()
    assert part.suffix != '.pth'
    assert 0 < part.stat().st_size <= HALF
    assert fetch(f'{server.url}/x.pth', tmp_path, 'x.pth').read_bytes() == CONTENT


def fetch_with_little_room(url: str, target: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))
    try:
        fetch(url, target.parent, target.name, SHA256)
    except OSError as error:
        target.with_name('message').write_text(str(error))


def test_a_full_disk_is_one_message(server: FileServer, tmp_path: Path) -> None:
    start(fetch_with_little_room, f'{server.url}/x.pth', tmp_path / 'x.pth').join(30)
    message = (tmp_path / 'message').read_text()
    assert f'{tmp_path / "x.pth"} could not be written: File too large' in message
    assert 'UNMIX_HOME' in message
    assert [path.name for path in tmp_path.iterdir()] == ['message']
    assert len(server.requests) == 1  # it is not the network's fault


def test_a_folder_that_cannot_be_written_is_one_message(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=r'x\.pth could not be written: .*name another folder: UNMIX_HOME'):
        fetch(f'{server.url}/x.pth', tmp_path / 'file', 'x.pth', SHA256)
    assert server.requests == []


@pytest.mark.parametrize('digits', [8, 12, 64])
def test_the_digest_in_a_name_is_compared(digits: int, server: FileServer, tmp_path: Path) -> None:
    url = f'{server.url}/x-{SHA256[:digits]}.pth'
    path = fetch(url, tmp_path)
    path.write_bytes(CONTENT[:-1])
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    path.unlink()
    server.content = b'<html>sign in</html>'
    with pytest.raises(ValueError, match=rf'refused: its SHA-256 is \w+, expected {SHA256[:digits]}'):
        fetch(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_date_in_a_name_is_no_digest(server: FileServer, tmp_path: Path) -> None:
    assert fetch(f'{server.url}/x-20200813.pth', tmp_path).read_bytes() == CONTENT
