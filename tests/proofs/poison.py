"""`poison`: one record in a hundred is bad, and all others come out right.

Three things go wrong with it, each as often as the others: yesterday's build cannot read it, or
cannot fold it; it was damaged for good. Beside these, one event in four hundred never comes. In
turn: builds that can do so with too little are stopped; yesterday's build projects all the rest,
and what is poisoned stands still at its last good event; today's build releases, an operator skips
and accepts what is left; and a rebuild from the log comes to the same end: the oracle's rows.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from random import Random
from typing import Any, TypeVar

from sqlalchemy import Engine, and_

from metaledger.projector.folds import Fact, Step
from metaledger.projector.intake import Rules
from metaledger.projector.project import Settings as ProjectorSettings
from metaledger.projector.project import bring_up_to_end
from metaledger.projector.projections import PROJECTIONS
from metaledger.projector.quarantine import accept_gap, release, skip
from metaledger.projector.readmodel import migrate
from metaledger.projector.store import Store
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import MalformedRecord, TooMuchPoison, Unfoldable
from metaledger.schemas.events import Draft, Event, StreamNumber, recorded
from metaledger.schemas.identity import derived_id
from metaledger.schemas.jsonform import to_json
from metaledger.schemas.log import Log, NewRecord, Position
from metaledger.schemas.log.embedded import create_embedded_log
from metaledger.schemas.log.kafka import KafkaSettings, create_topic
from metaledger.schemas.meta import Context
from metaledger.schemas.tables.image import TABLES as IMAGE_TABLES
from metaledger.schemas.tables.ledger import (
    aggregate_states,
    anomalies,
    parked_events,
    quarantine,
)
from metaledger.schemas.tables.lineage import snapshot_uploads
from metaledger.services import parts
from metaledger.services.settings import Settings
from metaledger.services.writing import append
from tests.projector.ledgers import damaged, garbage, record
from tests.servers import choice
from tests.store.readmodels import engine_of, store_of, streamed

from .expected import assert_rows, assert_same
from .happenings import change
from .proof import Proof, Run, running

_EVENTS_EACH = 10  # on average
_OPEN_IMAGES = 200  # whose events stand mixed in the log
_KAFKA_SHARE = 5  # as many records of SQLite's make one of Kafka's
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_PROJECTOR = ProjectorSettings(batch_records_max=1_000)
_TODAY = Codec()
_OPERATOR = Context(service="operator", host="here")

T = TypeVar("T")


class Flaw(StrEnum):
    """What is wrong with a record; of the first two yesterday's build alone thinks so."""

    UNREAD = "unread"
    UNFOLDED = "unfolded"
    DAMAGED = "damaged"
    MISSING = "missing"


_BAD = (Flaw.UNREAD, Flaw.UNFOLDED, Flaw.DAMAGED)
_FOR_GOOD = (Flaw.DAMAGED, Flaw.MISSING)
# Of those that come; the limit of a projector is half of them.
_BAD_SHARE, _MISSING_SHARE = 0.01, 0.0025
_TOO_MANY_PERCENT = (100, 70)


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and what is wrong with its record."""

    event: Event
    flaw: Flaw | None


def history(seed: int, number: int) -> list[Told]:
    """All that is told of an image; the same with each call."""
    random = Random(f"{seed} {number}")
    image_id, held = f"image-{number:07}", None
    told = []
    for seq in range(1, random.randint(1, 2 * _EVENTS_EACH - 1) + 1):
        flaw = _flaw(random)
        at = _AT + timedelta(minutes=seq)
        data, held = change(random, image_id, held, at)
        # The flaw travels with the event, so that yesterday's build knows what it cannot do.
        context = Context(service="shop", host="shop-1", request_id=flaw)
        draft = Draft(data=data, aggregate=f"image:{image_id}", context=context)
        event = recorded(
            draft,
            event_id=derived_id("poison", image_id, seq),
            number=StreamNumber(stream_id="shop", epoch=1, stream_seq=seq),
            occurred_at=at,
        )
        told.append(Told(event, flaw))
    return told


def _flaw(random: Random) -> Flaw | None:
    if random.random() < _MISSING_SHARE:
        return Flaw.MISSING
    return random.choice(_BAD) if random.random() < _BAD_SHARE else None


class Yesterday:
    """The codec of a build that cannot read some events."""

    def decode(self, value: bytes, sha256: bytes) -> Event:
        event = _TODAY.decode(value, sha256)
        if event.meta.request_id == Flaw.UNREAD:
            raise MalformedRecord("yesterday's build does not read this")
        return event


@dataclass(frozen=True, slots=True)
class Broken:
    """The codec of a badly deployed build: of a hundred records it cannot read so many."""

    percent: int

    def decode(self, value: bytes, sha256: bytes) -> Event:
        if zlib.crc32(value) % 100 < self.percent:
            raise MalformedRecord("this build does not read this")
        return _TODAY.decode(value, sha256)


def _yesterdays(projection: Any) -> Any:
    def fold(state: Any, fact: Fact) -> Step[Any]:
        if fact.event.meta.request_id == Flaw.UNFOLDED:
            raise Unfoldable("yesterday's build gives this no meaning")
        return projection.fold(state, fact)

    return replace(projection, fold=fold)


YESTERDAYS = tuple(_yesterdays(projection) for projection in PROJECTIONS)


def _broken(percent: int) -> Sequence[Any]:
    """The projections of a badly deployed build, as `Broken`."""

    def broken(projection: Any) -> Any:
        def fold(state: Any, fact: Fact) -> Step[Any]:
            if zlib.crc32(fact.event.meta.event_id.encode()) % 100 < percent:
                raise Unfoldable("this build gives this no meaning")
            return projection.fold(state, fact)

        return replace(projection, fold=fold)

    return tuple(broken(projection) for projection in PROJECTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A log, the read model that suffers, and one for the rebuild."""

    name: str
    settings: Settings
    rebuilt: str
    images: int
    seed: int

    @property
    def read_model(self) -> str:
        return self.settings.read_model

    def histories(self) -> Iterator[list[Told]]:
        return (history(self.seed, number) for number in range(self.images))

    def write(self) -> Counter[str]:
        """Fills the log; gives how many records have which flaw."""
        flaws: Counter[str] = Counter()
        with parts.open_log(self.settings) as log:
            writer = log.writer()
            for some in _chunks(self._records(flaws), 2_000):
                outcomes = writer.append(some)
                assert all(isinstance(outcome, Position) for outcome in outcomes), outcomes
            writer.close()
        return flaws

    def _records(self, flaws: Counter[str]) -> Iterator[NewRecord]:
        random = Random(self.seed)
        coming = (iter(told) for told in self.histories())
        there = list(islice(coming, _OPEN_IMAGES))
        while there:
            at = random.randrange(len(there))
            told = next(there[at], None)
            if told is None:
                later = next(coming, None)
                there[at : at + 1] = [] if later is None else [later]
                continue
            flaws[told.flaw or "sound"] += 1
            if told.flaw is Flaw.DAMAGED:
                yield random.choice([damaged, garbage])(told.event)
            elif told.flaw is not Flaw.MISSING:
                yield record(told.event)


def check(run: Run) -> None:
    _check(run, _embedded(run))
    with _on_kafka(run) as small:
        _check(run, small)


def _check(run: Run, ledger: Ledger) -> None:
    flaws = ledger.write()
    bad, records = sum(flaws[it] for it in _BAD), flaws.total() - flaws[Flaw.MISSING]
    run.say(
        f"{ledger.name}: {flaws.total():,} events in {ledger.images:,} images: {_shown(flaws)}; "
        f"{bad / records:.2%} of the records are bad"
    )
    with parts.open_log(ledger.settings) as log:
        for percent in _TOO_MANY_PERCENT:
            _assert_stopped(log, ledger, Broken(percent), PROJECTIONS)
            _assert_stopped(log, ledger, _TODAY, _broken(percent))
            run.say(f"    builds that do not read or fold {percent} % are stopped at once")
        _project(log, ledger.read_model, Yesterday(), YESTERDAYS)
        stand = _assert_standing_still(ledger)
        run.say(f"    {stand:,} images stand still at their last good event, the others are right")
        rounds = _mend(log, ledger)
        _assert_mended(ledger)
        run.say(f"    released, skipped and accepted in {rounds} rounds: as the clean run")
        _project(log, ledger.rebuilt, _TODAY, PROJECTIONS)
    assert_same(ledger.read_model, ledger.rebuilt)
    run.say("    a rebuild from the log has the same rows")


def _shown(flaws: Counter[str]) -> str:
    return ", ".join(f"{number:,} {flaw}" for flaw, number in sorted(flaws.items()))


def _project(log: Log, url: str, codec: Any, projections: Sequence[Any]) -> None:
    with engine_of(url) as engine:
        migrate(engine)
        store = Store(engine, projections)
        bring_up_to_end(log, store, codec, settings=_PROJECTOR)


def _assert_stopped(log: Log, ledger: Ledger, codec: Any, projections: Sequence[Any]) -> None:
    """And nothing was put aside."""
    try:
        _project(log, ledger.read_model, codec, projections)
    except TooMuchPoison:
        with engine_of(ledger.read_model) as engine:
            assert not list(streamed(engine, quarantine))
            assert not _parked(engine)
    else:
        raise AssertionError("a build that was deployed badly was not stopped")


def _assert_standing_still(ledger: Ledger) -> int:
    """Each image is as it was before its first bad record; gives how many have one."""
    standing = 0
    for some in _chunks(ledger.histories(), 500):
        expected = []
        for told in some:
            good = _before_first_flaw(told)
            standing += len(good) < len(told)
            expected.append(good)
        _assert_images(ledger, some, expected)
    return standing


def _before_first_flaw(told: Sequence[Told]) -> list[Event]:
    first = next((n for n, one in enumerate(told) if one.flaw is not None), len(told))
    return [one.event for one in told[:first]]


def _assert_mended(ledger: Ledger) -> None:
    """Nothing waits, and each image is as if what is bad for good had never been."""
    for some in _chunks(ledger.histories(), 500):
        expected = [[one.event for one in told if one.flaw not in _FOR_GOOD] for told in some]
        _assert_images(ledger, some, expected)
    with engine_of(ledger.read_model) as engine:
        assert not list(streamed(engine, parked_events))
        assert not list(streamed(engine, quarantine, quarantine.c.skipped_by_event.is_(None)))


def _assert_images(
    ledger: Ledger, some: Sequence[Sequence[Told]], expected: Sequence[Sequence[Event]]
) -> None:
    names = [told[0].event.meta.aggregate for told in some]
    ids = [name.removeprefix("image:") for name in names]
    with engine_of(ledger.read_model) as engine:
        found = {
            table.name: list(streamed(engine, table, table.c.image_id.in_(ids)))
            for table in (*IMAGE_TABLES, snapshot_uploads)
        }
        of_images = and_(anomalies.c.aggregate_kind == "image", anomalies.c.aggregate_id.in_(ids))
        # Of gaps the oracle knows nothing.
        no_gap = anomalies.c.kind != "aggregate_gap"
        found["anomalies"] = list(streamed(engine, anomalies, of_images, no_gap))
    histories = zip(names, expected, strict=True)
    assert_rows(found, {name: [to_json(event) for event in good] for name, good in histories})


def _mend(log: Log, ledger: Ledger) -> int:
    """Today's build, and an operator who decides until nothing waits; gives the rounds."""
    rules = Rules(topic_id=log.topic_id)
    rounds = 0
    with store_of(ledger.read_model) as store, engine_of(ledger.read_model) as engine:
        while waiting := _parked(engine):
            for name in waiting:
                release(store, _TODAY, rules, name)
            decisions = [one for name in _parked(engine) for one in _decide(store, engine, name)]
            append(ledger.settings, decisions)
            _project(log, ledger.read_model, _TODAY, PROJECTIONS)
            rounds += 1
    return rounds


def _parked(engine: Engine) -> list[str]:
    """The aggregates that wait."""
    is_parked = aggregate_states.c.parked_since.is_not(None)
    return [row["aggregate"] for row in streamed(engine, aggregate_states, is_parked)]


def _decide(store: Store, engine: Engine, name: str) -> Iterator[Draft]:
    """Its bad records are to be skipped; where there is none, a number will never come."""
    poison = streamed(
        engine,
        quarantine,
        quarantine.c.aggregate_id == name.removeprefix("image:"),
        quarantine.c.skipped_by_event.is_(None),
    )
    places = [Position(row["log_partition"], row["log_offset"]) for row in poison]
    for place in places:
        yield skip(store, place, reason="damaged", context=_OPERATOR)
    if not places:
        yield accept_gap(store, name, reason="it never came", context=_OPERATOR)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def _embedded(run: Run) -> Ledger:
    create_embedded_log(run.folder / "log.db").close()
    settings = Settings(
        ledger=f"sqlite:///{run.folder}/log.db",
        read_model=f"sqlite:///{run.folder}/read.db",
        spool_folder=run.folder,
    )
    return Ledger(
        name="SQLite",
        settings=settings,
        rebuilt=f"sqlite:///{run.folder}/rebuilt.db",
        images=run.size // _EVENTS_EACH,
        seed=run.seed,
    )


@contextmanager
def _on_kafka(run: Run) -> Iterator[Ledger]:
    with running(choice.new_broker) as broker, running(choice.new_postgres) as postgres:
        topic = KafkaSettings(bootstrap=broker.bootstrap, topic="poison")
        create_topic(topic, partitions=3, replication=1)
        settings = Settings(
            ledger=f"kafka://{broker.bootstrap}/{topic.topic}",
            read_model=postgres.create_database(),
            spool_folder=run.folder / "spool",
        )
        yield Ledger(
            name="Kafka and PostgreSQL",
            settings=settings,
            rebuilt=postgres.create_database(),
            images=run.size // _EVENTS_EACH // _KAFKA_SHARE,
            seed=run.seed,
        )


PROOF = Proof(
    name="poison",
    promise="one bad record in a hundred harms no other image, and all is mended afterwards",
    unit="records",
    least=2_000,
    short=20_000,
    long=1_000_000,
    check=check,
)
