"""The destroy guard for 500 instances of a host, among many: one round of questions and the rules.

A read model in PostgreSQL of 100,000 instances (QUICK: 5,000), 500 on each hypervisor: each booted
there, was evacuated to the next one, and one in ten came back; made as every read model is, from an
embedded log. Then one hypervisor after the other asks for its 500, with all that the answer takes
but the start of a process and the record of the judgements. There is no bare loop: the promise is a
time.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from random import Random
from uuid import UUID

from sqlalchemy import Engine, text

from metaledger.projector.project import bring_up_to_end
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.events import Event, EventData
from metaledger.schemas.hypervisor import HypervisorRegistered, IdSource
from metaledger.schemas.instance import (
    InstanceBooted,
    InstanceRelocated,
    RelocationCause,
    Verdict,
)
from metaledger.schemas.log import Log
from metaledger.schemas.log.embedded import create_embedded_log
from metaledger.services import queries
from metaledger.services.guard import Question, judge
from tests.proofs.proof import running
from tests.servers.choice import new_postgres
from tests.servers.postgres import Sync

from .benchmark import Bench, Benchmark, Figure, Promise, Size
from .projecting import SETTINGS
from .readmodels import new_read_model
from .workload import META, START, append

_INSTANCES = {Size.QUICK: 5_000, Size.FULL: 100_000}
_OF_A_HOST = 500
_ROUNDS = 40
_BACK = 0.1


def _run(bench: Bench) -> Figure:
    hosts = _INSTANCES[bench.size] // _OF_A_HOST
    with running(lambda settings: new_postgres(settings, sync=Sync.ON)) as postgres:
        log = create_embedded_log(bench.folder / "ledger.db")
        append(log.writer(), _events(hosts))
        with new_read_model(postgres) as engine:
            bring_up_to_end(log, Store(engine), Codec(), settings=SETTINGS)
            times_ms = sorted(_ask(bench, engine, log, n % hosts) for n in range(_ROUNDS))
        log.close()
    return Figure(
        value=times_ms[_ROUNDS // 2],
        lowest=times_ms[0],
        highest=times_ms[-1],
        seen=f"median of {_ROUNDS} hosts among {hosts * _OF_A_HOST:,} instances",
    )


def _ask(bench: Bench, engine: Engine, log: Log, host: int) -> float:
    """Milliseconds for the 500 of a host, in a transaction of their own."""
    question = Question(
        hypervisor_id=_id(host),
        host=f"compute-{host}",
        instance_uuids=[_uuid(host, number) for number in range(_OF_A_HOST)],
        source_lag_max_s=60.0,
        offline=True,
    )
    ends = {partition: end for partition, (_, end) in log.bounds().items()}
    identity = (log.topic_id, log.partitions)
    found: list[Verdict] = []
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))

        def ask() -> None:
            facts = queries.guard.facts(connection, question, log=identity, ends=ends, now=START)
            found.extend(one.verdict for one in judge(question, facts))

        seconds = bench.seconds(ask)
    if len(found) != _OF_A_HOST or {*found} != {Verdict.ALLOW, Verdict.DENY}:
        raise RuntimeError("not what had to be judged")
    return seconds * 1000


def _events(hosts: int) -> Iterator[Event]:
    for number, (aggregate, seq, data) in enumerate(_happenings(hosts)):
        meta = replace(
            META,
            event_id=str(UUID(int=number)),
            aggregate=aggregate,
            stream_seq=seq,
            occurred_at=START + timedelta(milliseconds=number),
        )
        yield Event(meta, data)


def _happenings(hosts: int) -> Iterator[tuple[str, int, EventData]]:
    chance = Random(1)
    for host in range(hosts):
        registered = HypervisorRegistered(
            hypervisor_id=_id(host), id_source=IdSource.FILE, host=f"compute-{host}"
        )
        yield registered.aggregate, 1, registered
    for host in range(hosts):
        here = {"hypervisor_id": _id(host), "host": f"compute-{host}"}
        there = {"hypervisor_id": _id((host + 1) % hosts), "host": f"compute-{(host + 1) % hosts}"}
        for number in range(_OF_A_HOST):
            uuid = _uuid(host, number)
            booted = InstanceBooted(instance_uuid=uuid, **here)
            yield booted.aggregate, 1, booted
            yield booted.aggregate, 2, _moved(uuid, RelocationCause.EVACUATION, here, there)
            if chance.random() < _BACK:
                yield booted.aggregate, 3, _moved(uuid, RelocationCause.LIVE_MIGRATION, there, here)


def _moved(
    uuid: str, cause: RelocationCause, left: dict[str, str], reached: dict[str, str]
) -> InstanceRelocated:
    places = {f"from_{name}": value for name, value in left.items()}
    places |= {f"to_{name}": value for name, value in reached.items()}
    return InstanceRelocated(instance_uuid=uuid, cause=cause, **places)


def _id(host: int) -> str:
    return str(UUID(int=(1 << 120) | host))


def _uuid(host: int, number: int) -> str:
    # As random as those of a cloud, so that no index has them side by side.
    return str(UUID(int=Random(host * _OF_A_HOST + number).getrandbits(128)))


BENCHMARKS = (
    Benchmark(
        name="guard",
        measures="facts and verdicts for 500 instances of a host among 100,000",
        promise=Promise.AT_MOST,
        bound=100,
        unit=" ms",
        run=_run,
    ),
)
