"""Where a member's data is, what it is for, and how long it stays: the words of the export's readme and of the erasure's receipt."""

from streams import topics
from streams.tables import COMPACTION_LAG_MAX_S
from streams.topics import DAY_MS, Topic

DAY_S = 24 * 3600
# A segment takes records for a day, ends within another one, and is compacted when all of it is as old as the lag.
CHANGELOG_DAYS = COMPACTION_LAG_MAX_S // DAY_S + 1
PROFILES_DAYS = int(topics.PROFILES.config["max.compaction.lag.ms"]) // DAY_MS + 3

SECTIONS = {
    "account": "The member's state in the ledger: profile, external ids, origins (which system said each part, when, in which event), points by lot,"
    " holds, open vouchers, offers, tier. Kept as long as the membership; after an erasure the points stay, the profile does not.",
    "waiting": "Commands that came before the enrolment, whole. Kept until the enrolment or an erasure.",
    "outcomes": "The answers to the member's commands, by the commands' ids; no contents. Kept for idempotency_days of the programme, 90 unless said.",
    "vouchers": "Every voucher and what became of it. Kept with the ledger.",
    "cache": "The newest balance in Redis. No personal data beside the number.",
    "ledger_entries": "Every posting of points. The ledger forgets nothing: kept as long as the books are.",
    "loyalty_events": "What happened to the account, as it was sent to the destinations.",
    "member_profile_history": "Every version of the profile, with the system that made it so. An erasure removes all versions before it.",
    "sync_audit": "What became of every command about the member; values that may be personal are masked.",
    "delivery_audit": "What became of every event about the member that went out to a destination.",
    "delivery_attempts": "Every attempt to deliver an event about the member, with what was sent and what the destination answered. What senders gave"
    " as reasons is masked. Kept for LOYALTY_ATTEMPT_RETENTION_DAYS, 30 unless said; what went out in batches with others' events is not in here.",
    "delivery_notices": "What happened to destinations because of an event about the member: it was given up, for example. Kept as long as the audit.",
    "agreement_differences": "What reconciliations of the copies have found about the member: numbers, points and hashes, no contents of the profile.",
    "dead_letters": "Records under the member's key that could not be processed: why and where. Their bytes are in the topic of dead letters.",
}
"""Section of the export -> what it is, and how long it stays."""


def retention_days(topic: Topic) -> int:
    """Days that a topic with a time of retention keeps its records."""
    return int(topic.config["retention.ms"]) // DAY_MS


INBOUND_DAYS = max(retention_days(topic) for topic in (*topics.INBOUND, *topics.SCHEDULED))

REMAINS = {
    "ledger": "Points, postings and vouchers under the member's number, as long as the books are kept. Their sums and hashes are what they were.",
    "inbound topics": f"The commands as they came, {INBOUND_DAYS} days from then on: retention.ms of the topics.",
    "relays": f"External ids on their way to where they are looked up, and commands for merged numbers: {retention_days(topics.RELAYS)} days.",
    "events topic": f"What was sent to destinations, with the reasons that senders gave: {retention_days(topics.EVENTS)} days.",
    "attempts to deliver": "What was sent, with senders' reasons masked, and what destinations answered, under the member's number: for"
    f" LOYALTY_ATTEMPT_RETENTION_DAYS, 30 unless said; in the topic {retention_days(topics.DELIVERY_ATTEMPTS)} days, with the reasons.",
    "dead letters": f"Records that could not be processed, whole: {retention_days(topics.DEAD_LETTERS)} days.",
    "webhook inbox": f"Webhooks that hint at a change: {retention_days(topics.WEBHOOK_INBOX)} days.",
    "audit": "That something changed, when, and by whose word; values are masked. Kept as long as the audit is.",
    "destinations": "They were told by the event MEMBER_ERASED; what they have is theirs to erase.",
}
"""What an erasure leaves, and for how long."""
