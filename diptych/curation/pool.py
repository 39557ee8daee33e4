"""A pool of processes on one machine: models are loaded once in each, and a worker that dies takes one row.

Every worker is a program of its own with one pipe, so nothing of the caller is copied into it, and it ends
when the caller is gone.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Protocol

from diptych.curation.stage import Shared, StopRun
from diptych.curation.work import DIED, Done, Task, carry_out

PATIENCE = 2
"""Times that a worker may die over a task before it is asked which row it is at."""
STARTS = 3
"""Times that workers may die before they ever were ready."""


class Executor(Protocol):
    """Carries out tasks, in whatever order and wherever."""

    room: int
    """Tasks that it should hold at a time: enough that no worker idles, and no more than is worth holding."""

    def submit(self, task: Task) -> None:
        """Returns at once."""
        ...

    def next(self) -> tuple[Task, Done]:
        """Waits for one that is done. Raises what ended it."""
        ...

    def close(self) -> None:
        """Ends all work, also such as is under way."""
        ...


class Here:
    """In this process, one after the other."""

    room = 1

    def __init__(self, out: Path | None = None, opener: str = "") -> None:
        self.shared = Shared(out, opener)
        self._waiting: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> tuple[Task, Done]:
        task = self._waiting.popleft()
        return task, carry_out(task, self.shared)

    def close(self) -> None:
        self._waiting.clear()


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    ready: bool = False
    task: Task | None = None
    row: int | None = None
    """That it said it begins, where it was asked to be careful."""


@dataclass
class _Trouble:
    deaths: int = 0
    rows: Counter[int] = field(default_factory=Counter)


class ProcessPool:
    """`workers` processes. `modules`: files of somebody's own stages, which workers import first; `out` and
    `opener` as in `Shared`."""

    def __init__(
        self, workers: int, modules: Sequence[Path] = (), out: Path | None = None, opener: str = ""
    ) -> None:
        if workers < 1:
            raise ValueError(f"at least 1 worker is needed, got {workers}")
        self._told = [str(out or ""), opener, *(str(path) for path in modules)]
        self.room = 2 * workers
        self._wanted, self._failed_starts = workers, 0
        self._waiting: deque[Task] = deque()
        self._deaths = Deaths()
        self._workers: list[_Worker] = []

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> tuple[Task, Done]:
        while True:
            self._hand_out()
            for pipe in wait([worker.pipe for worker in self._workers]):
                worker = next(w for w in self._workers if w.pipe is pipe)
                told = self._hear(worker)
                if told is not None:
                    return told

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.pipe.close()
        for worker in self._workers:
            worker.process.wait()
        self._workers = []

    def _hand_out(self) -> None:
        # no more than there is to do: a small run should not wait for processes that it never uses
        busy = sum(worker.task is not None for worker in self._workers)
        while len(self._workers) < min(self._wanted, busy + len(self._waiting)):
            self._workers.append(_started(self._told))
        for worker in self._workers:
            if worker.ready and worker.task is None and self._waiting:
                task = self._waiting.popleft()
                worker.task, worker.row = task, None
                try:
                    worker.pipe.send_bytes(pickle.dumps(task))
                except OSError:
                    # it died meanwhile, which is heard from its end of the pipe
                    continue

    def _hear(self, worker: _Worker) -> tuple[Task, Done] | None:
        try:
            what, told = pickle.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            self._died(worker)
            return None
        if what == "ready":
            worker.ready, self._failed_starts = True, 0
        elif what == "row":
            worker.row = told
        elif what == "error":
            raise told
        else:
            task, worker.task = worker.task, None
            assert task is not None
            self._deaths.survived(task)
            return task, told
        return None

    def _died(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        status = worker.process.wait()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise StopRun(f"worker processes end before they begin (status {status})")
        if worker.task is not None:
            self._waiting.appendleft(self._deaths.after(worker.task, worker.row, status))


class Deaths:
    """Tasks over which workers died, and what is tried next: as it was, then telling its rows, then without
    the row that did it."""

    def __init__(self) -> None:
        self._troubles: dict[int, _Trouble] = {}

    def survived(self, task: Task) -> None:
        self._troubles.pop(id(task), None)

    def after(self, task: Task, row: int | None, status: object) -> Task:
        """The task to be tried next, where one died at `row`, if it was asked to tell. Raises StopRun where
        nothing helps."""
        trouble = self._troubles.pop(id(task), _Trouble())
        trouble.deaths += 1
        careful = getattr(task, "more_careful", None)
        if row is not None:
            trouble.rows[row] += 1
            if trouble.rows[row] >= PATIENCE:
                task = task.without(row)  # type: ignore[attr-defined]
        elif trouble.deaths > 4 * PATIENCE:
            raise StopRun(f"{DIED} again and again (status {status}); is there too little memory?")
        elif trouble.deaths > PATIENCE and careful is not None:
            task = careful()
        self._troubles[id(task)] = trouble
        return task


def _started(given: Sequence[str]) -> _Worker:
    ours, theirs = Pipe()
    command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *given]
    # as many processes as processors: threads within each would only wait for one another
    told = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    told |= {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    process = subprocess.Popen(
        command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env={**os.environ, **told}
    )
    theirs.close()
    return _Worker(process, ours)


_PROGRAM = "import sys; from diptych.curation.pool import serve; serve(int(sys.argv[1]), *sys.argv[2:])"


def serve(handle: int, out: str, opener: str, *modules: str) -> None:
    """The life of a worker."""
    # Ctrl-C reaches all processes of a terminal: the caller decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from diptych.curation.recipes import load_module
    from diptych.files.memory import give_memory_back

    give_memory_back()
    _end_with_caller()
    for path in modules:
        load_module(Path(path))
    pipe, shared = Connection(handle), Shared(Path(out) if out else None, opener)

    def send(what: str, told: Any = None) -> None:
        pipe.send_bytes(pickle.dumps((what, told)))

    try:
        send("ready")
        while True:
            task = pickle.loads(pipe.recv_bytes())
            try:
                done = carry_out(task, shared, lambda row: send("row", row))
            except Exception as error:
                send("error", _sendable(error))
                continue
            send("done", done)
    except (EOFError, OSError):
        # the caller is gone
        os._exit(0)


def _end_with_caller() -> None:
    """Have Linux kill this process when its caller is gone, also in the middle of a task: another run may
    go on in the same folder by then."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PARENT_DEATH, signal.SIGKILL)


_PARENT_DEATH = 1
"""Linux's number for it (prctl.h)."""


def _sendable(error: Exception) -> Exception:
    """An error as it can be sent: of Python's own kinds, as others may not survive being packed."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    if isinstance(error, ValueError | MemoryError | ImportError):
        return StopRun(str(error)) if isinstance(error, ValueError) else type(error)(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")
