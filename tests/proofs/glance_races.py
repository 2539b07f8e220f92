"""PATCHes of a real Glance on MariaDB that race: what it loses of them is told, and nothing else.

Two workers serve two clients. Both requests of a pair are held until both have read the image. Then
they save at the same moment or, in every second pair, one after the other, which loses what the
first has added. Each adds a key of its own, and one in four removes one that both have read. An
addition that Glance answered 200 to, and that no request took away, is in the image afterwards, or
an anomaly that names its value. So is one whose request was answered with an error after its
transaction had been committed; the outbox says which ones those were.
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.glance.client import Client
from tests.glance.config import Extra
from tests.glance.conftest import GATE, PLUGIN
from tests.glance.environment import ensure_environment, install_product
from tests.glance.ledger import changes, install_outbox, recorded
from tests.glance.readmodel import ReadModel
from tests.glance.service import Glance
from tests.servers import choice

from .proof import Proof, Run, running

# Each PATCH writes all properties that the image ever had.
PAIRS_AN_IMAGE = 10
KEPT = ("kept_0", "kept_1", "kept_2")
SIDES = ("left", "right")
REMOVING = 0.25


@dataclass(frozen=True, slots=True)
class Asked:
    """What one PATCH of a pair adds, and the key that it removes, if any."""

    key: str
    value: str
    removes: str | None


@dataclass(frozen=True, slots=True)
class Sent:
    """A PATCH, and how it was answered."""

    asked: Asked
    status: int


@dataclass(frozen=True, slots=True)
class Raced:
    """All PATCHes of an image, pair by pair, and the properties that it has at the end."""

    sent: list[Sent]
    held: dict[str, str]


def check(run: Run) -> None:
    environment = ensure_environment()
    product = install_product(environment, run.folder / "product")
    with running(choice.new_mariadb) as server:
        folder = run.folder / "glance"
        folder.mkdir()
        glance = Glance(
            *(environment, folder),
            product=product,
            database_url=server.create_database(),
            extra=Extra(database_options=PLUGIN, filters=GATE),
            processes=2,
        )
        glance.sync_database()
        install_outbox(glance.database_url)
        try:
            glance.start()
            raced = _race(run, glance)
        finally:
            glance.stop()
        _compare(run, glance, raced)


def _race(run: Run, glance: Glance) -> dict[str, Raced]:
    client, random = glance.client(), run.random
    gates = [run.folder / side for side in SIDES]
    for gate in gates:
        os.mkfifo(gate)
    raced = {}
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, run.size, PAIRS_AN_IMAGE):
            image_id = client.create(name="raced", **dict.fromkeys(KEPT, "v")).body["id"]
            sent: list[Sent] = []
            for number in range(start, min(start + PAIRS_AN_IMAGE, run.size)):
                held = sorted(_properties(client, image_id))
                asked = [_asked(f"{number}_{side}", held, random) for side in SIDES]
                patches = [
                    pool.submit(_patch, glance, image_id, one, gate)
                    for one, gate in zip(asked, gates, strict=True)
                ]
                # To open one for writing returns once its request has read the image.
                with gates[1].open("w"):
                    with gates[0].open("w"):
                        pass
                    if number % 2:
                        patches[0].result()
                sent += [patch.result() for patch in patches]
            raced[image_id] = Raced(sent, _properties(client, image_id))
    return raced


def _asked(name: str, held: list[str], random: Random) -> Asked:
    removes = random.choice(held) if held and random.random() < REMOVING else None
    return Asked(f"added_{name}", f"value of {name}", removes)


def _patch(glance: Glance, image_id: str, asked: Asked, gate: Path) -> Sent:
    operations = [{"op": "add", "path": f"/{asked.key}", "value": asked.value}]
    if asked.removes is not None:
        operations.append({"op": "remove", "path": f"/{asked.removes}"})
    answer = glance.client(headers={"X-Gate": str(gate)}).patch(image_id, operations)
    return Sent(asked, answer.status)


def _properties(client: Client, image_id: str) -> dict[str, str]:
    body = client.get(image_id).body
    return {key: body[key] for key in body if key.startswith(("kept_", "added_"))}


def _compare(run: Run, glance: Glance, raced: dict[str, Raced]) -> None:
    read_model = ReadModel(run.folder, glance.database_url)
    read_model.catch_up()
    tally: Counter[str] = Counter()
    for image_id, it in raced.items():
        answered = {sent.asked.key: sent.asked.value for sent in it.sent if sent.status == 200}
        events = changes(recorded(glance.database_url, image_id))
        committed = {key for change in events for key in change.after or ()}
        assert answered.keys() <= committed, "an addition was answered 200, and no event tells it"
        added = {
            sent.asked.key: sent.asked.value for sent in it.sent if sent.asked.key in committed
        }
        removed = {sent.asked.removes for sent in it.sent}
        gone = {key: added[key] for key in added.keys() - it.held.keys() - removed}
        told, kinds = read_model.lost(image_id), read_model.anomalies(image_id)
        assert told == gone, f"{image_id}: the ledger tells {told}, and Glance has lost {gone}"
        assert set(kinds) <= {"properties_lost_to_purge"}, f"{image_id}: {kinds}"
        assert read_model.properties(image_id) == it.held
        tally.update(f"answered {sent.status}" for sent in it.sent)
        tally["additions lost"] += len(gone)
        tally["of these answered with an error"] += len(gone.keys() - answered.keys())
    read_model.close()
    run.say(", ".join(f"{name}: {count}" for name, count in sorted(tally.items())))
    assert tally["additions lost"], "no race was lost, so nothing was shown"


PROOF = Proof(
    name="glance-races",
    promise="what a real Glance on MariaDB loses of PATCHes that race is an anomaly, and no more",
    unit="pairs of PATCHes",
    least=1,
    short=200,
    long=2_000,
    check=check,
)
