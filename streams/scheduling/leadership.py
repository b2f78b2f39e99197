"""One of several schedulers leads: the one that has partition 0 of the sync-control topic in their consumer group."""

from collections.abc import Callable

from streams import topics
from streams.group_share import GroupShare
from streams.settings import Settings

GROUP = "scheduler"
LEADS_BY = 0


class Leadership(GroupShare):
    """Calls back in the loop in which it is made."""

    def __init__(self, settings: Settings, on_change: Callable[[bool], None]) -> None:
        """`on_change(leads)`: only when that is another than before."""
        super().__init__(settings, GROUP, topics.SYNC_CONTROL, self._changed)
        self._on_lead = on_change
        self._leads = False

    def _changed(self, partitions: frozenset[int]) -> None:
        leads = LEADS_BY in partitions
        if leads != self._leads:
            self._leads = leads
            self._on_lead(leads)
