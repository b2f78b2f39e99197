"""The whole story of a few members that differ, for finding the cause: their inputs and all that came of them, with offsets."""

from pathlib import Path
from typing import Any

from streams.settings import Settings
from tests.chaos import records
from tests.chaos.findings import Findings

MEMBERS_MAX = 5
TOPICS = {"enrolments.v1": "enrolment", "transactions.v1": "transaction", "sync-audit.v1": "sync_audit", "events.v1": "loyalty_event",
          "ledger-entries.v1": "ledger_entry", "worker-accounts-changelog": "account"}  # fmt: skip
SHOWN = ("transaction_id", "kind", "points", "amount_minor", "currency", "reverses_transaction_id", "audit_id", "command_id", "result", "replayed",
         "sequence", "entry_sequence", "points_delta", "available_points", "balance_after", "qualifying_points", "event_sequence", "tier",
         "ingested_at_ms", "recorded_at_ms")  # fmt: skip


def write_stories(settings: Settings, findings: Findings, folder: Path) -> list[Path]:
    """One file per member, for the first few in `findings`; the files. The broker runs."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = []
    for sample in findings.samples:
        key = sample.key.removeprefix("b'").partition("\\x00")[0].partition("\0")[0].rstrip("'")
        key = key if "/" in key else f"grand/{key}"
        if key not in wanted and key.startswith("grand/M-"):
            wanted.append(key)
    stories: dict[str, list[str]] = {key: [str(sample) for sample in findings.samples if key in sample.key] for key in wanted[:MEMBERS_MAX]}
    with records.Log(settings.kafka_bootstrap_servers) as log:
        for stream, record in TOPICS.items() if stories else ():
            topic = f"{settings.topic_prefix}.{stream}"
            for partition in range(settings.kafka_partitions):
                for line in log.lines(topic, partition, record):
                    if line.key in stories:
                        stories[line.key].append(f"{topic}[{partition}]@{line.offset} {_shown(line.value or {})}")
    files = []
    for key, texts in stories.items():
        file = folder / f"{key.partition('/')[2]}.txt"
        file.write_text("\n".join(texts) + "\n")
        files.append(file)
    return files


def _shown(value: dict[str, Any]) -> str:
    return " ".join(f"{name}={value[name]}" for name in SHOWN if value.get(name) is not None)
