"""The connected systems around the pipeline: a CRM, and the HR systems of three countries, each with a programme of its own."""

from collections.abc import Iterable

from infra.fakes.darwinbox import DarwinboxFake
from infra.fakes.registry import rendered
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

SYSTEMS = '''
[destinations.salesforce]
kind = "salesforce"
programs = ["grand"]
unknown_members = "skip"
login_url = "{{salesforce.base_url}}"
client_id = "{{salesforce.consumer_key}}"
username = "{{salesforce.username}}"
private_key = """{{salesforce.options.private_key}}"""

[sources.darwinbox]
kind = "darwinbox"
program = "asia"
base_url = "{{darwinbox.base_url}}"
client_id = "{{darwinbox.client_id}}"
client_secret = "{{darwinbox.client_secret}}"
code = "{{darwinbox.code}}"
dataset_key = "{{darwinbox.dataset_key}}"
inactive_dataset_key = "{{darwinbox.inactive_dataset_key}}"
poll_every_s = 1

[destinations.darwinbox]
kind = "darwinbox"
programs = ["asia"]
base_url = "{{darwinbox.base_url}}"
client_id = "{{darwinbox.client_id}}"
client_secret = "{{darwinbox.client_secret}}"
code = "{{darwinbox.code}}"

[sources.successfactors]
kind = "successfactors"
program = "europe"
secret = "{{event.password}}"
base_url = "{{successfactors.base_url}}"
company_id = "{{successfactors.company_id}}"
client_id = "{{successfactors.client_id}}"
user = "{{successfactors.user}}"
private_key = """{{successfactors.private_key}}"""
certificate = """{{successfactors.certificate}}"""

[destinations.successfactors]
kind = "successfactors"
programs = ["europe"]
base_url = "{{successfactors.base_url}}"
company_id = "{{successfactors.company_id}}"
client_id = "{{successfactors.client_id}}"
user = "{{successfactors.user}}"
private_key = """{{successfactors.private_key}}"""
certificate = """{{successfactors.certificate}}"""

[sources.workday]
kind = "workday"
program = "america"
base_url = "{{workday.base_url}}"
tenant = "{{workday.tenant}}"
user_name = "{{workday.user_name}}"
password = "{{workday.password}}"
poll_every_s = 1

[destinations.workday]
kind = "workday"
programs = ["america"]
base_url = "{{workday.base_url}}"
tenant = "{{workday.tenant}}"
user_name = "{{workday.user_name}}"
password = "{{workday.password}}"
'''
"""Sources and destinations, with what the servers say of themselves in place of {{...}}."""


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
        return rendered(SYSTEMS, {
            "salesforce": self.salesforce, "darwinbox": self.darwinbox, "successfactors": self.successfactors, "workday": self.workday,
            "event": {"password": self.event_password},
        })  # fmt: skip
