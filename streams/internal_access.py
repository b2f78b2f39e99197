"""Who may ask a process on its internal port: whoever shows LOYALTY_INTERNAL_TOKEN."""

import hmac

from aiohttp import web

from streams.settings import Settings


def refusal(request: web.Request, settings: Settings) -> web.Response | None:
    """The answer to whoever does not show the internal token, and to all if there is none; None to who does."""
    given = request.headers.get("Authorization", "")
    if settings.internal_token and hmac.compare_digest(given.encode(), f"Bearer {settings.internal_token}".encode()):
        return None
    return web.json_response({"error": "LOYALTY_INTERNAL_TOKEN does not match"}, status=401)
