"""HR systems without a connector of their own, and whatever can call a URL: people who join, change, leave and come back, by signed webhooks."""

from streams.connectors.contract import Connector, Option, Push
from streams.connectors.hr import inbound
from streams.connectors.proof import by_signature, wrong_with_signing_secret

CONNECTOR = Connector(
    kind="hr",
    title="HR by signed webhooks",
    source_options=(
        Option(name="secret", doc="Secret of Standard Webhooks, whsec_...", is_secret=True, is_required=True, wrong=wrong_with_signing_secret),
    ),
    push=Push(authenticate=by_signature, translate=inbound.translate),
)  # fmt: skip
