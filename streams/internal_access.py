"""Who may ask a process on its internal port: whoever shows LOYALTY_INTERNAL_TOKEN."""

import hmac

from aiohttp import web

from streams.settings import Settings


def is_authorized(request: web.Request, settings: Settings) -> bool:
    """Whether the request shows the internal token, and there is one."""
    given = request.headers.get("Authorization", "")
    return bool(settings.internal_token) and hmac.compare_digest(given.encode(), f"Bearer {settings.internal_token}".encode())
