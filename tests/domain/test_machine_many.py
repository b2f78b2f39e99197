"""Properties of several members: any sequence of transfers, pools, merges and activations, relays in any order (machine_many.py)."""

from hypothesis import settings

from tests.domain.machine_many import Members
from tests.domain.test_machine import SLOW

TestMembers = Members.TestCase
TestMembers.settings = settings(SLOW, max_examples=200, stateful_step_count=40)
