"""Options of the whole test suite."""

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--golden', default=None, help='directory of golden fixtures; default: tests/golden/data')


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    """No test sees what another one has left: random numbers, a Runner's clock, loggers that print to closed files."""
    torch.manual_seed(0)
    MessageHub._instance_dict.clear()
    MMLogger._instance_dict.clear()
