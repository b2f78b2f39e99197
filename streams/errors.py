"""Every exception of the project, grouped by what the caller does next.

LoyaltyError
├── ConfigurationError   stop at start: a setting is missing or malformed; the message names it
├── ContractError        bytes or values break the schema's contract: dead letter, go on with the next record
└── UnavailableError     a part (Kafka, ClickHouse, Redis) does not answer: retry with back-off
"""


class LoyaltyError(Exception):
    """Base of all errors this project raises on purpose."""


class ConfigurationError(LoyaltyError):
    """A setting is missing or malformed. Carries every problem found, not just the first."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class ContractError(LoyaltyError):
    """Bytes or values do not match the contract. `reason` is a stable code, `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class UnavailableError(LoyaltyError):
    """A part the process needs does not answer. The message names the setting that points to it."""
