"""The section `[metaledger]` of the service's own configuration file; the defaults serve.

Read through oslo.config where the service has loaded it, once for each engine, when the service has
parsed its files. This module imports nothing of oslo, and defaults hold where there is none.
"""

import platform
import sys
from pathlib import Path

from metaledger.producers.settings import ProducerSettings

GROUP = "metaledger"
_HELP = {
    "strict": "Fail a change rather than let it go unrecorded.",
    "outbox_rows_max": "The outbox takes no more events above this number of unsent ones.",
    "event_bytes_max": "A larger event carries digests in place of its before- and after-image.",
    "service": "The name under which this service stands in events.",
    "host": "The host that stands in events; the default is the machine's name.",
    "deployment_id": "The cloud region that the ledger belongs to.",
    "schema_ids_file": "The file of `metaledger schema register`; events get the Confluent frame.",
}


def load(service: str) -> ProducerSettings:
    """The settings; `service` is the name that it has in events unless they say another.

    A value of the wrong type raises oslo's own error at once: an operator who chose something must
    not get something else in silence.
    """
    defaults = ProducerSettings(service=service, host=platform.node())
    cfg = sys.modules.get("oslo_config.cfg")
    if cfg is None:
        return defaults
    options = {bool: cfg.BoolOpt, int: cfg.IntOpt}
    for name, text in _HELP.items():
        # It is another one for another service, and oslo takes an option once.
        default = None if name == "service" else getattr(defaults, name)
        option = options.get(type(default), cfg.StrOpt)
        cfg.CONF.register_opt(option(name, default=default, help=text), group=GROUP)
    chosen = {name: cfg.CONF[GROUP][name] for name in _HELP}
    chosen["service"] = chosen["service"] or service
    if chosen["schema_ids_file"] is not None:
        chosen["schema_ids_file"] = Path(chosen["schema_ids_file"])
    return ProducerSettings(**chosen)
