"""Options of the whole test suite."""

import signal
from collections.abc import Iterator

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--golden', default=None, help='directory of golden fixtures; default: tests/golden/data')
    parser.addoption('--device', default='cpu', help='device of the golden tests, as cuda or cuda:1; default: cpu')


def pytest_configure() -> None:
    """Shells let what they start in the background ignore Ctrl-C, and nohup SIGHUP, which tests send to trainings."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, 'SIGHUP'):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """No test sees what another one has left.

    That is: random numbers, a Runner's clock and scope, loggers that print to closed files, a config's number of
    threads.
    """
    num_threads = torch.get_num_threads()
    torch.manual_seed(0)
    MessageHub._instance_dict.clear()
    MMLogger._instance_dict.clear()
    DefaultScope._instance_dict.clear()
    yield
    torch.set_num_threads(num_threads)
