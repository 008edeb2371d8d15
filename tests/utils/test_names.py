"""Names of files as bytes, text and in messages."""

import os
import sys
from pathlib import Path

import pytest

from unmix.utils.names import few, path_bytes, shown, text

NAMES = ['plain', 'é', '\udcff', 'a\nb', ' x', '~no-such-user/x']


@pytest.mark.parametrize('name', NAMES)
def test_bytes_and_text(name: str) -> None:
    data = name.encode(errors='surrogateescape')
    assert (path_bytes(name), path_bytes(data), path_bytes(Path(name)), text(data)) == (data, data, data, name)
    shown(name).encode()  # can be printed


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', '/somewhere')
    assert path_bytes('~/x') == b'/somewhere/x'


def test_names_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [shown(name) for name in NAMES[:5]] == ['plain', 'é', r"'\udcff'", r"'a\nb'", "' x'"]
    assert few([b'a', b'b', b'c', b'd ', b'e']) == "a, b, c, 'd ', ..."
    monkeypatch.setattr(sys, 'getfilesystemencoding', lambda: 'ascii')  # as LC_ALL=C PYTHONUTF8=0
    assert shown('é') == r"'\xe9'"


def test_a_locale_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsencode(name: str) -> bytes:
        return name.encode('ascii', 'surrogateescape')

    monkeypatch.setattr(os, 'fsencode', fsencode)
    assert path_bytes('é') == path_bytes('\udcc3\udca9') == 'é'.encode()  # from a file, and as an argument
