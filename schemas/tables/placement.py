"""Where instances are, by hypervisor: what stays and hypervisors' host names say together.

A stay that was recorded by host name alone is on the one hypervisor that had this name in the time
of the stay. That is derived whenever it is asked, so it mends itself when a hypervisor becomes
known, and nothing is guessed: where several had the name, or one of them is ironic's (a host of
which has many), the stay is ambiguous.
"""

from typing import Any

from sqlalchemy import Select, and_, case, func, literal, null, or_, select, union_all

from metaledger.schemas.hypervisor import MANY_ON_A_HOST
from metaledger.schemas.tables.base import View
from metaledger.schemas.tables.hypervisor import hypervisor_hosts, hypervisors
from metaledger.schemas.tables.instance import instance_locations

_stay = instance_locations.c
_name = hypervisor_hosts.c
_HOW = (_stay.host, _stay.valid_from, _stay.valid_to, _stay.cause, _stay.set_by_event)
_HAD_THE_NAME = and_(
    _name.host == _stay.host,
    or_(_name.valid_to.is_(None), _name.valid_to > _stay.valid_from),
    or_(_stay.valid_to.is_(None), _name.valid_from < _stay.valid_to),
)


def _placed() -> Select[Any]:
    """The two kinds of stays apart, so that either database finds both by their indexes."""
    ids = func.count(_name.hypervisor_id.distinct())
    ironic = func.count(case((hypervisors.c.hypervisor_type == MANY_ON_A_HOST, 1)))
    is_one = and_(ids == 1, ironic == 0)
    told = select(
        _stay.instance_uuid,
        _stay.version,
        _stay.hypervisor_id.label("told_hypervisor_id"),
        _stay.hypervisor_id,
        literal("id").label("resolved_by"),
        *_HOW,
    ).where(_stay.hypervisor_id.is_not(None))
    derived = (
        select(
            _stay.instance_uuid,
            _stay.version,
            null().label("told_hypervisor_id"),
            case((is_one, func.min(_name.hypervisor_id))).label("hypervisor_id"),
            case((is_one, "host"), (ids == 0, "unknown"), else_="ambiguous").label("resolved_by"),
            *_HOW,
        )
        .select_from(
            instance_locations.outerjoin(hypervisor_hosts, _HAD_THE_NAME).outerjoin(
                hypervisors, hypervisors.c.hypervisor_id == _name.hypervisor_id
            )
        )
        .where(_stay.hypervisor_id.is_(None))
        .group_by(_stay.instance_uuid, _stay.version)
    )
    return select(union_all(told, derived).subquery("stays"))


instance_hypervisors = View(
    name="instance_hypervisors",
    comment="Every stay of an instance, with the hypervisor that follows from a host name alone.",
    columns={
        "instance_uuid": "The instance's uuid.",
        "version": "1, 2, 3 … for each instance, as in instance_locations.",
        "told_hypervisor_id": "The hypervisor that was told; null: its host name alone was.",
        "hypervisor_id": "The hypervisor that was told, else the one that follows from the host.",
        "resolved_by": "id (told), host (one hypervisor had this name in that time), ambiguous "
        "(several had it, or one of ironic's), or unknown (none had it, as far as is known).",
        "host": "The hypervisor's host name when the instance came there.",
        "valid_from": "Since when it was there.",
        "valid_to": "Until when, this time excluded; null: it is there.",
        "cause": "Why it came, as in instance_locations.",
        "set_by_event": "The event that told that it came.",
    },
    select=_placed(),
)

VIEWS: tuple[View, ...] = (instance_hypervisors,)
