"""What a test may ask of a server, whichever way it is run, and the two ways it can fail.

`ServerUnavailable` is the machine's fault: a part is missing, the test is skipped (with `CI=true`
it fails). `ServerFailed` is ours: all parts are there and the server did not come up or go down.
"""

from typing import Protocol


class ServerUnavailable(Exception):
    """This machine lacks a part of the server; the message names it."""


class ServerFailed(Exception):
    """The server did not start or end in time; the message ends with its own last lines."""


class Server(Protocol):
    """A server whose port and data stay the same until `close`."""

    def start(self) -> None:
        """Starts it, also again after `stop` and `kill`; returns when it answers."""

    def stop(self) -> None:
        """Asks it to end in good order; returns when it has."""

    def kill(self) -> None:
        """Ends it at once (SIGKILL); returns when it is gone."""

    def pause(self) -> None:
        """Freezes it (SIGSTOP): connections stay open and nothing answers."""

    def resume(self) -> None:
        """Lets a frozen server go on (SIGCONT)."""

    def close(self) -> None:
        """Ends it in whatever state it is and removes its data; harmless the second time."""


class Broker(Server, Protocol):
    """Apache Kafka, one node, no topic made by itself."""

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:PORT`."""


class Database(Server, Protocol):
    """A database server with a superuser that needs no password."""

    def create_database(self) -> str:
        """A new, empty database; returns its SQLAlchemy URL."""

    def drop_database(self, url: str) -> None:
        """Ends its connections and drops it."""


class Postgres(Database, Protocol):
    """PostgreSQL."""

    def copy_database(self, url: str) -> str:
        """A new database with all that is in this one, which nobody may be connected to."""

    def crash(self) -> None:
        """Ends it as `pg_ctl stop -m immediate` does: the next start has to recover."""


class MariaDB(Database, Protocol):
    """MariaDB."""


class Registry(Server, Protocol):
    """A schema registry in memory: what it holds is gone with its process."""

    @property
    def url(self) -> str:
        """The root of the Confluent-compatible API, without a slash at the end."""
