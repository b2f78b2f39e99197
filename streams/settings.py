"""environment -> one frozen Settings, read once at start.

Every field is read from `LOYALTY_<FIELD>` (upper case); `LOYALTY_<FIELD>_FILE` names a file that holds the value, for secrets.
`loyalty up` writes `stack.env` into `LOYALTY_HOME`, and every other command started in the same place reads it as its defaults,
so that a second terminal needs no configuration. What the environment says always wins.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sinks.addresses import parse_allowed
from streams.errors import ConfigurationError

PREFIX = "LOYALTY_"
STACK_FILE = "stack.env"  # Written by `loyalty up`, removed when it stops.

KAFKA_SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
RETENTION_DAYS_MAX = 36_500
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def _secret(default: str = "", doc: str = "") -> Any:
    return field(default=default, repr=False, metadata={"doc": doc, "secret": True})


def _setting(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of all processes. Times are in the unit their name ends with. Secrets never print."""

    home: str = _setting(".loyalty", "Folder for the embedded stack's data, logs and addresses.")
    config_file: str = _setting("", "TOML file with programs, sources, destinations and API tokens. Required by every pipeline process.")
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR.")

    kafka_bootstrap_servers: str = _setting("127.0.0.1:9092", "Comma-separated host:port list of the brokers.")
    kafka_security_protocol: str = _setting("PLAINTEXT", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")
    kafka_sasl_mechanism: str = _setting("SCRAM-SHA-512", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; used with SASL_*.")
    kafka_sasl_username: str = _setting("", "User name for SASL_*.")
    kafka_sasl_password: str = _secret(doc="Password for SASL_*.")
    kafka_ssl_ca_file: str = _setting("", "PEM file of the authority that signed the brokers' certificates; empty: the system's.")
    kafka_ssl_certificate_file: str = _setting("", "PEM file of this client's certificate, for mutual TLS.")
    kafka_ssl_key_file: str = _setting("", "PEM file of this client's private key, for mutual TLS.")
    kafka_replication_factor: int = _setting(3, "Replicas of each topic that the pipeline creates. The embedded stack uses 1.")
    kafka_partitions: int = _setting(8, "Partitions of each keyed topic. Fixed once created: the pipeline refuses to start on another count.")

    topic_prefix: str = _setting("loyalty", "First part of every topic, consumer group and Redis key: several environments can share the same servers.")

    schema_registry_url: str = _setting("", "Confluent-compatible registry; empty: the deterministic registry in schemas/, which needs no server.")
    schema_registry_username: str = _setting("", "Basic-auth user of the registry.")
    schema_registry_password: str = _secret(doc="Basic-auth password of the registry.")

    clickhouse_url: str = _setting("http://127.0.0.1:8123", "ClickHouse's HTTP interface, http:// or https://.")
    clickhouse_username: str = _setting("default", "ClickHouse user.")
    clickhouse_password: str = _secret(doc="ClickHouse password.")
    clickhouse_database: str = _setting("loyalty", "Database that holds the history.")
    clickhouse_cluster: str = _setting(
        "", "Cluster of ClickHouse's on whose replicas the history is; empty: one server. Its macros must name shard and replica."
    )  # fmt: skip
    clickhouse_ca_file: str = _setting("", "PEM file of the authority that signed ClickHouse's certificate; empty: the system's.")

    audit_retention_days: int = _setting(2555, "Days that ClickHouse keeps the audit and destinations' notices; 0: for ever. The sink sets it at its start.")
    report_recompute_days: int = _setting(
        35, "Months that reach into so many last days are made again with each refresh of a report; older ones only when something came late for them."
    )
    attempt_retention_days: int = _setting(30, "Days that ClickHouse keeps attempts to deliver; 0: for ever. The sink sets it at its start.")

    delivery_attempts_max: int = _setting(4_000, "Most attempts to deliver webhooks that one process has under way at once, over all destinations.")
    delivery_allowed_addresses: str = _setting(
        "",
        "Networks, addresses and exact host names, comma-separated, that webhooks may be sent to although they are not of the public internet: "
        "10.0.0.0/8, 127.0.0.1, crm.internal.",
    )

    destination_keys: str = _secret(
        doc="Comma-separated keys that seal the secrets of destinations in the log; the first one seals, all open. Of the sinks and the ingress. "
        "`loyalty destinations new-key` makes one."
    )

    redis_url: str = _setting("redis://127.0.0.1:6379/0", "Redis or Valkey, redis:// or rediss:// (TLS).")
    redis_password: str = _secret(doc="Redis password, if it is not in the URL.")
    redis_ca_file: str = _setting("", "PEM file of the authority that signed Redis's certificate; empty: the system's.")

    ingress_host: str = _setting("127.0.0.1", "Address that the HTTP ingress binds.")
    ingress_port: int = _setting(8080, "Port that the HTTP ingress binds.")
    ingress_tls_certificate_file: str = _setting("", "PEM certificate chain: the ingress then serves HTTPS only.")
    ingress_tls_key_file: str = _setting("", "PEM private key that belongs to ingress_tls_certificate_file.")
    worker_urls: str = _setting("http://127.0.0.1:8081", "Comma-separated URLs of the workers' own HTTP ports: asked for a balance that Redis does not hold.")
    sink_urls: str = _setting("http://127.0.0.1:8084", "Comma-separated URLs of the webhook sinks' own HTTP ports: asked how deliveries fare.")
    internal_token: str = _secret(doc="Bearer token that the ingress shows to the workers and sinks. They answer nobody without it.")

    http_host: str = _setting("127.0.0.1", "Address for /metrics, /healthz and /readyz of the worker and the sinks.")
    http_port: int = _setting(8081, "Port for /metrics, /healthz and /readyz of the worker and the sinks (the ingress serves them on its own port).")

    worker_instance_id: str = _setting(
        "", "Name that outlives a worker process, one per worker: restarted under it, a worker has its partitions back at once. Empty: none."
    )
    worker_data_dir: str = _setting("", "Folder for the worker's local state (RocksDB); empty: LOYALTY_HOME/worker. If lost, it is filled from Kafka.")
    worker_state_memory_mib: int = _setting(64, "Memory for the local state's block cache and write buffers, all partitions together.")
    worker_record_bytes_max: int = _setting(900_000, "Largest record a worker writes; below max.message.bytes of every topic.")
    worker_batch_records_max: int = _setting(1_000, "Most records in one unit of work (one Kafka transaction).")
    worker_standby_copies: int = _setting(
        0, "Other workers that keep a copy of each partition's state, so that one that takes over goes on at once. Each costs a state's disk."
    )
    worker_session_timeout_s: int = _setting(10, "How long the group waits for a silent worker before it moves its partitions.")
    transaction_timeout_s: int = _setting(15, "How long the broker waits for an open transaction before it aborts it.")

    api_token: str = _secret(doc="Bearer token with the scope members:read, for `loyalty member`; the pipeline's processes do not use it.")
    voucher_key: str = _secret(doc="Key from which voucher codes are derived; 16 characters at least. Must never change.")

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={'***' if f.metadata.get('secret') else repr(getattr(self, f.name))}" for f in fields(self))
        return f"Settings({shown})"

    def environment(self) -> dict[str, str]:
        """The settings as the environment of a child process: what differs from the defaults, secrets included."""
        return {
            PREFIX + f.name.upper(): str(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default
        }


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `environ` (default: the process's), over `stack.env` of a running embedded stack.

    Raises ConfigurationError naming every malformed, unreadable or unknown variable, not just the first.
    """
    given = dict(os.environ if environ is None else environ)
    problems: list[str] = []
    known = {PREFIX + f.name.upper(): f for f in fields(Settings)}
    home = given.get(PREFIX + "HOME", ".loyalty")
    merged = {**_read_stack_file(Path(home) / STACK_FILE), **{k: v for k, v in given.items() if k.startswith(PREFIX)}}
    values: dict[str, Any] = {}
    for name, text in merged.items():
        target = name.removesuffix("_FILE") if name not in known else name
        if target not in known:
            problems.append(f"{name} is not a setting. See the table in README.md.")
            continue
        if target != name:
            if target in merged:
                if merged[target] and text:
                    problems.append(f"{target} and {name} are both set: keep one.")
                continue
            try:
                text = Path(text).read_text().strip()
            except OSError as error:
                problems.append(f"{name} names a file that cannot be read: {error}")
                continue
        spec = known[target]
        if isinstance(spec.default, int):
            try:
                values[spec.name] = int(text)
            except ValueError:
                problems.append(f"{target} must be a whole number, not {text!r}.")
        else:
            values[spec.name] = text
    if problems:
        raise ConfigurationError(*problems)
    settings = Settings(**values)
    problems = list(_problems(settings))
    if problems:
        raise ConfigurationError(*problems)
    return settings


def _read_stack_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if line.startswith(PREFIX) and "=" in line)


def _problems(settings: Settings) -> list[str]:
    """What is wrong with values that parse, each as a sentence naming the variable."""
    out = []

    def one_of(name: str, allowed: tuple[str, ...]) -> None:
        if getattr(settings, name) not in allowed:
            out.append(f"{PREFIX}{name.upper()} must be one of {', '.join(allowed)}, not {getattr(settings, name)!r}.")

    def url(name: str, schemes: tuple[str, ...]) -> None:
        value = getattr(settings, name)
        if value and (urlsplit(value).scheme not in schemes or not urlsplit(value).netloc):
            out.append(f"{PREFIX}{name.upper()} must start with {' or '.join(s + '://' for s in schemes)} and name a host, not {value!r}.")

    one_of("kafka_security_protocol", KAFKA_SECURITY_PROTOCOLS)
    one_of("log_level", ("DEBUG", "INFO", "WARNING", "ERROR"))
    if settings.kafka_security_protocol.startswith("SASL"):
        one_of("kafka_sasl_mechanism", SASL_MECHANISMS)
        if not settings.kafka_sasl_username:
            out.append(f"{PREFIX}KAFKA_SASL_USERNAME is required with {settings.kafka_security_protocol}.")
    url("schema_registry_url", ("http", "https"))
    url("clickhouse_url", ("http", "https"))
    if not re.fullmatch(r"[\w.-]*", settings.clickhouse_cluster, re.ASCII):
        out.append(f"{PREFIX}CLICKHOUSE_CLUSTER must be a name of letters, digits, '.', '_' and '-', not {settings.clickhouse_cluster!r}.")
    url("redis_url", ("redis", "rediss"))
    counts = ("kafka_partitions", "delivery_attempts_max", "kafka_replication_factor", "worker_batch_records_max", "worker_state_memory_mib")
    for name in (*counts, "worker_session_timeout_s", "transaction_timeout_s"):
        if getattr(settings, name) < 1:
            out.append(f"{PREFIX}{name.upper()} must be 1 or more, not {getattr(settings, name)}.")
    for name in ("audit_retention_days", "attempt_retention_days"):
        if not 0 <= getattr(settings, name) <= RETENTION_DAYS_MAX:
            out.append(f"{PREFIX}{name.upper()} must be 0, for ever, or up to {RETENTION_DAYS_MAX} days, not {getattr(settings, name)}.")
    if not 1 <= settings.report_recompute_days <= RETENTION_DAYS_MAX:
        out.append(f"{PREFIX}REPORT_RECOMPUTE_DAYS must be from 1 to {RETENTION_DAYS_MAX} days, not {settings.report_recompute_days}.")
    if settings.worker_standby_copies < 0:
        out.append(f"{PREFIX}WORKER_STANDBY_COPIES must be 0 or more, not {settings.worker_standby_copies}.")
    if settings.worker_record_bytes_max < 10_000:
        out.append(f"{PREFIX}WORKER_RECORD_BYTES_MAX must be 10000 or more, not {settings.worker_record_bytes_max}.")
    for name in ("ingress_port", "http_port"):
        if not 0 <= getattr(settings, name) <= 65535:
            out.append(f"{PREFIX}{name.upper()} must be a port number from 0 to 65535, not {getattr(settings, name)}.")
    if bool(settings.ingress_tls_certificate_file) != bool(settings.ingress_tls_key_file):
        out.append(f"{PREFIX}INGRESS_TLS_CERTIFICATE_FILE and {PREFIX}INGRESS_TLS_KEY_FILE go together: set both or neither.")
    try:
        parse_allowed(settings.delivery_allowed_addresses)
    except ConfigurationError as error:
        out.extend(error.problems)
    if settings.destination_keys:
        from streams.destinations.sealing import check_keys  # What it needs takes time to load, and few processes use it.

        try:
            check_keys(settings.destination_keys)
        except ConfigurationError as error:
            out.extend(error.problems)
    if settings.voucher_key and len(settings.voucher_key) < 16:
        out.append(f"{PREFIX}VOUCHER_KEY must have 16 characters at least.")
    return out
