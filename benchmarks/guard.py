"""The destroy guard for 500 instances of a host, among many: one round of questions and the rules.

A read model in PostgreSQL of 100,000 instances (QUICK: 5,000), 500 on each hypervisor: each booted
there, was evacuated to the next one, and one in ten came back; made as every read model is, from an
embedded log. The source that tells of them has just reported, with nothing unsent. Then one
hypervisor after the other asks for its 500, as nova-compute's hook does: the facts, with the
source among them, and the rules. There is no bare loop: the promise is a time.

Not in the figure: the start of a process, and the record of the judgements, which the command makes
durable before it answers. What that takes is told beside it, of 500 into an embedded ledger, one
transaction; by way of Kafka it takes what a broker takes.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from pathlib import Path
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
from metaledger.schemas.ledger import SourceProgressed
from metaledger.schemas.log import Log
from metaledger.schemas.log.embedded import create_embedded_log
from metaledger.services import queries
from metaledger.services.commands.guard import recorded
from metaledger.services.guard import Judgement, Question, judge
from metaledger.services.settings import Settings
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
            asked = [_ask(bench, engine, log, n % hosts) for n in range(_ROUNDS)]
        log.close()
    times_ms, records_ms = (sorted(those) for those in zip(*asked, strict=True))
    return Figure(
        value=times_ms[_ROUNDS // 2],
        lowest=times_ms[0],
        highest=times_ms[-1],
        seen=f"median of {_ROUNDS} hosts among {hosts * _OF_A_HOST:,} instances; to record the "
        f"judgements takes {records_ms[_ROUNDS // 2]:.0f} ms more",
    )


def _ask(bench: Bench, engine: Engine, log: Log, host: int) -> tuple[float, float]:
    """Milliseconds for the 500 of a host, in a transaction of their own, and for their record."""
    question = Question(
        hypervisor_id=_id(host),
        host=f"compute-{host}",
        instance_uuids=[_uuid(host, number) for number in range(_OF_A_HOST)],
        source_lag_max_s=60.0,
    )
    ends = {partition: end for partition, (_, end) in log.bounds().items()}
    identity = (log.topic_id, log.partitions)
    found: list[Judgement] = []
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))

        def ask() -> None:
            facts = queries.guard.facts(connection, question, log=identity, ends=ends, now=START)
            found.extend(judge(question, facts))

        seconds = bench.seconds(ask)
    verdicts = {one.verdict for one in found}
    if len(found) != _OF_A_HOST or verdicts != {Verdict.ALLOW, Verdict.DENY}:
        raise RuntimeError("not what had to be judged")
    return seconds * 1000, _record(bench.folder, question, found) * 1000


def _record(folder: Path, question: Question, found: Sequence[Judgement]) -> float:
    """Seconds for what makes the judgements durable, in a ledger beside the one that is asked."""
    settings = Settings(ledger=f"sqlite:///{folder / 'judged.db'}", spool_folder=folder)
    started = time.perf_counter()
    kept = recorded(settings, question, found)
    seconds = time.perf_counter() - started
    if kept is not found:
        raise RuntimeError(f"not recorded: {kept[0].reason}")
    return seconds


def _events(hosts: int) -> Iterator[Event]:
    for number, (aggregate, seq, data) in enumerate(chain([_report()], _happenings(hosts))):
        meta = replace(
            META,
            event_id=str(UUID(int=number)),
            aggregate=aggregate,
            stream_seq=seq,
            occurred_at=START + timedelta(milliseconds=number),
        )
        yield Event(meta, data)


def _report() -> tuple[str, int, EventData]:
    """The source's, of the one partition of an embedded log, at START."""
    report = SourceProgressed(rows_waiting=0, rows_max=100_000, unrecorded_aggregates=0)
    return f"stream:{META.stream_id}/0", 1, report


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
        measures="facts, with its sources, and verdicts for 500 instances of a host among 100,000",
        promise=Promise.AT_MOST,
        bound=100,
        unit=" ms",
        run=_run,
    ),
)
