"""The whole way of the incident in which a changed host name had Nova destroy what was alive.

A real Nova's own hooks record what happens, relays and projector bring it into the read model, and
Nova asks the real command line. No part stands for another one.
"""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..glance.environment import Environment
from ..nova.harness import PLUGIN, run_program
from ..services.conftest import Result, home, metaledger  # noqa: F401 (fixtures)

PROGRAM = Path(__file__).parents[1] / "nova" / "renamed.py"
# What is behind stays behind, and a slow machine makes no source a silent one.
CONFIGURATION = """\
ledger = "sqlite:///{folder}/ledger.db"
read_model = "sqlite:///{folder}/read.db"
spool_folder = "{folder}/spool"
guard_wait_s = 0.0
guard_source_lag_max_s = 3600.0
"""


@pytest.mark.nova
def test_what_was_evacuated_is_destroyed_and_what_only_got_another_host_name_is_not(
    guarded_nova: tuple[Environment, Path],
    metaledger: Callable[..., Result],  # noqa: F811
    tmp_path: Path,
) -> None:
    configuration = tmp_path / "metaledger.toml"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path))
    # Without the path on which Nova finds the product.
    command = (sys.executable, "-I", "-m", "metaledger.services", "--config", str(configuration))
    ran = run_program(
        *(PROGRAM, tmp_path / "nova", *guarded_nova, (str(tmp_path / "ledger.db"), *command)),
        configuration={
            **PLUGIN,
            "OS_METALEDGER__GUARD": "true",
            "OS_METALEDGER__GUARD_COMMAND": shlex.join(command),
            # Real threads: its cells are files then, which a relay can read.
            "OS_NOVA_DISABLE_EVENTLET_PATCHING": "true",
        },
    )
    seen = json.loads(ran.databases[0].path.with_name("seen.json").read_text())
    first, second = seen["instances"]
    old, new = seen["hypervisors"]
    held = {start: set(uuids) for start, uuids in seen["held"].items()}
    assert held == {
        "behind": {first, second},
        "evacuated": {second},
        "renamed": {first, second},
        # What Nova does by itself.
        "unguarded": {first},
    }

    assert metaledger("--config", configuration, "project").status == 0
    events = metaledger("--config", configuration, "--json", "events").document
    told = [it["data"] for it in events if it["type"] == "DestroyJudged"]
    assert [(it["instance_uuid"], it["hypervisor_id"], it["verdict"]) for it in told] == [
        (first, old, "UNKNOWN"),
        (first, old, "ALLOW"),
        (second, new, "DENY"),
    ]
    assert {it["host"] for it in told} == {"host1"}
    behind, allowed, denied = (it["reason"] for it in told)
    # Nothing else was in the way.
    assert behind.partition(" ")[2] == (
        "of the log's records are not projected yet: run `metaledger project`"
    )
    assert f"and is on hypervisor {new} since" in allowed
    assert denied.startswith("it is on this hypervisor, since")
    changes = [it["data"] for it in events if it["type"] == "HypervisorHostChanged"]
    assert changes == [{"hypervisor_id": new, "from_host": "host2", "to_host": "host1"}]
    refused = metaledger(
        *("--config", configuration, "--json", "anomalies", "--kind", "destroy_denied")
    ).document
    assert [it["aggregate_id"] for it in refused] == [first, second]
