"""Where the counter is locked already, the next number is guessed, and the database compares."""

import pytest
from sqlalchemy import update

from metaledger.producers import administration
from metaledger.producers.tables import counters
from metaledger.schemas.meta import Origin

from .kit import Service, draft, numbers, told
from .test_outbox import statements


def record_held(service: Service, *values: str, image: str = "a") -> None:
    """As a hook does: locks first, and records just before the commit."""
    with service.engine.begin() as connection:
        held = service.outbox.lock(connection, [f"image:{image}"])
        service.outbox.record(connection, [draft(image, value) for value in values], held=held)


def test_a_counter_that_is_held_is_not_asked_again(service: Service) -> None:
    record_held(service, "1")
    service.commit_change("a", "2")
    with service.engine.begin() as connection:
        held = service.outbox.lock(connection, ["image:a"])
        seen = statements(service.engine)
        service.outbox.record(connection, [draft("a", "3")], held=held)
    # The counter and the outbox's row, in one where a round trip is spared by that.
    assert len(seen) == (2 if service.engine.dialect.name == "sqlite" else 1)
    assert not any("ON CONFLICT" in it or "ON DUPLICATE" in it for it in seen)
    record_held(service, "4", "5")
    record_held(service, "6")
    assert numbers(service.waiting()) == [("image:a", 1, seq) for seq in range(1, 7)]
    assert [value for _, value in told(service.waiting())] == ["1", "2", "3", "4", "5", "6"]


def test_a_number_that_was_given_meanwhile_is_not_given_again(service: Service) -> None:
    record_held(service, "1")
    with service.engine.begin() as connection:
        held = service.outbox.lock(connection, ["image:a"])
        for value in ("2", "3", "4"):
            service.outbox.record(connection, [draft("a", value)], held=held)
    assert numbers(service.waiting()) == [("image:a", 1, seq) for seq in (1, 2, 3, 4)]


def test_a_savepoint_that_was_rolled_back_took_the_number_with_it(service: Service) -> None:
    record_held(service, "1")
    with service.engine.begin() as connection:
        held = service.outbox.lock(connection, ["image:a"])
        with service.outbox.shield(connection, ["image:b"]):
            service.outbox.record(connection, [draft("a", "undone")], held=held)
            raise ValueError
        service.outbox.record(connection, [draft("a", "2")], held=held)
    assert told(service.waiting()) == [("a", "1"), ("a", "2")]
    assert numbers(service.waiting()) == [("image:a", 1, 1), ("image:a", 1, 2)]


@pytest.mark.parametrize("image", ["a", "b"])
def test_a_reseed_since_the_last_event_counts_anew(service: Service, image: str) -> None:
    """Of an aggregate with a counter of the older epoch, and of one without."""
    record_held(service, "1")
    administration.reseed(service.engine)
    with service.engine.begin() as connection:
        connection.execute(update(counters).values(unrecorded_since=None))
    record_held(service, "2", image=image)
    # Now the new epoch is known.
    record_held(service, "3", image=image)
    record_held(service, "4", image="a")
    made = numbers(service.waiting())
    assert made[0] == ("image:a", 1, 1)
    assert [it[1:] for it in made if it[0] == f"image:{image}" and it[1] == 2][:2] == [
        (2, 1),
        (2, 2),
    ]
    assert len(made) == 4


def test_a_mark_that_was_set_meanwhile_is_taken_by_what_mends_it(service: Service) -> None:
    record_held(service, "1")
    with service.engine.begin() as connection:
        held = service.outbox.lock(connection, ["image:a"])
        service.outbox.mark_unrecorded(connection, ["image:a"])
        mending = draft("a", "2", origin=Origin.RECONCILED)
        service.outbox.record(connection, [mending], held=held)
    assert service.status().unrecorded_aggregates == 0
    assert numbers(service.waiting()) == [("image:a", 1, 1), ("image:a", 1, 2)]


def test_a_counter_that_is_marked_is_mended_though_it_is_held(service: Service) -> None:
    record_held(service, "1")
    with service.engine.begin() as connection:
        service.outbox.mark_unrecorded(connection, ["image:a"])
    with service.engine.begin() as connection:
        held = service.outbox.lock(connection, ["image:a"])
        mending = draft("a", "2", origin=Origin.RECONCILED)
        service.outbox.record(connection, [mending], held=held)
    assert service.status().unrecorded_aggregates == 0
