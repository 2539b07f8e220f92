"""A real Glance 33 under uWSGI on the loopback: started, driven over HTTP, ended by process id.

Rules: a folder of its own holds configuration, stores, log and (by default) the SQLite database;
another database is a URL. A start returns once HTTP answers, or raises with the end of the log. The
whole group of the service's processes is ended, gently or not, and nothing else is.

    glance = Glance(environment, folder)
    glance.sync_database()
    glance.start()
    image = glance.client().create(name="cirros", key="value").body
    glance.stop()
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ..servers.process import free_port
from . import config
from .client import Client
from .environment import Environment

PASTE_FOLDER = Path(__file__).parent / "paste"
START_TIMEOUT_S = 180
MANAGE_TIMEOUT_S = 300
STOP_TIMEOUT_S = 20
POLL_S = 0.1  # how often readiness is asked for; nothing is ordered by it
STARTS_MAX = 3  # a free port can be taken by another before uWSGI binds it
LOG_TAIL_CHARS = 4000


class GlanceFailed(Exception):
    """The Glance under test did not start; the message ends with its log."""


class Glance:
    """One Glance with its configuration; `start` and `stop` may alternate."""

    def __init__(
        self,
        environment: Environment,
        folder: Path,
        *,
        product: Path | None = None,
        database_url: str | None = None,
        extra: config.Extra | None = None,
        processes: int = 2,
    ) -> None:
        self.folder = folder
        self.database_url = database_url or f"sqlite:///{folder}/glance.sqlite"
        self.conf_path = folder / "glance-api.conf"
        self.log_path = folder / "glance.log"
        self.url = ""
        self._environment = environment
        self._extra = extra or config.Extra()
        self._processes = processes
        self._process: subprocess.Popen[bytes] | None = None
        paths = (str(PASTE_FOLDER), *([str(product)] if product else []))
        self._variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(paths),
            "OS_GLANCE_CONFIG_DIR": str(folder),
        }

    def client(
        self,
        *,
        user: str = "alice",
        roles: str = "member,admin",
        headers: Mapping[str, str] | None = None,
    ) -> Client:
        """A driver that is this user, and sends these headers with every request."""
        return Client(self.url, user=user, roles=roles, headers=headers)

    def manage(self, *arguments: str) -> str:
        """Runs glance-manage with this configuration; returns what it printed."""
        self._write_configuration(port=free_port() if not self.url else None)
        done = subprocess.run(
            (self._environment.tool("glance-manage"), "--config-file", self.conf_path, *arguments),
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=MANAGE_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise GlanceFailed(f"glance-manage {arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def sync_database(self) -> None:
        """Creates Glance's tables."""
        self.manage("db_sync")

    def start(self) -> None:
        """Starts uWSGI and returns once HTTP answers. Raises GlanceFailed."""
        for _ in range(STARTS_MAX):
            port = free_port()
            self._write_configuration(port=port)
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(port),
                    env=self._variables,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            if self._answers():
                return
            self.kill()
        raise GlanceFailed(self.log())

    def stop(self) -> None:
        """Ends the service as an operator does, and whatever of it is left after a while."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to all of the service's processes, and waits for the master's end."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Stop and start, on another port."""
        self.stop()
        self.start()

    def log(self) -> str:
        """The end of what the service printed."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return text[-LOG_TAIL_CHARS:]

    def _command(self, port: int) -> tuple[str, ...]:
        return (
            self._environment.tool("uwsgi"),
            *("--home", str(self._environment.home)),
            *("--http-socket", f"127.0.0.1:{port}"),
            *("--module", "glance.wsgi.api:application"),
            *("--processes", str(self._processes), "--threads", "4", "--enable-threads"),
            *("--master", "--lazy-apps", "--thunder-lock", "--die-on-term", "--need-app"),
            *("--buffer-size", "65535"),
            # So it does, and a client that is not told sends its next request into that.
            *("--add-header", "Connection: close"),
        )

    def _write_configuration(self, port: int | None) -> None:
        if port is not None:
            self.url = f"http://127.0.0.1:{port}"
        config.write(self.folder, url=self.url, database_url=self.database_url, extra=self._extra)

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            try:
                if self.client().request("GET", "/v2/schemas/image").status == 200:
                    return True
            except OSError:
                pass
            time.sleep(POLL_S)
        return False
