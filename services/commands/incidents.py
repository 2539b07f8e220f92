"""The five incidents that `demo` tells: what happened, what was lost, and what to ask the ledger.

The events of each stand in `demo/` beside the commands' package. Pure data, but for the commands
that are asked, which are those that a user types.
"""

from collections.abc import Callable
from dataclasses import dataclass

from metaledger.services.commands import anomalies, guard, hypervisor, image, instance, lineage
from metaledger.services.shell import Shell


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A command line behind `metaledger`, the command that it is, and what to see in its answer."""

    says: str
    words: str
    ask: Callable[[Shell], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """`lost`: what the service did, and what nobody could say afterwards."""

    name: str
    title: str
    link: str
    lost: str
    file: str
    questions: tuple[Question, ...]


_IMAGE = "f411e336-fdd2-4d9b-8fd6-78dfe6809d3b"
_REGISTERED = "2011-12-08T17:00:30Z"
_BOOTED = "0b7a4f2e-6d1c-4c3e-9a51-3f0f6f1d2c11"
_RESCUED = "2015-05-04T09:30:00Z"
_SNAPSHOT = "cccccccc-3333-4333-8333-333333333333"
_HYPERVISOR, _HOST = "3b1f6c1e-8a55-4f3e-9d2e-0c6f5d3f7a10", "renamed"
_ALIVE, _EVACUATED = (f"e1000000-0000-4000-8000-{number:012}" for number in (1, 2))
_DISKS = "f5000000-0000-4000-8000-000000000001"


def _noticed(kind: str) -> Question:
    return Question(
        says="It was noticed when it happened.",
        words=f"anomalies --kind {kind}",
        ask=lambda shell: anomalies.anomalies(shell, kind=kind),
    )


INCIDENTS = (
    Incident(
        name="purge",
        title="A snapshot loses its properties",
        link="https://bugs.launchpad.net/glance/+bug/901534",
        lost="Nova registered a snapshot, and said with its properties where it comes from. The "
        "upload of its data carries properties too, and the Glance of then took them for the whole "
        "set: what they did not name it purged. Its tables call the old rows deleted, and say "
        "neither when nor by whom, nor what was meant.",
        file="1-purge-on-upload.jsonl",
        questions=(
            Question(
                says="What Glance shows now: even that it is a snapshot is gone.",
                words=f"image show {_IMAGE}",
                ask=lambda shell: image.show(shell, _IMAGE),
            ),
            Question(
                says="What the ledger still knows: each key, and why it is gone or there.",
                words=f"image explain {_IMAGE}",
                ask=lambda shell: image.explain(shell, _IMAGE),
            ),
            Question(
                says="And the image as it was before the upload.",
                words=f"image show {_IMAGE} --as-of {_REGISTERED}",
                ask=lambda shell: image.show(shell, _IMAGE, _REGISTERED),
            ),
            _noticed("properties_lost_to_purge"),
        ),
    ),
    Incident(
        name="boot-metadata",
        title="An instance forgets what it booted with",
        link="https://bugs.launchpad.net/nova/+bug/1460079",
        lost="An instance booted with a virtio disk. Its image was changed to scsi, and when an "
        "interface was attached Nova put the image's current metadata over what it had stored at "
        "boot: the next reboot would have changed the hardware below a running system.",
        file="2-boot-metadata-overwritten.jsonl",
        questions=(
            Question(
                says="What the instance has by right stands beside what Nova stored over it.",
                words=f"instance metadata {_BOOTED}",
                ask=lambda shell: instance.metadata(shell, _BOOTED),
            ),
            Question(
                says="While it was rescued, operations used the rescue image's, and only then.",
                words=f"instance metadata {_BOOTED} --as-of {_RESCUED}",
                ask=lambda shell: instance.metadata(shell, _BOOTED, _RESCUED),
            ),
            _noticed("boot_metadata_overwritten"),
        ),
    ),
    Incident(
        name="lost-base",
        title="A rebuild drops what a snapshot descends from",
        link="https://review.opendev.org/c/openstack/nova/+/305079",
        lost="A rebuild deletes every image_ key of an instance's metadata, image_base_image_ref "
        "among them. So a snapshot that is taken later has no base_image_ref, and nothing in "
        "Glance or Nova says any more which image it is made of.",
        file="3-rebuild-drops-base-image-ref.jsonl",
        questions=(
            Question(
                says="The instance was running image B when the snapshot was taken: no property is "
                "needed to know it.",
                words=f"image lineage {_SNAPSHOT}",
                ask=lambda shell: lineage.lineage(shell, _SNAPSHOT),
            ),
            Question(
                says="Which snapshot it is, of which instance.",
                words=f"snapshot show {_SNAPSHOT}",
                ask=lambda shell: lineage.show(shell, _SNAPSHOT),
            ),
            _noticed("base_image_ref_dropped"),
        ),
    ),
    Incident(
        name="renamed-host",
        title="A changed host name deletes every instance",
        link="https://bugs.launchpad.net/nova/+bug/1419785",
        lost="A compute host was given another name. nova-compute started, saw instances on its "
        "hypervisor that belong to another host by name, took all of them for evacuated, and "
        "destroyed them.",
        file="4-hostname-change.jsonl",
        questions=(
            Question(
                says="A hypervisor is its id: its name changed, and nothing moved.",
                words=f"hypervisor history {_HYPERVISOR}",
                ask=lambda shell: hypervisor.history(shell, _HYPERVISOR),
            ),
            Question(
                says="Whoever asks first is told which instance is really gone elsewhere.",
                words=f"guard --hypervisor {_HYPERVISOR} --host {_HOST} --instance {_ALIVE}"
                f" --instance {_EVACUATED} --offline",
                ask=lambda shell: guard.guard(
                    shell, _HYPERVISOR, _HOST, [_ALIVE, _EVACUATED], offline=True
                ),
            ),
            _noticed("hypervisor_host_changed"),
        ),
    ),
    Incident(
        name="disk-layout",
        title="A disk is what the configuration says",
        link="https://blueprints.launchpad.net/nova/+spec/libvirt-instance-storage",
        lost="libvirt's driver inferred how a disk is laid out from the configuration of the "
        "moment. A host that was configured anew, or another one, took a qcow2 file for a raw one, "
        "which at best fails and at worst lets a tenant read the host's files.",
        file="5-disk-layout.jsonl",
        questions=(
            Question(
                says="What was recorded before the disk came into being stands, whatever a node "
                "infers later; also of the one that failed.",
                words=f"instance disks {_DISKS}",
                ask=lambda shell: instance.disks(shell, _DISKS),
            ),
            _noticed("disk_layout_mismatch"),
        ),
    ),
)
