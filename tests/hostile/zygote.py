"""Runs commands in children of one process that has imported everything: thousands of times less work than
an interpreter for each, and each still has a memory, streams and limits of its own.

Reads a JSON object a line from stdin, answers with one on stdout.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from hostile.case import MEMORY, SECONDS, Case, Outcome

IMPORTED = (
    "diptych.systems.registry",
    "diptych.systems.sana.system",
    "diptych.systems.sana.job",
    "diptych.systems.u1.job",
    "diptych.training.export",
    "diptych.training.log",
    "diptych.inference.calibrate",
    "diptych.evaluation",
    "diptych.worlds.emoji",
    "diptych.data.captioned.precompute",
    "diptych.data.captioned.report",
    "diptych.surgery",
    "diffusers",
    "transformers",
    "torch.utils.tensorboard",
    "matplotlib.pyplot",
)
LAZY = {
    "diffusers": "AutoencoderDC SanaPipeline SanaTransformer2DModel DPMSolverMultistepScheduler",
    "transformers": "AutoConfig AutoModel AutoTokenizer Gemma2Model GemmaTokenizer",
}
"""Names of packages that import the rest of themselves, for seconds, when these are first asked for."""
POLL = 0.005
"""Seconds between two looks at a child."""


class Zygote:
    """The process that commands are forked from."""

    def __init__(self, home: Path) -> None:
        tests = str(Path(__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hostile.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=tests,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("COV_")},
                "PYTHONPATH": tests,
                "HOME": str(home),
                "HF_HOME": str(home),
                # nothing may be fetched: a mistyped path would else be looked for in the world
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "100",
                "NO_COLOR": "1",
            },
        )

    def run(self, case: Case, folder: Path) -> Outcome:
        """Carry a command out in `folder`/work; what it says goes through files in `folder`/said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "argv": case.argv,
            "work": str(folder / "work"),
            "said": str(folder.parent / f"{folder.name}.said"),
            "stdout": case.stdout,
            "interrupt": case.interrupt,
            "largest": case.largest,
        }
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        # between two commands it holds nothing
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    for name in ("diptych.cli", *IMPORTED):
        importlib.import_module(name)
    for package, names in LAZY.items():
        for name in names.split():
            getattr(sys.modules[package], name)
    from diptych.cli import COMMANDS

    for name in COMMANDS:
        importlib.import_module("diptych.commands." + name.replace("-", "_"))
    # what commands print must not be taken for an answer
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(vars(_carried_out(json.loads(line)))) + "\n")
        answers.flush()


def _carried_out(asked: dict[str, Any]) -> Outcome:
    said = Path(asked["said"])
    said.mkdir()
    begun = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(asked, said)
    status, used, interrupted = None, None, False
    while status is None:
        time.sleep(POLL)
        done, code, used = os.wait4(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
            break
        if time.monotonic() - begun > SECONDS + 5 or _memory(pid) > 2 * MEMORY:
            os.killpg(pid, signal.SIGKILL)
        elif asked["interrupt"] and not interrupted and asked["interrupt"] in _text(said / "err"):
            os.kill(pid, signal.SIGINT)
            interrupted = True
    seconds = time.monotonic() - begun
    # what it started and left
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return Outcome(
        status=status,
        out=_text(said / "out"),
        err=_text(said / "err"),
        seconds=seconds,
        memory=used.ru_maxrss * 1024,
    )


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="backslashreplace") if path.exists() else ""


def _memory(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _child(asked: dict[str, Any], said: Path) -> None:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(asked["work"])
        # whoever asks whether to run a stranger's code is told yes
        (said / "in").write_text("y\n" * 100)
        _become(0, os.open(said / "in", os.O_RDONLY))
        _become(2, os.open(said / "err", os.O_WRONLY | os.O_CREAT))
        _become(1, _output(asked["stdout"], said))
        if asked["largest"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest"], asked["largest"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from diptych import cli

        status = cli.main(asked["argv"])
        sys.stdout.flush()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _become(number: int, handle: int) -> None:
    os.dup2(handle, number)
    os.close(handle)


def _output(kind: str, said: Path) -> int:
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    if kind == "closed":
        reading, writing = os.pipe()
        os.close(reading)
        return writing
    return os.open(said / "out", os.O_WRONLY | os.O_CREAT)


if __name__ == "__main__":
    serve()
