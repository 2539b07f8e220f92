"""Kafka behind TLS, passwords and client certificates; and secrets that stay secrets."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from kafka.admin import KafkaAdminClient, UserScramCredentialUpsertion

from metaledger.schemas.errors import Unreachable, UsageError
from metaledger.schemas.log import Log, Position
from metaledger.schemas.log.kafka import KafkaSettings, create_topic, open_kafka_log

from ..servers.broker import JAVA_LEAST
from ..servers.interface import ServerUnavailable
from ..servers.jars import find_java, kafka_jars
from ..servers.settings import Settings
from .records import record
from .secure import PASSWORD, USER, SecureBroker
from .test_conformance import POLLS_MAX, from_start

if TYPE_CHECKING:
    from ..conftest import Servers


def new_secure_broker(settings: Settings) -> SecureBroker:
    if shutil.which("openssl") is None:
        raise ServerUnavailable("openssl is not installed")
    return SecureBroker(java=find_java(settings, least=JAVA_LEAST), jars=kafka_jars(settings))


@pytest.fixture(scope="module")
def secure_broker(servers: "Servers") -> Iterator[SecureBroker]:
    with servers.running("a broker with TLS", new_secure_broker) as server:
        yield server


@pytest.fixture
def settings(secure_broker: SecureBroker) -> KafkaSettings:
    """Allowed in with PLAIN."""
    return KafkaSettings(
        bootstrap=secure_broker.secure,
        topic=f"log-{uuid4().hex}",
        tls_ca_file=secure_broker.certificates / "ca.crt",
        sasl_mechanism="PLAIN",
        sasl_username=USER,
        sasl_password=PASSWORD,
        send_timeout_s=12,
    )


def use(log: Log) -> None:
    with closing(log.writer()) as writer, closing(log.reader(from_start, group="g")) as reader:
        assert isinstance(writer.append([record("image:1", 1)])[0], Position)
        for _ in range(POLLS_MAX):
            if reader.poll(records_max=1, timeout_s=1):
                break
        else:
            pytest.fail("the record was not read")
    assert set(log.bounds()) == {0}


@pytest.mark.kafka
def test_a_log_behind_tls_and_a_password_is_made_written_and_read(settings: KafkaSettings) -> None:
    create_topic(settings, partitions=1, replication=1)
    use(open_kafka_log(settings))


@pytest.mark.kafka
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_scram_is_spoken(
    secure_broker: SecureBroker, settings: KafkaSettings, mechanism: str
) -> None:
    with KafkaAdminClient(bootstrap_servers=secure_broker.bootstrap) as admin:
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(USER, mechanism, PASSWORD)]
        )
    scram = replace(settings, sasl_mechanism=mechanism)
    create_topic(scram, partitions=1, replication=1)
    use(open_kafka_log(scram))


@pytest.mark.kafka
def test_a_client_certificate_is_shown(
    secure_broker: SecureBroker, settings: KafkaSettings
) -> None:
    with_certificate = replace(
        settings,
        bootstrap=secure_broker.tls,
        sasl_mechanism=None,
        tls_cert_file=secure_broker.certificates / "client.crt",
        tls_key_file=secure_broker.certificates / "client.key",
    )
    create_topic(with_certificate, partitions=1, replication=1)
    use(open_kafka_log(with_certificate))
    without = replace(with_certificate, tls_cert_file=None, tls_key_file=None)
    with pytest.raises(Unreachable):
        open_kafka_log(without)


@pytest.mark.kafka
def test_a_wrong_password_is_one_line_without_it(settings: KafkaSettings) -> None:
    wrong = replace(settings, sasl_password="not-the-password")
    with pytest.raises((UsageError, Unreachable), match="look at user and password") as refused:
        open_kafka_log(wrong)
    assert "not-the-password" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.kafka
def test_a_server_that_the_authority_does_not_vouch_for_is_not_spoken_to(
    settings: KafkaSettings,
) -> None:
    with pytest.raises(Unreachable):
        open_kafka_log(replace(settings, tls_ca_file=None, tls=True))


@pytest.mark.kafka
def test_a_password_stands_in_no_log_even_where_the_client_tells_all(
    settings: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    create_topic(settings, partitions=1, replication=1)
    with caplog.at_level(logging.DEBUG, logger="kafka"):
        use(open_kafka_log(settings))
    assert caplog.records
    assert PASSWORD not in caplog.text


def test_the_settings_show_no_secret() -> None:
    settings = KafkaSettings(
        bootstrap="kafka:9093",
        topic="log",
        tls_key_password="one-secret",
        sasl_mechanism="PLAIN",
        sasl_username=USER,
        sasl_password="another-secret",
    )
    assert "secret" not in repr(settings)


def test_files_that_are_none_and_passwords_that_are_missing_are_usage_errors(
    settings: KafkaSettings,
) -> None:
    with pytest.raises(UsageError, match="TLS files"):
        open_kafka_log(replace(settings, tls_cert_file=settings.tls_ca_file))
    with pytest.raises(UsageError, match="user name and a password"):
        open_kafka_log(replace(settings, sasl_password=None))
