"""The section `[metaledger]` of the service's own configuration file; the defaults serve.

Read through oslo.config where the service has loaded it, once for each engine, when the service has
parsed its files. This module imports nothing of oslo, and defaults hold where there is none.
"""

import platform
import sys
from dataclasses import dataclass, fields

from metaledger.schemas.codec import EVENT_BYTES_MAX

GROUP = "metaledger"
_HELP = {
    "strict": "Fail a change of an image rather than let it go unrecorded.",
    "outbox_rows_max": "The outbox takes no more events above this number of unsent ones.",
    "event_bytes_max": "A larger event carries digests in place of its before- and after-image.",
    "service": "The name under which this service stands in events.",
    "host": "The host that stands in events; the default is the machine's name.",
    "deployment_id": "The cloud region that the ledger belongs to.",
    "schema_ids_file": "The schema registry's ids, where events have the Confluent frame.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may choose for the hook in one service."""

    strict: bool = False
    outbox_rows_max: int = 1_000_000
    event_bytes_max: int = EVENT_BYTES_MAX
    service: str = "glance"
    host: str = platform.node()
    deployment_id: str = "default"
    schema_ids_file: str | None = None


def load() -> Settings:
    """The service's settings. A value of the wrong type raises oslo's own error at once, for an
    operator who chose something must not silently get something else.
    """  # noqa: D205
    cfg = sys.modules.get("oslo_config.cfg")
    if cfg is None:
        return Settings()
    options = {bool: cfg.BoolOpt, int: cfg.IntOpt}
    defaults = Settings()
    cfg.CONF.register_opts(
        [
            options.get(type(getattr(defaults, it.name)), cfg.StrOpt)(
                it.name, default=getattr(defaults, it.name), help=_HELP[it.name]
            )
            for it in fields(Settings)
        ],
        group=GROUP,
    )
    chosen = cfg.CONF[GROUP]
    return Settings(**{it.name: chosen[it.name] for it in fields(Settings)})
