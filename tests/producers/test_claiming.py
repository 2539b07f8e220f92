"""What is new is numbered as it is locked, and many rows are copied: as every other event."""

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from metaledger.producers.copying import can_copy, copies
from metaledger.schemas.events import StreamNumber

from .kit import POSTGRESQL, Service, draft, numbers, on, told
from .test_outbox import statements


def record_claimed(
    service: Service, connection: Connection, claimed: list[str], *recorded: str
) -> None:
    """As an import does: claims, and records what it then finds."""
    counters, firsts = service.outbox.claim(connection, [f"image:{it}" for it in claimed])
    assert set(counters) == {f"image:{it}" for it in claimed}
    service.outbox.record(connection, [draft(it) for it in recorded], claimed=firsts)


def test_what_is_claimed_counts_from_1_and_goes_on(service: Service) -> None:
    service.commit_change("b", "x")
    with service.engine.begin() as connection:
        record_claimed(service, connection, ["c", "b", "a"], "a", "b", "a", "c")
    for image in ("a", "c"):
        service.commit_change(image, "x")
    assert numbers(service.waiting()) == [
        *(("image:a", 1, seq) for seq in (1, 2, 3)),
        *(("image:b", 1, seq) for seq in (1, 2)),
        *(("image:c", 1, seq) for seq in (1, 2)),
    ]


@pytest.mark.parametrize("recorded", [(), ("a",)])
def test_a_number_that_nothing_took_leaves_no_hole(
    service: Service, recorded: tuple[str, ...]
) -> None:
    with service.engine.begin() as connection:
        record_claimed(service, connection, ["a", "b"], *recorded)
    with service.engine.begin() as connection:
        assert service.outbox.lock(connection, ["image:b"])["image:b"].is_new
    service.commit_change("b", "x")
    service.commit_change("b", "y")
    found = [it for it in numbers(service.waiting()) if it[0] == "image:b"]
    assert found == [("image:b", 1, 1), ("image:b", 1, 2)]


def test_what_was_locked_before_is_new_and_not_claimed(service: Service) -> None:
    with service.engine.begin() as connection:
        service.outbox.lock(connection, ["image:a"])
    with service.engine.begin() as connection:
        counters, firsts = service.outbox.claim(connection, ["image:a"])
        assert counters["image:a"].is_new
        assert not firsts


def test_a_rollback_takes_a_claim_with_it(service: Service) -> None:
    with service.engine.connect() as connection:
        record_claimed(service, connection, ["a"], "a")
        connection.rollback()
    service.commit_change("a", "x")
    assert numbers(service.waiting()) == [("image:a", 1, 1)]


@on(POSTGRESQL)
def test_a_claim_spares_the_second_statement(service: Service) -> None:
    with service.engine.begin() as connection:
        _, firsts = service.outbox.claim(connection, ["image:a", "image:b"])
        assert {it.stream_seq for it in firsts.values()} == {1}
        seen = statements(service.engine)
        service.outbox.record(connection, [draft("a"), draft("b")], claimed=firsts)
    assert not any("metaledger_counters" in it for it in seen)


@on(POSTGRESQL)
def test_rows_are_copied_as_they_are(service: Service) -> None:
    images = ["a\\", "a\tb", "a\nb", "a\rb", "\\.", "\\N", '"', "ä🖼", "a"]
    engine = copies(copies(service.engine))
    with engine.begin() as connection:
        assert can_copy(connection)
        seen = statements(engine)
        service.outbox.record(connection, [draft(it) for it in images])
    assert any(it.startswith("COPY") for it in seen)
    assert sorted(told(service.waiting())) == sorted((it, "x") for it in images)
    assert {it[0] for it in numbers(service.waiting())} == {f"image:{it}" for it in images}


@on(POSTGRESQL)
def test_a_copy_that_fails_is_an_error_as_any_other(service: Service) -> None:
    engine = copies(service.engine)
    service.commit_change("a", "x")
    (stream_id,) = {it.meta.stream_id for it in service.waiting()}
    again = StreamNumber(stream_id=stream_id, epoch=1, stream_seq=1)
    with engine.begin() as connection, pytest.raises(DBAPIError, match="metaledger_outbox_number"):
        service.outbox.record(connection, [draft("b"), draft("a")], claimed={"image:a": again})
    assert told(service.waiting()) == [("a", "x")]


def test_an_engine_that_cannot_copy_is_left_as_it_is(service: Service) -> None:
    engine = copies(service.engine)
    assert (engine is service.engine) == (service.engine.dialect.name != "postgresql")
    with service.engine.begin() as connection:
        assert not can_copy(connection)
