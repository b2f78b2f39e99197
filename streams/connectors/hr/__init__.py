"""HR systems without a connector of their own, and whatever can call a URL: people who join, change, leave and come back, by signed webhooks."""

from streams.connectors.contract import Connector, Push
from streams.connectors.hr import inbound
from streams.connectors.proof import SIGNING_SECRET, by_signature

CONNECTOR = Connector(
    kind="hr",
    title="HR by signed webhooks",
    source_options=(SIGNING_SECRET,),
    push=Push(authenticate=by_signature, translate=inbound.translate),
)
