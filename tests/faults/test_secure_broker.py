"""The commands and the daemons on a broker that asks for TLS and a password, or a certificate."""

import signal
from uuid import uuid4

import pytest
from kafka.admin import KafkaAdminClient, UserScramCredentialUpsertion

from ..log.secure import PASSWORD, USER
from ..log.test_security import secure_broker  # noqa: F401 (a fixture)
from ..services.test_kafka import emit_into
from ..services.waiting import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

LEDGER = """\
ledger = "kafka://{bootstrap}/{topic}"
[relay]
spool = "spool.db"
[kafka]
tls_ca_file = "{folder}/ca.crt"
"""
BY_PASSWORD = """\
sasl_mechanism = "{mechanism}"
sasl_username = "{user}"
sasl_password = "{password}"
"""
BY_CERTIFICATE = """\
tls_cert_file = "{folder}/client.crt"
tls_key_file = "{folder}/client.key"
"""


@pytest.fixture(params=["SCRAM-SHA-256", "SCRAM-SHA-512", "a certificate"])
def configured(request, home, secure_broker):  # noqa: F811
    """A configuration that the broker lets in, with a topic of its own."""
    folder = secure_broker.certificates
    if request.param == "a certificate":
        access, bootstrap = BY_CERTIFICATE.format(folder=folder), secure_broker.tls
    else:
        access = BY_PASSWORD.format(mechanism=request.param, user=USER, password=PASSWORD)
        bootstrap = secure_broker.secure
        with KafkaAdminClient(bootstrap_servers=secure_broker.bootstrap) as admin:
            user = UserScramCredentialUpsertion(USER, request.param, PASSWORD)
            admin.alter_user_scram_credentials([user])
    ledger = LEDGER.format(bootstrap=bootstrap, topic=f"secure-{uuid4().hex}", folder=folder)
    (home / "c.toml").write_text(ledger + access)
    return ("--config", "c.toml")


def test_relay_and_projector_are_let_in_and_tell_no_password(metaledger, start, home, configured):
    assert metaledger(*configured, "topic", "create", "--replication", 1).status == 0
    relay = start(*configured, "relay")
    projector = start(*configured, "project", "--follow", "--group", "g")
    emit_into(home / "spool.db")
    wait_for(lambda: metaledger("image", "show", "i-1").status == 0)
    told = [metaledger(*configured, command) for command in ("status", "doctor", "events")]
    assert [one.status for one in told] == [0, 0, 0]
    for daemon in (relay, projector):
        daemon.send_signal(signal.SIGTERM)
    texts = [text for one in told for text in (one.out, one.err)]
    for daemon in (relay, projector):
        texts += daemon.communicate(timeout=60)
        assert daemon.returncode == 0
    assert not [text for text in texts if PASSWORD in text]


def test_who_may_not_in_is_told_so_in_one_line(metaledger, home, secure_broker):  # noqa: F811
    """Without a password, and without a certificate."""
    for bootstrap in (secure_broker.secure, secure_broker.tls):
        ledger = LEDGER.format(bootstrap=bootstrap, topic="t", folder=secure_broker.certificates)
        (home / "c.toml").write_text(ledger)
        for command in (("relay",), ("project", "--follow")):
            result = metaledger("--config", "c.toml", *command)
            assert (result.status, result.out) == (3, "")
            assert result.err.splitlines()[-1].startswith(f"metaledger: Kafka at {bootstrap}")
