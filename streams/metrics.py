"""Every Prometheus metric of the project, declared once with its help text. A process shows those it uses."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge, Histogram

# From a broker round trip to a slow delivery.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LAG_SECONDS = (0.1, 0.5, 1, 2, 5, 15, 60, 300, 900, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)

DELIVERY_BUCKETS = (0.025, 0.1, 0.25, 1, 5, 30, 300)
"""There is one set for each destination, and there may be thousands."""

INGRESS_REQUESTS = Counter("loyalty_ingress_requests", "HTTP requests answered by the ingress.", ["route", "status"])
INGRESS_SECONDS = Histogram("loyalty_ingress_request_seconds", "Time to answer a request.", ["route"], buckets=SECONDS)
INGRESS_PRODUCED = Counter("loyalty_ingress_produced", "Commands acknowledged by the broker.", ["stream", "source"])

COMMANDS = Counter("loyalty_commands", "Commands decided by the worker.", ["stream", "result", "replayed"])
DECISION_SECONDS = Histogram("loyalty_decision_seconds", "From the broker's append of a command to its decision.", ["stream"], buckets=SECONDS)
SUSPENSION_SECONDS = Histogram(
    "loyalty_suspension_seconds", "From the broker's append of a deactivation to its being in force.", buckets=SECONDS
)  # fmt: skip
SOURCE_LAG_SECONDS = Histogram(
    "loyalty_source_lag_seconds", "From when it happened in the source system to the broker's append: not in our hands.",
    ["stream", "source_system"], buckets=LAG_SECONDS,
)  # fmt: skip
TICKS = Counter("loyalty_ticks", "Ticks handled by the worker.", ["partition"])
DUE_MEMBERS = Counter("loyalty_due_members", "Rows of the due table that ticks have looked at.", ["partition"])
RELAYS = Counter("loyalty_relays", "Records passed between members' partitions, as they arrive.", ["kind"])
IDENTITY_CONFLICTS = Counter("loyalty_identity_conflicts", "External ids that a member claimed and that led to another one already.")
WAITING_COMMANDS = Gauge("loyalty_waiting_commands", "Commands that wait for an enrolment or an external id, at the last count.", ["partition"])
WAITING_OLDEST_SECONDS = Gauge("loyalty_waiting_oldest_seconds", "How long the oldest of them has waited; 0: none waits.", ["partition"])
DEAD_LETTERS = Counter("loyalty_dead_letters", "Records given up, by process, stage and reason.", ["processor", "stage", "reason"])

SINK_RECORDS = Counter("loyalty_sink_records", "Records a sink has finished, by what became of them.", ["sink", "verdict"])
SINK_SECONDS = Histogram("loyalty_sink_event_seconds", "From the worker's decision to the destination's acknowledgement.", ["sink"], buckets=SECONDS)
SINK_LAG = Gauge("loyalty_sink_lag_records", "Records appended and not yet finished by a sink, at the last poll.", ["sink", "topic", "partition"])
DELIVERIES = Counter("loyalty_deliveries", "Delivery attempts of webhooks, by class of status or name of failure.", ["destination", "verdict", "status"])
DELIVERY_SECONDS = Histogram("loyalty_delivery_seconds", "Time of one delivery attempt.", ["destination"], buckets=DELIVERY_BUCKETS)
DELIVERY_EVENT_SECONDS = Histogram(
    "loyalty_delivery_event_seconds", "From the broker's append of an event to the destination's 2xx.", ["destination"], buckets=DELIVERY_BUCKETS
)  # fmt: skip
DELIVERIES_IN_FLIGHT = Gauge("loyalty_deliveries_in_flight", "Attempts under way.", ["destination"])
DELIVERIES_WAITING = Gauge("loyalty_deliveries_waiting", "Events in the log that are not delivered yet; behind a gap, with those of others.", ["destination"])
DELIVERY_OLDEST_SECONDS = Gauge("loyalty_delivery_oldest_seconds", "Age of the oldest event that is not delivered yet.", ["destination"])
DELIVERY_CONCURRENCY = Gauge("loyalty_delivery_concurrency", "Attempts at once that the destination is given now.", ["destination"])
DELIVERY_PARKED_MEMBERS = Gauge("loyalty_delivery_parked_members", "Members that wait behind a failure.", ["destination"])
DELIVERY_BLOCKED_MEMBERS = Gauge("loyalty_delivery_blocked_members", "Members that wait for an operator.", ["destination"])
DELIVERY_PAUSED = Gauge("loyalty_delivery_paused", "1 while a destination is paused or disabled.", ["destination"])
DELIVERIES_DROPPED = Counter("loyalty_deliveries_dropped", "Times that events were gone undelivered; the audit says which.", ["destination", "reason"])
HISTORY_ROWS = Counter("loyalty_history_rows", "Rows inserted into ClickHouse.", ["table"])

INGRESS_WAITERS = Gauge("loyalty_ingress_waiters", "Requests held open until their command is decided.")
ACCESSES = Counter("loyalty_ingress_accesses", "Reads of personal data, by whether their record was written before the answer.", ["when"])
INGRESS_WEBHOOKS = Counter("loyalty_ingress_webhooks", "Webhooks received, by what became of them.", ["source", "result"])
SOURCE_PARKED = Counter("loyalty_source_parked", "What sources said that could not be understood: dead letters.", ["source"])
SOURCE_ALERTS = Counter("loyalty_source_alerts", "What an operator must hear of a source, by stable code.", ["source", "reason"])
SOURCE_FEED_LAG_SECONDS = Gauge(
    "loyalty_source_feed_lag_seconds", "How late a poll or stream hears what happens; while it fails, with all the time since.", ["source", "feed"]
)  # fmt: skip
SOURCE_POLLS = Counter("loyalty_source_polls", "Runs of polls, by how they ended: done, unanswered, refused, error.", ["source", "feed", "result"])
SOURCE_POLL_SECONDS = Histogram("loyalty_source_poll_seconds", "Time of one run of a poll.", ["source", "feed"], buckets=SECONDS)
SOURCE_BUDGET_USED = Gauge("loyalty_source_budget_used", "Calls of a system's allowance that are used, as it says.", ["source"])
SOURCE_BUDGET_ALLOWED = Gauge("loyalty_source_budget_allowed", "A system's allowance of calls, as it says.", ["source"])
INGRESS_REREADS = Counter("loyalty_ingress_rereads", "Entities read again after a hint, by what became of them.", ["source", "result"])

DELIVERY_DOWN = Gauge("loyalty_delivery_down", "1 while a destination counts as down and only probes are sent.", ["destination"])
CONNECTOR_BUDGET_USED = Gauge("loyalty_connector_budget_used", "Calls of the allowance that are used, by the system's last word.", ["destination"])
CONNECTOR_BUDGET_ALLOWED = Gauge("loyalty_connector_budget_allowed", "Calls that the system allows, by its last word.", ["destination"])
SINK_WRITE_FAILURES = Counter("loyalty_sink_write_failures", "Batches that a sink could not write and tries again.", ["sink"])

SCHEDULER_LEADS = Gauge("loyalty_scheduler_leads", "1 while this scheduler leads, 0 while it stands by.")
SCHEDULED_RUNS = Counter("loyalty_scheduled_runs", "Runs of scheduled streams and jobs, by how they ended.", ["job", "result"])
SCHEDULED_RUN_SECONDS = Histogram("loyalty_scheduled_run_seconds", "Time of a run.", ["job"], buckets=(*SECONDS, 300, 1800))
SCHEDULED_RUN_DONE = Gauge("loyalty_scheduled_run_done_timestamp_seconds", "When a job last ended well, since 1970: its freshness.", ["job"])
SCHEDULED_RUN_DUE = Gauge("loyalty_scheduled_run_due_timestamp_seconds", "When a job is due next, since 1970; 0: it has no cadence.", ["job"])
SYNC_BACKLOG = Gauge("loyalty_sync_backlog_records", "Records that wait for a stream's schedule, those of its sources' own included.", ["stream"])

AGREEMENT_DIFFERENCES = Gauge("loyalty_agreement_differences", "Differences between copies that the last reconciliation found.", ["store", "cause"])
AGREEMENT_DONE = Gauge("loyalty_agreement_done_timestamp_seconds", "When the last reconciliation of all copies ended, since 1970: its age.")

MIRROR_LAG_SECONDS = Histogram(
    "loyalty_mirror_lag_seconds", "From the append of a record to ClickHouse's acknowledgement of its row.", ["table"], buckets=SECONDS
)  # fmt: skip
MIRROR_OLDEST_SECONDS = Gauge(
    "loyalty_mirror_oldest_seconds", "Age of the oldest record that was read and is not yet acknowledged by ClickHouse; 0: there is none.", ["table"]
)  # fmt: skip


def observe_all(histogram: Histogram, values: Sequence[float] | NDArray[np.float64]) -> None:
    """Observe very many values at once. The library has one call for each, and for a batch of rows that costs more than their insert."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size:
        counts = np.bincount(np.searchsorted(histogram._upper_bounds, numbers, side="left"), minlength=len(histogram._buckets))
        for bucket, count in zip(histogram._buckets, counts.tolist(), strict=True):
            bucket.inc(count)
        histogram._sum.inc(float(numbers.sum()))
