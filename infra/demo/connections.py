"""The connected systems around the pipeline: a CRM, and the HR systems of three countries, each with a programme of its own."""

from collections.abc import Iterable
from typing import Any

from infra.fakes.darwinbox import DarwinboxFake
from infra.fakes.salesforce import SalesforceFake
from infra.fakes.server import FakeServer
from infra.fakes.successfactors import SuccessFactorsFake
from infra.fakes.workday import WorkdayFake

PROGRAMS = """
[programs.asia]
name = "Colleagues in Asia"
time_zone = "Asia/Kolkata"
earn = { points_per_unit = { EUR = 1 } }
tiers = [{ name = "STAFF", threshold_points = 0 }]
mastering = { status = "darwinbox", given_name = "darwinbox", family_name = "darwinbox", email = "darwinbox" }

[programs.europe]
name = "Colleagues in Europe"
time_zone = "Europe/Berlin"
earn = { points_per_unit = { EUR = 1 } }
tiers = [{ name = "STAFF", threshold_points = 0 }]
mastering = { status = "successfactors", given_name = "successfactors", family_name = "successfactors", email = "successfactors" }

[programs.america]
name = "Colleagues in America"
time_zone = "America/New_York"
earn = { points_per_unit = { USD = 1 } }
tiers = [{ name = "STAFF", threshold_points = 0 }]
mastering = { status = "workday", given_name = "workday", family_name = "workday", email = "workday" }
"""
"""A programme for each country, of which its HR system is the master."""


class ConnectedSystems:
    """The systems, and what the configuration says of them."""

    def __init__(self) -> None:
        self.salesforce = SalesforceFake()
        self.darwinbox = DarwinboxFake()
        self.successfactors = SuccessFactorsFake()
        self.successfactors.make_client_key()
        self.workday = WorkdayFake()
        self.event_password = "fake-event-password"

    @property
    def servers(self) -> tuple[FakeServer, ...]:
        return self.salesforce, self.darwinbox, self.successfactors, self.workday

    async def know_guests(self, numbers: Iterable[str]) -> None:
        """The CRM has a contact for each of these members."""
        for number in numbers:
            await self.salesforce.create(LastName="Example", Loyalty_Id__c=number)

    def configuration(self) -> str:
        """Sources and destinations, once the servers run."""
        crm, asia, europe, america = self.salesforce, self.darwinbox, self.successfactors, self.workday
        tables: dict[str, dict[str, Any]] = {
            "destinations.salesforce": {"kind": "salesforce", "programs": ["grand"], "unknown_members": "skip", **crm.options},
            "sources.darwinbox": self._darwinbox(asia) | {"program": "asia", "dataset_key": asia.dataset_key,
                                                          "inactive_dataset_key": asia.inactive_dataset_key, "poll_every_s": 1.0},
            "destinations.darwinbox": self._darwinbox(asia) | {"programs": ["asia"]},
            "sources.successfactors": self._successfactors(europe) | {"program": "europe", "secret": self.event_password},
            "destinations.successfactors": self._successfactors(europe) | {"programs": ["europe"]},
            "sources.workday": self._workday(america) | {"program": "america", "poll_every_s": 1.0},
            "destinations.workday": self._workday(america) | {"programs": ["america"]},
        }  # fmt: skip
        return "".join(f"\n[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items()) for name, table in tables.items())

    @staticmethod
    def _darwinbox(fake: DarwinboxFake) -> dict[str, Any]:
        return {
            "kind": "darwinbox", "base_url": fake.base_url, "client_id": fake.client_id, "client_secret": fake.client_secret, "code": fake.code,
        }  # fmt: skip

    @staticmethod
    def _successfactors(fake: SuccessFactorsFake) -> dict[str, Any]:
        return {
            "kind": "successfactors", "base_url": fake.base_url, "company_id": fake.company_id, "client_id": fake.client_id, "user": fake.user,
            "private_key": fake.private_key, "certificate": fake.certificate,
        }  # fmt: skip

    @staticmethod
    def _workday(fake: WorkdayFake) -> dict[str, Any]:
        return {"kind": "workday", "base_url": fake.base_url, "tenant": fake.tenant, "user_name": fake.user_name, "password": fake.password}


def _toml(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else str(value)
