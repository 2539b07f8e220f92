"""What `[metaledger]` of nova.conf says to nova-compute; the defaults serve.

The options that all hooks share are read where all hooks read them; these are nova-compute's own.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from metaledger.producers.settings import ProducerSettings
from metaledger.producers.watching import settings

# A folder of nova-compute's user: that of Metaledger's own daemons belongs to theirs.
SPOOL = Path("/var/lib/metaledger-nova/spool.db")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """`spool` is the file that `metaledger relay --spool` empties. With `disks` no disk is made
    whose intent is not in it: the line that loads the driver asks for that, and who wants the
    notifications alone says so.
    """

    producer: ProducerSettings
    spool: Path = SPOOL
    disks: bool = True


def load() -> ComputeSettings:
    """The settings as they are now. Raises oslo's own error for a value of the wrong type."""
    producer = settings.load("nova-compute")
    cfg = sys.modules.get("oslo_config.cfg")
    if cfg is None:
        return ComputeSettings(producer=producer)
    options = (
        cfg.StrOpt("spool", default=str(SPOOL), help="Where nova-compute keeps unsent events."),
        cfg.BoolOpt(
            "disks",
            default=True,
            help="Record each disk's intent before it is made; without one it is not made.",
        ),
    )
    cfg.CONF.register_opts(options, group=settings.GROUP)
    given = cfg.CONF[settings.GROUP]
    return ComputeSettings(producer=producer, spool=Path(given.spool), disks=given.disks)
