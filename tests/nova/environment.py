"""The virtual environment in which Nova 34 runs its own functional tests.

Nova asks for SQLAlchemy below 2.1. Its tests come with its wheel; what they look for beside the
package (samples of notifications, the API's pipeline) stands in its source distribution alone.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

from tests.glance.environment import BuildFailed, Environment, ensure_environment, run

NOVA = "nova==34.0.0"
REQUIREMENTS = (
    NOVA,
    "openstack-placement==16.0.0",
    "SQLAlchemy<2.1",
    # Of Nova's test-requirements.txt, what its functional tests import.
    *("ddt", "fixtures", "oslotest", "osprofiler", "python-barbicanclient", "requests-mock"),
    *("testresources", "testscenarios", "testtools", "wsgi-intercept"),
    "PyMySQL>=1.1",
    "psycopg2-binary>=2.9",
    "fastavro>=1.9",
    "structlog>=24",
    "setuptools>=77",  # builds the product's wheel without another download
)
_BESIDE = ("doc/notification_samples", "etc/nova")


def nova_environment() -> Environment:
    """Nova with all that its tests need. Raises BuildFailed."""
    return ensure_environment(REQUIREMENTS, name="nova", finish=_add_what_is_beside)


def _add_what_is_beside(environment: Environment) -> None:
    [packages] = environment.home.glob("lib/python3*/site-packages")
    with tempfile.TemporaryDirectory() as folder:
        download = ("download", "--quiet", "--no-deps", "--no-binary", "nova", "--dest", folder)
        run(environment.tool("pip"), *download, NOVA)
        [archive] = Path(folder).glob("nova-*.tar.gz")
        with tarfile.open(archive) as source:
            source.extractall(folder, filter="data")
        for name in _BESIDE:
            found = list(Path(folder).glob(f"nova-*/{name}"))
            if not found:
                raise BuildFailed(f"{archive.name} has no {name}")
            shutil.copytree(found[0], packages / name)
