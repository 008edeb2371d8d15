"""Options of the whole test suite."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--golden', default=None, help='directory of golden fixtures; default: tests/golden/data')
    parser.addoption('--device', default='cpu', help='device of the golden tests, as cuda or cuda:1; default: cpu')


def pytest_configure(config: pytest.Config) -> None:
    """Make every machine alike.

    The suite is of the CPU's paths and of the null GPU, also where there is a GPU, on which ``--device`` runs the
    golden tests. MMEngine asks for CUDA when it is imported, so this file imports it later. Shells let what they start
    in the background ignore Ctrl-C, and nohup SIGHUP, which tests send to trainings.
    """
    if config.getoption('--device') == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, 'SIGHUP'):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Leave modules and tests out of later collections of garbage, each of which would look at all of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """No test sees what another one has left.

    That is: random numbers, a Runner's clock and scope, loggers that print to closed files, a config's number of
    threads.
    """
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope

    num_threads = torch.get_num_threads()
    torch.manual_seed(0)
    MessageHub._instance_dict.clear()
    MMLogger._instance_dict.clear()
    DefaultScope._instance_dict.clear()
    yield
    torch.set_num_threads(num_threads)
