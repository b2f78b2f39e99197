"""The same processes against a broker that wants TLS and a password (SASL_SSL, SCRAM), by settings alone."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from cryptography.hazmat.primitives import serialization

from infra import ports
from infra.kafka_server import KafkaServer
from streams import kafka
from streams.errors import UnavailableError
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle, traffic
from tests.e2e.processes import pipeline
from tests.waiting import wait_until

USER, PASSWORD = "loyalty", "password-of-the-secure-test"


class SecureKafkaServer(KafkaServer):
    """The embedded broker with one more listener, for clients with TLS and SCRAM."""

    def __init__(self, home: Path, certificate: Path) -> None:
        super().__init__(home)
        self.secure_port = ports.choose()
        self._certificate = certificate

    def prepare(self) -> None:
        super().prepare()
        properties = self.folder / "server.properties"
        text = properties.read_text()
        for name in ("listeners", "advertised.listeners"):
            text = text.replace(f"\n{name}=PLAINTEXT", f"\n{name}=SECURE://{ports.HOST}:{self.secure_port},PLAINTEXT")
        text = text.replace("protocol.map=", "protocol.map=SECURE:SASL_SSL,")
        text += f"""
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={self._certificate}
"""
        properties.write_text(text)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, kafka_jars: list[Path]) -> Iterator[tuple[SecureKafkaServer, Path]]:
    folder = tmp_path_factory.mktemp("secure")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    # Java reads PKCS #8 keys only.
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (folder / "server.pem").write_bytes(key + chain)
    server = SecureKafkaServer(folder, folder / "server.pem")
    server.start()
    try:
        admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
        user = UserScramCredentialUpsertion(USER, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode())
        for future in admin.alter_user_scram_credentials([user]).values():
            future.result()
        yield server, folder / "ca.pem"
    finally:
        server.stop()
        ports.give_back(server.secure_port)


@pytest.fixture
def settings(secure: tuple[SecureKafkaServer, Path], make_settings: Any, tmp_path: Path) -> Settings:
    server, ca_file = secure
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML)
    settings: Settings = make_settings(
        config_file=str(config_file), kafka_bootstrap_servers=f"{ports.HOST}:{server.secure_port}", kafka_security_protocol="SASL_SSL",
        kafka_sasl_username=USER, kafka_sasl_password=PASSWORD, kafka_ssl_ca_file=str(ca_file), redis_url="redis://unused", clickhouse_url="http://unused",
    )  # fmt: skip
    return settings


def test_a_worker_keeps_accounts_over_tls_with_a_password(settings: Settings, secure: tuple[SecureKafkaServer, Path]) -> None:
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    traffic.send(settings, traffic.commands(7, 10, 200))
    with pipeline(settings, "worker") as running:
        running.wait_ready()
        request = urllib.request.Request(
            f"{running.url}/internal/accounts/grand/M-1", headers={"Authorization": f"Bearer {settings.internal_token}"}
        )

        def enrolled() -> bool:
            try:
                with urllib.request.urlopen(request, timeout=5) as response:
                    return bool(json.load(response)["member_id"] == "M-1")
            except urllib.error.HTTPError as error:
                assert error.code == 404
                return False

        wait_until(enrolled, timeout_s=30)
        assert running.stop() == 0
        assert PASSWORD not in running.log_file.read_text()


def test_a_wrong_password_is_said_and_nothing_gets_through(settings: Settings) -> None:
    wrong = replace(settings, kafka_sasl_password="wrong")
    with pytest.raises(UnavailableError, match="LOYALTY_KAFKA_BOOTSTRAP_SERVERS"):
        kafka.partition_counts(wrong, timeout_s=3)
