"""The writing side is light: it lives in other people's processes."""

import subprocess
import sys
from pathlib import Path

import metaledger.producers.settings

MODULES = [path.stem for path in Path(metaledger.producers.settings.__file__).parent.glob("*.py")]


def run(code: str) -> str:
    """What a fresh interpreter says of it."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr


def test_a_hook_loads_no_broker_and_no_other_side() -> None:
    imports = "\n".join(f"import metaledger.producers.{name}" for name in MODULES)
    code = f"""
import sys
{imports}
roots = {{name.split(".")[0] for name in sys.modules}}
sides = {{".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("metaledger.")}}
assert not roots & {{"kafka", "psycopg2", "alembic", "msgspec", "typer"}}, roots
assert sides == {{"metaledger.producers", "metaledger.schemas"}}, sides
"""
    assert len(MODULES) > 10
    assert run(code) == ""


def test_a_service_without_sessions_does_not_pay_for_the_orm() -> None:
    imports = "import sys; import metaledger.producers.emitter"
    assert run(f"{imports}; assert 'sqlalchemy.orm' not in sys.modules") == ""
