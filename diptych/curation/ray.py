"""The same work on more than one machine: Ray's actors in place of a pool's processes, the same bytes out.

The run's folder is one that all machines see under one path; the sources too. What a machine was at when it
went is done again elsewhere: results are whole files or none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.curation.pool import STARTS, Deaths
from diptych.curation.stage import Shared, StopRun
from diptych.curation.work import Done, Task, carry_out

LOCAL = "local"
"""Address that starts Ray on this machine alone, and ends it with the run."""


class _Worker:
    """An actor: it holds what a worker opens once."""

    def __init__(self, modules: Sequence[str], out: str, opener: str) -> None:
        from diptych.curation.recipes import load_module
        from diptych.files.memory import give_memory_back

        give_memory_back()
        for path in modules:
            load_module(Path(path))
        self.shared = Shared(Path(out), opener)

    def ready(self) -> bool:
        return True

    def pid(self) -> int:
        return os.getpid()

    def run(self, task: Task, note: str) -> Done | StopRun | OSError:
        def tell(row: int | None) -> None:
            # to a file, as nothing that an actor returns outlives it
            Path(note).write_text("" if row is None else str(row))

        try:
            return carry_out(task, self.shared, tell)
        # returned and not raised: Ray would wrap them, and tell a page where a sentence is meant
        except ValueError as error:
            return StopRun(str(error))
        except OSError as error:
            return OSError(error.errno, error.strerror, error.filename)


@dataclass
class _Member:
    actor: Any
    begun: Any
    """What Ray gives for `ready`, until it was."""
    task: Task | None = None
    answer: Any = None
    note: Path | None = None


class RayExecutor:
    """`workers` actors of one processor each, wherever Ray finds room for them.

    Raises ImportError where Ray is not installed, and ValueError where nothing answers at the address.
    """

    def __init__(
        self,
        address: str,
        workers: int,
        out: Path,
        modules: Sequence[Path] = (),
        opener: str = "",
    ) -> None:
        if workers < 1:
            raise ValueError(f"at least 1 worker is needed, got {workers}")
        import ray

        # before Ray's own processes start, which pass them on: nobody is told how this is used
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.room, self._out = 2 * workers, out.absolute()
        self._ray: Any = ray
        self._wanted, self._failed_starts = workers, 0
        self._deaths = Deaths()
        self._waiting: deque[Task] = deque()
        self._members: list[_Member] = []
        self._notes = self._out / "at"
        self._modules = [str(path.absolute()) for path in modules]
        self._opener = opener
        # a cluster that is there is joined and left as it is; one that was started here ends here
        self._joined = ray.is_initialized()
        if not self._joined:
            self._start(address, workers)
        # by its name, which workers import: packed by value it would be another class in each of them
        self._kind: Any = ray.remote(num_cpus=1, max_restarts=0)(_Worker)

    def _start(self, address: str, workers: int) -> None:
        told = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        told["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        common: dict[str, Any] = {
            "logging_level": "error",
            "log_to_driver": False,
            "runtime_env": {"env_vars": told},
        }
        try:
            _reached(address)
            if address == LOCAL:
                self._ray.init(num_cpus=workers, include_dashboard=False, **common)
            else:
                self._ray.init(address=address, **common)
        # of Ray's own kinds and Python's, among them ConnectionError and RuntimeError
        except Exception as error:
            raise ValueError(
                f"--ray {address}: no cluster answers ({' '.join(str(error).split())[:200]}); start one "
                f"with `ray start --head`, or give {LOCAL!r}"
            ) from error

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> tuple[Task, Done]:
        while True:
            self._hand_out()
            pending = {m.begun if m.begun is not None else m.answer: m for m in self._members}
            pending.pop(None, None)
            done, _ = self._ray.wait(list(pending), num_returns=1)
            found = self._hear(pending[done[0]], done[0])
            if found is not None:
                return found

    def close(self) -> None:
        for member in self._members:
            # no_restart is the default, and one that is gone already is no error
            with contextlib.suppress(Exception):
                self._ray.kill(member.actor)
        self._members = []
        shutil.rmtree(self._notes, ignore_errors=True)
        if not self._joined:
            self._ray.shutdown()

    def _hand_out(self) -> None:
        busy = sum(member.task is not None for member in self._members)
        while len(self._members) < min(self._wanted, busy + len(self._waiting)):
            actor = self._kind.remote(self._modules, str(self._out), self._opener)
            self._members.append(_Member(actor, actor.ready.remote()))
        for member in self._members:
            if member.begun is None and member.task is None and self._waiting:
                self._notes.mkdir(parents=True, exist_ok=True)
                member.task = self._waiting.popleft()
                member.note = self._notes / str(id(member.task))
                member.note.unlink(missing_ok=True)
                member.answer = member.actor.run.remote(member.task, str(member.note))

    def _hear(self, member: _Member, answer: Any) -> tuple[Task, Done] | None:
        try:
            told = self._ray.get(answer)
        except self._ray.exceptions.RayActorError as error:
            self._died(member, error)
            return None
        if member.begun is not None:
            member.begun, self._failed_starts = None, 0
            return None
        task, member.task, member.answer = member.task, None, None
        if isinstance(told, Exception):
            raise told
        assert task is not None
        self._deaths.survived(task)
        return task, told

    def _died(self, member: _Member, error: Exception) -> None:
        """A process or a whole machine went."""
        self._members.remove(member)
        if member.begun is not None:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                said = " ".join(str(error).split())[:200]
                raise StopRun(f"Ray's workers end before they begin ({said})")
        if member.task is not None:
            assert member.note is not None
            row = member.note.read_text() if member.note.is_file() else ""
            task = self._deaths.after(member.task, int(row) if row else None, "gone")
            self._waiting.appendleft(task)


def _reached(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray itself would ask for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
