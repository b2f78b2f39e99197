"""Topic -> outside. Each sink reads in its own consumer group, so that one outage never stops another."""

# Name on the command line -> its module, whose `run(settings, configuration, stop, health)` works until `stop` is set. Imported when
# asked for: one sink does without the packages of the others.
SINKS = {
    "webhooks": "sinks.webhook",
    "redis": "sinks.redis_cache",
    "clickhouse": "sinks.clickhouse",
    "connectors": "sinks.connectors.process",
}
