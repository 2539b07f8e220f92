"""Counters and records in one file and one transaction: how a file of events is emitted."""

import pytest

from metaledger.producers.administration import install_in
from metaledger.producers.outbox import Outbox
from metaledger.schemas.log.embedded import EmbeddedLog

from .kit import CODEC, SETTINGS, Clock, Halted, assert_runs_without_holes, draft, logged


def test_numbering_and_appending_are_one_transaction(log: EmbeddedLog) -> None:
    clock = Clock()
    outbox = Outbox(SETTINGS, CODEC, clock=clock)

    def emit(*, halted: bool) -> None:
        with log.transaction() as connection:
            install_in(connection, clock=clock, new_id=lambda _now: "the-stream")
            records = outbox.number(connection, [draft("a"), draft("b"), draft("a")])
            log.append_in(connection, records)
            if halted:
                raise Halted

    with pytest.raises(Halted):
        emit(halted=True)
    assert logged(log) == []
    emit(halted=False)
    emit(halted=False)
    assert len(logged(log)) == 6
    assert_runs_without_holes(log)
