"""CloudEvents 1.0 by signed webhooks: any system that can say a command in the JSON of the REST API."""

from streams.connectors.cloudevents import inbound
from streams.connectors.contract import Connector, Push
from streams.connectors.proof import SIGNING_SECRET, by_signature

CONNECTOR = Connector(
    kind="cloudevents",
    title="CloudEvents by signed webhooks",
    source_options=(SIGNING_SECRET,),
    push=Push(authenticate=by_signature, translate=inbound.translate),
)
