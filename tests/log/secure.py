"""A broker that lets nobody in without TLS and a password; SCRAM users are made by its admin."""

import subprocess
from pathlib import Path

from ..servers.broker import LocalBroker
from ..servers.process import HOST, free_port

USER, PASSWORD = "relay", "open-sesame-4711"

_PROPERTIES = """\
listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{secure_port},SSL://{host}:{tls_port},\
CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{secure_port},\
SSL://{host}:{tls_port}
listener.security.protocol.map=\
PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.crt
listener.name.ssl.ssl.client.auth=required
"""


class SecureBroker(LocalBroker):
    """`bootstrap` is open to its administrator; `secure` asks for a password, `tls` for a client's
    certificate. The files of `certificates` belong to it.
    """

    def __init__(self, *, java: Path, jars: Path) -> None:
        super().__init__(java=java, jars=jars)
        self.certificates = self._folder
        make_certificates(self._folder)
        secure_port, tls_port = free_port(), free_port()
        self.secure, self.tls = f"{HOST}:{secure_port}", f"{HOST}:{tls_port}"
        properties = self._folder / "server.properties"
        lines = properties.read_text().splitlines()
        held = dict(line.split("=", 1) for line in lines)
        controller_port = held["listeners"].rpartition(":")[2]
        kept = [line for line in lines if not line.startswith(("listeners=", "advertised."))]
        added = _PROPERTIES.format(
            host=HOST,
            port=self.bootstrap.rpartition(":")[2],
            secure_port=secure_port,
            tls_port=tls_port,
            controller_port=controller_port,
            folder=self._folder,
            user=USER,
            password=PASSWORD,
        )
        properties.write_text("\n".join(kept) + "\n" + added)


def make_certificates(folder: Path) -> None:
    """An authority, the server's certificate for loopback, and a client's."""
    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    _openssl(folder, "req", "-x509", *key, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    (folder / "extensions").write_text(f"subjectAltName=IP:{HOST}\n")
    for name in ("server", "client"):
        request = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        _openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", *request)
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        files = ("-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", "extensions")
        _openssl(folder, "x509", "-req", *signed, *files)
    both = (folder / "server.key").read_text() + (folder / "server.crt").read_text()
    (folder / "server.pem").write_text(both)


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
