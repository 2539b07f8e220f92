"""What a disk's intent costs whoever makes disks: a transaction of the spool, and its sync.

Each recording is timed until the body of `creating` begins; its outcome is told untimed. Every
intent is of a new instance, as at a boot, and the two sizes take turns.
"""

import statistics
import time
from itertools import count

from metaledger.producers.disks import Disks, NewDisk
from metaledger.producers.settings import ProducerSettings
from metaledger.producers.spool import Spool
from metaledger.schemas.disk import DiskLayout, DiskSource, SourceKind

from .benchmark import Bench, Benchmark, Figure, Promise, Size, figure

_ROUNDS = 5
_NAMES = ("disk", "disk.local", "disk.swap")
_LAYOUT = DiskLayout(
    version="1.0",
    backend="qcow2",
    format="qcow2",
    size_bytes=20 * 2**30,
    source=DiskSource(kind=SourceKind.IMAGE, image_id="a5000000-0000-4000-8000-000000000009"),
    location="/var/lib/nova/instances/f5000000-0000-4000-8000-000000000001/disk",
)


def _batch(bench: Bench) -> Figure:
    settings = ProducerSettings(service="benchmark", host="here")
    disks = Disks(Spool(bench.folder / "spool.db", settings), settings.context)
    turns = 50 if bench.size is Size.QUICK else 100
    instances = (f"f5000000-0000-4000-8000-{number:012x}" for number in count())
    one, three = _NAMES[:1], _NAMES
    for names in (one, three) * 10:  # warms up
        _intend(disks, next(instances), names)
    ratios, seen = [], []
    for _ in range(_ROUNDS):
        times: dict[tuple[str, ...], list[float]] = {one: [], three: []}
        for _ in range(turns):
            for names in (one, three):
                times[names].append(_intend(disks, next(instances), names))
        medians = [statistics.median(times[names]) for names in (one, three)]
        ratios.append(medians[1] / medians[0])
        seen.append(medians)
    one_s, three_s = (statistics.median(part) for part in zip(*seen, strict=True))
    return figure(
        ratios,
        f"{three_s * 1e3:.2f} ms for three, {one_s * 1e3:.2f} ms for one, "
        f"median of {turns * _ROUNDS}",
    )


def _intend(disks: Disks, instance_uuid: str, names: tuple[str, ...]) -> float:
    new = [NewDisk(instance_uuid=instance_uuid, disk=name, layout=_LAYOUT) for name in names]
    started = time.perf_counter()
    with disks.creating(*new):
        return time.perf_counter() - started


BENCHMARKS = (
    Benchmark(
        name="disks-batch",
        measures="the intent of three disks in one batch, to that of one: until the disk is made",
        promise=Promise.AT_MOST,
        bound=1.5,
        unit="",
        run=_batch,
    ),
)
