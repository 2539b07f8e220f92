"""The virtual environment in which Nova 34 runs its own functional tests.

Nova asks for SQLAlchemy below 2.1. Its tests come with its wheel; the samples that they compare
notifications with stand in its source distribution alone, beside the package.
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
_SAMPLES = "doc/notification_samples"


def nova_environment() -> Environment:
    """Nova with its tests and their samples. Raises BuildFailed."""
    return ensure_environment(REQUIREMENTS, name="nova", finish=_add_samples)


def _add_samples(environment: Environment) -> None:
    [packages] = environment.home.glob("lib/python3*/site-packages")
    with tempfile.TemporaryDirectory() as folder:
        download = ("download", "--quiet", "--no-deps", "--no-binary", "nova", "--dest", folder)
        run(environment.tool("pip"), *download, NOVA)
        [archive] = Path(folder).glob("nova-*.tar.gz")
        with tarfile.open(archive) as source:
            source.extractall(folder, filter="data")
        [samples] = Path(folder).glob(f"nova-*/{_SAMPLES}")
        if not samples.is_dir():
            raise BuildFailed(f"{archive.name} has no {_SAMPLES}")
        shutil.copytree(samples, packages / _SAMPLES)
