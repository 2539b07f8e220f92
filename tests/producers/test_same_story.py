"""The service sees what it would see without us, and the outbox holds what was committed.

Each story runs twice on the same database, without events and with them.
"""

import pytest
from sqlalchemy.exc import DBAPIError

from .kit import Service, told
from .stories import (
    EVERY_STORY,
    Shop,
    Story,
    begin_to_read,
    seen,
    snapshot_engine,
    still_open,
)


@EVERY_STORY
def test_the_service_sees_what_it_would_see_without_us(service: Service, story: Story) -> None:
    without, recorded = Shop(service, emits=False), Shop(service, emits=True)
    without.prepare()
    expected = story(without), without.values(), sorted(service.values())
    recorded.prepare()
    assert (story(recorded), recorded.values(), sorted(service.values())) == expected
    assert service.outbox.failures == 0


@EVERY_STORY
def test_the_outbox_holds_what_was_committed_and_the_pool_no_transaction(
    service: Service, story: Story
) -> None:
    shop = Shop(service, emits=True)
    shop.prepare()
    story(shop)
    assert still_open(service) == 0
    assert sorted(told(service.waiting())) == sorted(service.values()) != []


def test_a_conflict_over_a_counter_goes_up_as_the_database_s_own(service: Service) -> None:
    """Under a snapshot the outbox may fail where the service's own rows would not."""
    shop = Shop(service, emits=True)
    shop.prepare()
    service.commit_change("a", "0")
    engine = snapshot_engine(shop)

    def overtaken() -> None:
        with engine.connect() as connection:
            begin_to_read(shop, connection)
            service.commit_change("a", "1")
            shop.emit(connection, "a", "mine")
            connection.commit()

    with pytest.raises(DBAPIError) as raised:
        overtaken()
    codes = {"mysql": "1020", "postgresql": "40001", "sqlite": "SQLITE_BUSY_SNAPSHOT"}
    assert seen(raised.value) == f"OperationalError: {codes[engine.dialect.name]}"
    assert still_open(service) == 0
    committed = [it for it in service.values() if it[0] == "a"]
    assert [it for it in told(service.waiting()) if it[0] == "a"] == committed
    assert committed == [("a", "0"), ("a", "1")]
    assert service.outbox.failures == 0
