"""Ranks that report to rank 0, so that it can say which of them is to blame."""

import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from torch import distributed

Reports = dict[int, dict[str, Any]]
MARGIN = 5.0  # seconds that the other ranks wait longer than rank 0, so that it is rank 0 that says what is wrong


class Meeting:
    """Ranks report through a key-value store, so that one that hangs does not hold up the others.

    Args:
        timeout: Seconds that a report may take.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.world_size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
        self.timeout = timeout
        self.hosts: dict[int, str] = {}
        address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
        is_master = self.rank == 0 and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True'
        delta = timedelta(seconds=timeout)
        try:
            self.store = distributed.TCPStore(
                address, port, self.world_size, is_master, timeout=delta, wait_for_workers=False
            )
        except (RuntimeError, ValueError) as error:
            what = 'cannot listen' if is_master else f'cannot reach rank 0 within {timeout:g} s'
            raise ValueError(f'{self.place(self.rank)} {what} at MASTER_ADDR:MASTER_PORT {address}:{port}') from error

    def place(self, rank: int) -> str:
        """The name of a rank and, as far as it is known, of its machine."""
        host = socket.gethostname() if rank == self.rank else self.hosts.get(rank)
        return f'rank {rank} on {host}' if host else f'rank {rank}'

    def hold(self, step: str, report: dict[str, Any], judge: Callable[[Reports], str] | None = None) -> Reports:
        """Hand in this rank's report; rank 0 waits for all, judges them, and returns them.

        Raises:
            SystemExit: On every rank, after rank 0 has printed whose report is missing, or what ``judge`` says.
            ValueError: If rank 0 itself has not come so far.
        """
        self.store.set(f'{step}/{self.rank}', json.dumps(report))
        reports, problem = self._read(step, judge) if self.rank == 0 else ({}, self._wait(step))
        if problem:
            self.leave()
            raise SystemExit(1)
        return reports

    def _read(self, step: str, judge: Callable[[Reports], str] | None) -> tuple[Reports, str]:
        keys = [f'{step}/{rank}' for rank in range(self.world_size)]
        with suppress(RuntimeError):  # on time-out; who is missing is found out below
            self.store.wait(keys, timedelta(seconds=self.timeout))
        reports = {rank: json.loads(self.store.get(key)) for rank, key in enumerate(keys) if self.store.check([key])}
        problems = [f'{self.place(rank)}: {report["error"]}' for rank, report in reports.items() if 'error' in report]
        missing = [self.place(rank) for rank in range(self.world_size) if rank not in reports]
        if missing:
            problems.append(f'no report within {self.timeout:g} s from {", ".join(missing)}')
        problem = '; '.join(problems) or (judge(reports) if judge else '')
        if problem:  # before the others end: a launcher that sees one end ends all
            print(f'\nerror: preflight, step {step!r}: {problem}', file=sys.stderr, flush=True)
        self.store.set(f'{step}/problem', problem)
        return reports, problem

    def _wait(self, step: str) -> bytes:
        try:
            self.store.wait([f'{step}/problem'], timedelta(seconds=self.timeout + MARGIN))
            return self.store.get(f'{step}/problem')
        except RuntimeError as error:
            raise ValueError(f'preflight, step {step!r}: {self.place(self.rank)} waits for rank 0 in vain') from error

    def leave(self) -> None:
        """Let rank 0, which may keep the store, end last."""
        if self.rank != 0:
            self.store.set(f'bye/{self.rank}', '')
        with suppress(RuntimeError):
            if self.rank == 0:
                self.store.wait([f'bye/{rank}' for rank in range(1, self.world_size)], timedelta(seconds=2))
