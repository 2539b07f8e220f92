"""The writing side is light: it lives in other people's processes."""

import subprocess
import sys

MODULES = """
administration counters database drain emitter gathering guard lease memory numbering outbox relay
room sending settings spool tables
""".split()


def test_a_hook_loads_no_broker_and_no_other_side() -> None:
    imports = "\n".join(f"import metaledger.producers.{name}" for name in MODULES)
    code = f"""
import sys
{imports}
roots = {{name.split(".")[0] for name in sys.modules}}
sides = {{".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("metaledger.")}}
assert not roots & {{"kafka", "psycopg2", "alembic", "msgspec", "typer", "rich"}}, roots
assert sides == {{"metaledger.producers", "metaledger.schemas"}}, sides
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_service_without_sessions_does_not_pay_for_the_orm() -> None:
    code = (
        "import sys; import metaledger.producers.emitter; assert 'sqlalchemy.orm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
