"""Every connector that something comes in by, one after the other, against what all must keep. They run together, once."""

from collections.abc import Callable, Iterator

import pytest

from streams import kafka
from streams.settings import Settings
from tests.connectors.conformance.inbound import Report, Run, adapters, difference, out_of_order

JOINED = adapters()


@pytest.fixture(scope="module")
def reports(make_settings: Callable[..., Settings]) -> Iterator[dict[str, Report]]:
    settings = make_settings(redis_url="redis://unused", clickhouse_url="http://unused")
    kafka.ensure_topics(settings)
    yield Run(settings, JOINED).reports()


kinds = pytest.mark.parametrize("kind", sorted(JOINED))


@kinds
def test_nothing_is_lost_and_the_newest_counts(reports: dict[str, Report], kind: str) -> None:
    report = reports[kind]
    assert report.expected, "something has happened"
    assert difference(JOINED[kind], report.system, report.commands) == {}


@pytest.mark.parametrize("kind", sorted(kind for kind, one in JOINED.items() if not one.crosses))
def test_what_concerns_a_member_comes_in_its_order(reports: dict[str, Report], kind: str) -> None:
    assert out_of_order(reports[kind].commands) == []


@kinds
def test_what_is_read_again_says_nothing_new(reports: dict[str, Report], kind: str) -> None:
    assert not reports[kind].new_ids


@kinds
def test_what_cannot_be_understood_is_a_dead_letter(reports: dict[str, Report], kind: str) -> None:
    assert reports[kind].garbled is (JOINED[kind].garble is not None)


@kinds
def test_no_secret_is_logged(reports: dict[str, Report], kind: str) -> None:
    report = reports[kind]
    assert report.secrets
    text = "\n".join(report.lines)
    assert [secret[:4] for secret in report.secrets if secret in text] == []


@pytest.mark.parametrize("kind", sorted(kind for kind, one in JOINED.items() if one.samples))
def test_broken_webhooks_are_answered_and_never_by_an_error_of_ours(reports: dict[str, Report], kind: str) -> None:
    statuses = set(reports[kind].fuzz_statuses)
    assert statuses and not [status for status in statuses if status >= 500 or status == 401], statuses


def test_no_line_tells_of_an_error_of_ours(reports: dict[str, Report]) -> None:
    assert not next(iter(reports.values())).raised
