"""The tables of hypervisors (READ_MODEL.md), written by the projection of the same name.

A hypervisor is known by its id. The host name of its compute service is an endpoint, and has a
history of its own; the primary key of that serves every as-of question about one hypervisor.
"""

from sqlalchemy import Column, Index, Integer, Table, Text

from metaledger.schemas.tables.base import METADATA, UtcTime, View

hypervisors = Table(
    "hypervisors",
    METADATA,
    Column("hypervisor_id", Text, primary_key=True, comment="The hypervisor's id."),
    Column(
        "host",
        Text,
        comment="The host name of its compute service, as last known; null: nobody told.",
    ),
    Column(
        "id_source",
        Text,
        comment="Where its id comes from: NATIVE (its driver), FILE (Nova's compute_id file) or "
        "DERIVED; null: nobody told.",
    ),
    Column("hypervisor_hostname", Text, comment="The name that its driver gives it, as last told."),
    Column("hypervisor_type", Text, comment="What it is, such as QEMU, as last told."),
    Column("registered_at", UtcTime, comment="When it was registered; null: nobody saw it."),
    Column(
        "registration_told_at",
        UtcTime,
        comment="Since when its registration is known: as registered_at, or, where it was found "
        "there first, when it was met or imported; null: nobody told of any registration.",
    ),
    Column("removed_at", UtcTime, comment="When it was removed; null: it is there."),
    Column("last_event_id", Text, nullable=False, comment="The last event that told of it."),
    comment="Every hypervisor that the ledger has heard of, removed ones too.",
)

hypervisor_hosts = Table(
    "hypervisor_hosts",
    METADATA,
    Column("hypervisor_id", Text, primary_key=True, comment="The hypervisor's id."),
    Column(
        "version",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="1, 2, 3 … for each hypervisor.",
    ),
    Column("host", Text, nullable=False, comment="The host name of its compute service."),
    Column("valid_from", UtcTime, nullable=False, comment="Since when it had this host name."),
    Column("valid_to", UtcTime, comment="Until when, this time excluded; null: it has it now."),
    Column("set_by_event", Text, nullable=False, comment="The event that set it."),
    Column(
        "set_via",
        Text,
        nullable=False,
        comment="registered, changed, or unseen: found set, nobody saw how.",
    ),
    Column("ended_by_event", Text, comment="The event that ended it; null: it has it now."),
    Column(
        "end_reason",
        Text,
        comment="changed, removed (with the hypervisor), or unseen; null: it has it now.",
    ),
    # Who had this name?
    Index(None, "host"),
    comment="Every host name that a hypervisor ever had: one row an interval.",
)

TABLES: tuple[Table, ...] = (hypervisors, hypervisor_hosts)
VIEWS: tuple[View, ...] = ()
