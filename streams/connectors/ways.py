"""A source -> the polls and streams that its options want. Light: it starts no client."""

from collections.abc import Iterator

from streams.connectors.contract import Poll, Source, Stream
from streams.connectors.registry import CONNECTORS


def wanted(source: Source) -> Iterator[tuple[str, Poll | Stream]]:
    """Each with its feed's name."""
    connector = CONNECTORS[source.kind]
    for feeds in (connector.polls, connector.streams):
        yield from ((feed, one) for feed, one in feeds.items() if one.is_wanted(source))
