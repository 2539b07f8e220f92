"""PostgreSQL as one local process, of whatever version stands on the machine.

It runs as an unprivileged user (PostgreSQL refuses root), listens on loopback only, has no Unix
socket, and by default does not sync: a killed process loses nothing by that, only a dead machine
would. (`synchronous_commit=off` is another thing: with it a killed process lost what it had
committed.)
"""

import itertools
import os
import pwd
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from .interface import ServerFailed, ServerUnavailable
from .process import (
    HOST,
    LocalServer,
    accepts_connections,
    free_port,
    new_folder,
    run_to_end,
    unprivileged_user,
    wait_until,
)


class Sync(Enum):
    """Whether a commit waits for the disk."""

    OFF = "off"
    ON = "on"


class Databases:
    """Databases on a PostgreSQL that listens on loopback; shared by every way to run one."""

    def __init__(self, port: int) -> None:
        self._root = f"postgresql+psycopg2://postgres@{HOST}:{port}/postgres"
        self._port = port
        self._numbers = itertools.count(1)

    def answer(self) -> bool:
        if not accepts_connections(self._port):
            return False
        try:
            with self._connection() as connection:
                connection.execute(text("SELECT 1"))
        except OperationalError:
            return False
        return True

    def create(self, *, like: str | None = None) -> str:
        name = f"test_{next(self._numbers)}"
        template = "template1" if like is None else make_url(like).database
        with self._connection() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        return make_url(self._root).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        with self._connection() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {make_url(url).database} (FORCE)"))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        engine = create_engine(self._root, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            yield connection


class LocalPostgres(LocalServer):
    """Its databases survive `stop` and `kill`: they stand in its folder until `close`."""

    def __init__(self, *, programs: Path, sync: Sync = Sync.OFF) -> None:
        folder = new_folder("postgres")
        data, port, user = folder / "data", free_port(), unprivileged_user("postgres")
        if user is not None:
            shutil.chown(folder, user.pw_uid)
        _initdb(programs, data, user)
        self._databases = Databases(port)
        super().__init__(
            [str(programs / "postgres"), "-D", str(data), *server_settings(port, sync)],
            folder=folder,
            answers=self._databases.answer,
            stop_signal=signal.SIGINT,  # PostgreSQL's "fast": it waits for no client
            user=user,
        )

    def crash(self) -> None:
        self._end(signal.SIGQUIT)

    def kill(self) -> None:  # type: ignore[explicit-override]
        # Its children end when they notice, and until then it cannot be started again.
        children = self._children()
        super().kill()
        gone = wait_until(
            lambda: not any(Path("/proc", str(child)).exists() for child in children),
            alive=lambda: True,
            timeout_s=30,
        )
        if not gone:
            raise ServerFailed("PostgreSQL's children outlive it")

    def pause(self) -> None:  # type: ignore[explicit-override]
        super().pause()  # first, so that it makes no new children
        self._signal_children(signal.SIGSTOP)

    def resume(self) -> None:  # type: ignore[explicit-override]
        self._signal_children(signal.SIGCONT)
        super().resume()

    def _end(self, how: signal.Signals) -> None:  # type: ignore[explicit-override]
        self._signal_children(signal.SIGCONT)  # a frozen one would not notice
        super()._end(how)

    def _signal_children(self, how: signal.Signals) -> None:
        for child in self._children():
            with suppress(ProcessLookupError):
                os.kill(child, how)

    def _children(self) -> list[int]:
        """Its processes, one for each connection and some more; each is its own group."""
        pid = self._running().pid
        try:
            told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except OSError:  # it has ended
            return []
        return [int(child) for child in told.split()]

    def create_database(self) -> str:
        return self._databases.create()

    def copy_database(self, url: str) -> str:
        return self._databases.create(like=url)

    def drop_database(self, url: str) -> None:
        self._databases.drop(url)


def server_settings(port: int, sync: Sync) -> list[str]:
    """As options of the command `postgres`."""
    settings = {
        "port": str(port),
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "max_connections": "200",
        # Services may commit in two phases.
        "max_prepared_transactions": "8",
        # In its own folder: what stands in /dev/shm outlives a server that was killed.
        "dynamic_shared_memory_type": "mmap",
        "fsync": sync.value,
        "full_page_writes": sync.value,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def find_programs() -> Path:
    """The folder with `initdb` and `postgres`, the newest version. Raises ServerUnavailable."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3])
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise ServerUnavailable("the PostgreSQL server (initdb) is not installed")
    return Path(on_path).resolve().parent


def _initdb(programs: Path, data: Path, user: pwd.struct_passwd | None) -> None:
    run_to_end(
        [
            *(str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"),
            *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
        ],
        folder=data.parent,
        user=user,
    )
