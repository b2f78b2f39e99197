"""CloudEvents 1.0 by signed webhooks: any system that can say a command in the JSON of the REST API."""

from streams.connectors.cloudevents import inbound
from streams.connectors.contract import Connector, Option, Push
from streams.connectors.proof import by_signature, wrong_with_signing_secret

CONNECTOR = Connector(
    kind="cloudevents",
    title="CloudEvents by signed webhooks",
    source_options=(
        Option(name="secret", doc="Secret of Standard Webhooks, whsec_...", is_secret=True, is_required=True, wrong=wrong_with_signing_secret),
    ),
    push=Push(authenticate=by_signature, translate=inbound.translate),
)  # fmt: skip
