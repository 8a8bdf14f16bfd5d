"""Who may use the viewer: this machine, or who has the token; and what its pages may load."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from urllib.parse import urlsplit

from flask import Flask, Response, abort, redirect, request

COOKIE = "unisim_token"
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self'; style-src 'self'"
    " 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none';"
    " base-uri 'none'; form-action 'self'"
)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def protect(server: Flask, token: str | None) -> None:
    """Refuses who may not use the server.

    A page of another site can make a browser send requests here, so on a loopback address the Host
    must be one, and what writes must come from a page of ours.

    Args:
        token: that everybody must have; None, on a loopback address alone, for nobody.
    """

    @server.before_request
    def check() -> Response | None:
        name = urlsplit(f"//{request.host}").hostname or ""
        if token is None and not is_loopback(name):
            abort(403, "this address is not the viewer's")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            abort(403, "a page of another site")
        if token is None:
            return None
        if hmac.compare_digest(request.args.get("token", "").encode(), token.encode()):
            answer = redirect(request.path)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
            return answer  # pyright: ignore[reportReturnType]
        if not hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), token.encode()):
            abort(403, "give the token: the address that `unisim audit --serve` printed has it")
        return None

    @server.after_request
    def limit(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = _POLICY
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer
