"""THE MAP of webhook kinds: how each proves itself, and its translator. To add one: a module, a line here, recorded payloads."""

from collections.abc import Mapping
from dataclasses import dataclass

from streams.ingress import apaleo, cloudevents, hr
from streams.ingress.delivery import Authenticate, Translate, basic, signed


@dataclass(frozen=True, slots=True)
class Kind:
    authenticate: Authenticate
    translate: Translate


KINDS: Mapping[str, Kind] = {
    "apaleo": Kind(basic, apaleo.translate),
    "cloudevents": Kind(signed, cloudevents.translate),
    "hr": Kind(signed, hr.translate),
}
