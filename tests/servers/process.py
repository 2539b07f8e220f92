"""One local server process: start, wait until it answers, signal, end by its process id.

The process dies with the test process (PR_SET_PDEATHSIG). The kernel ties that to the *thread* that
made the process, so every process is made by one thread that lives as long as the interpreter.
"""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .interface import ServerFailed
from .settings import worker_number

HOST = "127.0.0.1"

# Below Linux's range for outgoing connections (32768 and up), or one of those could take the port
# of a server that is down for a moment.
_PORTS = range(20_000, 32_000)
# Each of pytest-xdist's workers has ports of its own: what is chosen is bound only seconds later.
_STRIPES = 8
_given: set[int] = set()
_POLL_S = 0.05
_LOG_TAIL_CHARS = 4_000

_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="servers")


def free_port() -> int:
    """A port of loopback that nothing listens on now, and that was not given before."""
    ports = _PORTS[worker_number() % _STRIPES :: _STRIPES]
    while True:
        port = random.choice(ports)
        if port in _given:
            continue
        with socket.socket() as probe:
            # As the servers do: a port with connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        _given.add(port)
        return port


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(answers: Callable[[], bool], *, alive: Callable[[], bool], timeout_s: float) -> bool:
    """Polls; False when the time is over or the server is no longer alive."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and alive():
        if answers():
            return True
        time.sleep(_POLL_S)
    return False


def unprivileged_user(name: str) -> pwd.struct_passwd | None:
    """Who a server that refuses root runs as; None: we are no root, so it runs as we do."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return users.get(name, users["nobody"])


def run_to_end(command: Sequence[str], *, folder: Path, user: pwd.struct_passwd | None) -> None:
    """A command that prepares a server's folder. Raises ServerFailed."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else (),
    )
    if done.returncode != 0:
        raise ServerFailed(f"{command[0]}:\n{done.stdout}{done.stderr}")


class LocalServer:
    """A server made of a command, a folder of its own and a question that tells if it answers."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        answers: Callable[[], bool],
        start_timeout_s: float = 120,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: pwd.struct_passwd | None = None,
    ) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._answers = answers
        self._start_timeout_s = start_timeout_s
        self._stop_signal = stop_signal
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the server wrote to its standard output and error."""
        return self._folder / "server.log"

    def start(self) -> None:
        if self._alive():
            return
        self._process = _spawner.submit(self._spawn).result()
        if not wait_until(self._answers, alive=self._alive, timeout_s=self._start_timeout_s):
            self.kill()
            raise ServerFailed(f"{self._command[0]} did not start:\n{self._log_tail()}")

    def stop(self) -> None:
        self._end(self._stop_signal)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*_die_with_parent(), *self._command],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt at the terminal is for the tests alone
                user=None if self._user is None else self._user.pw_uid,
                group=None if self._user is None else self._user.pw_gid,
                extra_groups=None if self._user is None else (),
            )

    def _end(self, how: signal.Signals) -> None:
        process = self._running()
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a frozen process heeds only SIGKILL
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ServerFailed(
                f"{self._command[0]} ignored {how.name}:\n{self._log_tail()}"
            ) from None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailed(f"{self._command[0]} was never started")
        return self._process

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-_LOG_TAIL_CHARS:]


def new_folder(name: str) -> Path:
    """Removed by the server's `close`."""
    return Path(tempfile.mkdtemp(prefix=f"metaledger-{name}-"))


def _die_with_parent() -> tuple[str, ...]:
    # setpriv (util-linux) sets it and then becomes the command, under the same process id. KILL,
    # since a frozen server would not heed anything else.
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL") if setpriv else ()
