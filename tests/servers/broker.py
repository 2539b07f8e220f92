"""Apache Kafka as one local process: broker and controller in one node (KRaft).

Topics are made by name only (`auto.create.topics.enable=false`), groups start without a delay, and
a record may be larger than kafka-python's own limit of 1 MB, so that it is the client's limit that
is met first. Sessions may be short, a consumer's and the broker's own: a killed consumer's
partitions and a killed broker's place are free again after that time and no sooner.
"""

import base64
import subprocess
import uuid
from pathlib import Path

from .interface import ServerFailed
from .process import HOST, LocalServer, accepts_connections, free_port, new_folder
from .proxy import Proxy

JAVA_LEAST = 17

# C1 alone and the simplest collector: up in 2 s, where the defaults take 4 s on two cores.
JAVA_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes=4194304
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class LocalBroker(LocalServer):
    """Its topics survive `stop` and `kill`: they stand in its folder until `close`."""

    def __init__(self, *, java: Path, jars: Path) -> None:
        folder = new_folder("kafka")
        port = free_port()
        self._bootstrap = f"{HOST}:{port}"
        properties = folder / "server.properties"
        properties.write_text(server_properties(port, data=folder / "data"))
        classes = ("-cp", f"{jars}/*")
        _format_storage([str(java), *JAVA_OPTIONS, *classes], properties)
        log = Path(__file__).with_name("log4j2.properties")
        options = (*JAVA_OPTIONS, "-Xmx512m", f"-Dlog4j2.configurationFile={log}")
        super().__init__(
            [str(java), *options, *classes, "kafka.Kafka", str(properties)],
            folder=folder,
            answers=lambda: broker_answers(port),
        )

    @property
    def bootstrap(self) -> str:
        return self._bootstrap


def server_properties(port: int, *, data: Path) -> str:
    return _PROPERTIES.format(host=HOST, port=port, controller_port=free_port(), data=data)


def broker_answers(port: int) -> bool:
    """True when the cluster lists a broker: it listens a moment before it may serve."""
    # Not at the top: the client warns when it is imported, and conftest.py, which comes here, is
    # imported before pytest knows that this warning may pass.
    from kafka.admin import KafkaAdminClient  # noqa: PLC0415
    from kafka.errors import KafkaError  # noqa: PLC0415

    if not accepts_connections(port):
        return False
    try:
        admin = KafkaAdminClient(bootstrap_servers=f"{HOST}:{port}", request_timeout_ms=2_000)
    except KafkaError:
        return False
    try:
        return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False
    finally:
        admin.close()


def _format_storage(java: list[str], properties: Path) -> None:
    # The first byte is zero, or one id in 64 would begin with "-" and be read as an option.
    cluster_id = base64.urlsafe_b64encode(b"\0" + uuid.uuid1().bytes[1:]).decode().rstrip("=")
    done = subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"StorageTool format:\n{done.stdout}{done.stderr}")


class FarBroker(LocalBroker):
    """A broker that can also be reached by a bad network: `far` is its address there."""

    def __init__(self, *, java: Path, jars: Path) -> None:
        super().__init__(java=java, jars=jars)
        self.network = Proxy()
        self.far = f"{HOST}:{self.network.port}"
        port = free_port()
        self.network.forward_to(port)
        properties = self._folder / "server.properties"
        text = properties.read_text()
        held = dict(line.split("=", 1) for line in text.splitlines())
        # Of two lines for one property the later counts.
        properties.write_text(
            f"{text}listeners={held['listeners']},FAR://{HOST}:{port}\n"
            f"advertised.listeners={held['advertised.listeners']},FAR://{self.far}\n"
            "listener.security.protocol.map="
            "PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
        )

    def start(self) -> None:  # type: ignore[explicit-override]
        self.network.open()
        super().start()

    def close(self) -> None:  # type: ignore[explicit-override]
        super().close()
        self.network.close()
