"""MariaDB as one local process, of whatever version stands on the machine; never in a container.

It runs as an unprivileged user, listens on loopback only, and does not sync: a commit goes to the
operating system (`innodb-flush-log-at-trx-commit=2`), so a killed process loses nothing of it, only
a dead machine would. Its transactions are those of MariaDB 10.11: repeatable read, without snapshot
isolation.
"""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from .interface import ServerUnavailable
from .process import (
    HOST,
    LocalServer,
    accepts_connections,
    free_port,
    new_folder,
    run_to_end,
    unprivileged_user,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What a server is made with and run by."""

    server: Path
    install: Path


# The server and the program that makes its data folder both take them.
_STORAGE = (
    "--innodb-flush-method=nosync",
    "--innodb-log-file-size=32M",
    "--innodb-buffer-pool-size=64M",
)
# A root without a password, also over TCP.
_INSTALL = ("--auth-root-authentication-method=normal", "--skip-test-db")


class LocalMariaDB(LocalServer):
    """Its databases survive `stop` and `kill`: they stand in its folder until `close`."""

    def __init__(self, *, programs: Programs) -> None:
        folder = new_folder("mariadb")
        data, port, user = folder / "data", free_port(), unprivileged_user("mysql")
        if user is not None:
            shutil.chown(folder, user.pw_uid)
        # At its start a server removes what others have in /tmp, of those that run too.
        common = ("--no-defaults", f"--datadir={data}", f"--tmpdir={folder}", *_STORAGE)
        run_to_end([str(programs.install), *common, *_INSTALL], folder=folder, user=user)
        self._root = f"mysql+pymysql://root@{HOST}:{port}/?charset=utf8mb4"
        self._port = port
        self._numbers = itertools.count(1)
        super().__init__(
            [str(programs.server), *common, *_server_options(port, folder)],
            folder=folder,
            answers=self._answer,
            user=user,
        )

    def create_database(self) -> str:
        name = f"test_{next(self._numbers)}"
        with self._connection() as connection:
            connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
        return make_url(self._root).set(database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        name = make_url(url).database
        query = text("SELECT id FROM information_schema.processlist WHERE db = :name")
        with self._connection() as connection:
            for id_ in connection.scalars(query, {"name": name}).all():
                with suppress(OperationalError):  # it may have ended meanwhile
                    connection.execute(text(f"KILL {id_}"))
            connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))

    def _answer(self) -> bool:
        if not accepts_connections(self._port):
            return False
        try:
            with self._connection() as connection:
                connection.execute(text("SELECT 1"))
        except OperationalError:
            return False
        return True

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        engine = create_engine(self._root, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            yield connection


def find_programs() -> Programs:
    """Raises ServerUnavailable."""
    # Debian keeps the server where only root's PATH looks.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    server, install = (shutil.which(it, path=path) for it in ("mariadbd", "mariadb-install-db"))
    if server is None or install is None or shutil.which("my_print_defaults") is None:
        raise ServerUnavailable("MariaDB (mariadb-server-core, mariadb-client-core) is missing")
    return Programs(server=Path(server), install=Path(install))


def _server_options(port: int, folder: Path) -> tuple[str, ...]:
    return (
        f"--port={port}",
        f"--bind-address={HOST}",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        "--skip-name-resolve",
        "--max-connections=200",
        "--innodb-flush-log-at-trx-commit=2",
        # On from MariaDB 11.8: a test of it asks for it. Before 10.11.8 nobody knew it.
        "--loose-innodb-snapshot-isolation=OFF",
    )
