"""What every request passes, and what every page is made with.

Guard      address asked for, origin, rate, session, and the headers of every answer
render     a template with the session's language, user and CSRF token
form_of    a form within its limits, its CSRF token checked
needs      who may ask
"""

from __future__ import annotations

import asyncio
import functools
import re
import secrets
import time
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import EdgeError
from ..logs import log
from .bank import Banks
from .choices import Choices
from .jobs import Workbench
from .live import LineWatch
from .options import StationOptions, is_loopback
from .sessions import RateLimiter, Session, Sessions, Throttle
from .templating import template
from .users import LOCAL_USER, Users, may
from .words import LANGUAGES, Words

__all__ = [
    "Guard",
    "Refused",
    "Services",
    "attached",
    "form_of",
    "needs",
    "own_path",
    "redirect",
    "render",
    "services",
    "session_of",
]

COOKIE, PREFERENCES = "edge_session", "edge_look"
THEMES = ("auto", "light", "dark")
_SAFE = frozenset({"GET", "HEAD"})
_CHUNK_TIMEOUT_S = 20.0
#: A form takes at most this long, and this much more for each byte it may have: slowly is not for ever.
_FORM_S, _SLOWEST_BYTES_PER_S = 30.0, 256 << 10
_OPEN_PATHS = frozenset({"/login", "/healthz"})

#: Nothing from elsewhere, nothing inline; pictures also from memory, for the preview of what is about to be sent.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),  # with "no-referrer" a browser hides the origin of our own forms, too
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
)


@dataclass(slots=True)
class Services:
    """Everything the pages stand on. token: what opens a session on loopback where there are no users."""

    options: StationOptions
    banks: Banks
    choices: Choices
    bench: Workbench
    sessions: Sessions
    users: Users | None
    watch: LineWatch
    token: str
    throttle: Throttle
    limiter: RateLimiter
    uploads: RateLimiter


class Refused(HTTPException):
    """A request that is answered with one sentence: key of the catalogue, or a sentence as it is."""

    def __init__(self, status: int, key: str = "", *, text: str = "", hint: str = "") -> None:
        super().__init__(status, text or key)
        self.key, self.text, self.hint = key, text, hint


def services(request: Request) -> Services:
    """What the application stands on."""
    found: Services = request.app.state.services
    return found


def session_of(request: Request) -> Session:
    """The session of a request that passed the guard."""
    session: Session | None = request.scope.get("edge_session")
    if session is None:
        raise Refused(403, "refused.login")
    return session


def _cookie_name(options: StationOptions) -> str:
    return f"__Host-{COOKIE}" if options.tls else COOKIE


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: one.value for name, one in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def look_of(headers: Headers) -> tuple[str, str]:
    """(language, theme) as chosen, else as the browser asks for."""
    language, _, theme = _cookies(headers).get(PREFERENCES, "").partition(".")
    if language not in LANGUAGES:
        asked = headers.get("accept-language", "").lower()
        language = "he" if asked.startswith(("he", "iw")) else "en"
    return language, theme if theme in THEMES else "auto"


def words_of(request: Request) -> Words:
    """The catalogue of the request's language."""
    return Words(look_of(request.headers)[0])


class Guard:
    """In front of every request. The order: whom was asked for, from where, how often, who asks."""

    def __init__(self, app: ASGIApp, *, services: Services) -> None:
        self._app, self._services = app, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, started = scope["path"], False

        async def sender(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message["headers"])
                for name, value in _HEADERS:
                    headers.setdefault(name, value)
                static = path.startswith("/static/")
                headers.setdefault("cache-control", "public, max-age=3600" if static else "no-store")
                if self._services.options.tls:
                    headers.setdefault("strict-transport-security", "max-age=31536000")
                message["headers"] = headers.raw
            await send(message)

        scope.setdefault("state", {})
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            response = error_response(Request(scope, receive), refusal)
            await response(scope, receive, sender)
            return
        if not path.startswith("/static/") and path not in _OPEN_PATHS and scope.get("edge_session") is None:
            response = self._let_in(Request(scope, receive))
            await response(scope, receive, sender)
            return
        try:
            await self._app(scope, receive, sender)
        except Exception as error:  # noqa: BLE001 - nobody sees a traceback; the log does
            log("page_bug", f"{type(error).__name__}: {error}", level=40, error=error, path=path)
            if not started:
                await error_response(Request(scope, receive), error)(scope, receive, sender)
        finally:
            form: FormData | None = scope.get("edge_form")
            if form is not None:  # a file where none was asked for, too
                await form.close()

    def _refusal(self, scope: Scope, headers: Headers) -> Refused | None:
        own = self._services
        host = headers.get("host", "")
        if is_loopback(own.options.host) and not _local_host(host):
            return Refused(421, "refused.host")  # a name of somebody else's that was made to point here
        if scope["method"] not in _SAFE and scope["method"] != "POST":
            return Refused(405, "refused.method")
        if scope["method"] == "POST" and not _same_origin(headers, host, own.options.tls):
            return Refused(403, "refused.origin")
        address = (scope.get("client") or ("", 0))[0]
        session = own.sessions.find(_cookies(headers).get(_cookie_name(own.options)))
        if not own.limiter.allows(session.key if session else f"address {address}"):
            return Refused(429, "refused.rate")
        scope["edge_session"] = session
        return None

    def _let_in(self, request: Request) -> Response:
        """Without a session: the token of a page on loopback opens one; elsewhere one has to log in."""
        own = self._services
        given = request.query_params.get("token", "")
        if own.users is None and given and secrets.compare_digest(given.encode(), own.token.encode()):
            cookie, _ = own.sessions.open(LOCAL_USER.name, LOCAL_USER.role)
            return set_session(redirect(own_path(request.url.path)), own.options, cookie)
        if own.users is None:
            return error_response(request, Refused(403, "refused.token"))
        if request.headers.get("hx-request"):
            return Response(status_code=204, headers={"HX-Redirect": "/login"})
        return redirect("/login")


def _local_host(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:  # "[" and the like
        return False
    return name is not None and is_loopback(name)


def _same_origin(headers: Headers, host: str, tls: bool) -> bool:
    """A browser says where a form comes from; one that says elsewhere, or nothing at all, is not ours."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return site is not None
    return origin == f"{'https' if tls else 'http'}://{host}"


_OWN_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


def own_path(path: str) -> str:
    """A path of this page as it is; for anything that a browser could take for another machine's: the first page."""
    return path if _OWN_PATH.fullmatch(path) else "/"


def redirect(path: str) -> RedirectResponse:
    """To a page of our own, by GET."""
    return RedirectResponse(path, status_code=303)


def set_session(response: Response, options: StationOptions, cookie: str | None) -> Response:
    """Hand a session's cookie over, or take it back with None."""
    name = _cookie_name(options)
    if cookie is None:
        response.delete_cookie(name, path="/", secure=options.tls, httponly=True, samesite="strict")
    else:
        response.set_cookie(name, cookie, path="/", secure=options.tls, httponly=True, samesite="strict")
    return response


# ---------------------------------------------------------------- answers


def render(request: Request, page: str, /, *, status: int = 200, **context: Any) -> HTMLResponse:
    """A page or a part of one."""
    language, theme = look_of(request.headers)
    session: Session | None = request.scope.get("edge_session")
    own = request.scope.get("app")
    known: Services | None = None if own is None else getattr(own.state, "services", None)
    html = template(page).render(
        t=Words(language),
        theme=theme,
        session=session,
        may=may,
        path=request.url.path,
        with_users=known is not None and known.users is not None,
        with_line=known is not None and (known.watch.url is not None or known.options.database is not None),
        **context,
    )
    return HTMLResponse(html, status_code=status)


def error_response(request: Request, error: Exception) -> Response:
    """One sentence and how to put it right; to htmx as a part of the page, to a browser as a page."""
    words = words_of(request)
    status, text, hint = 500, words("refused.bug"), ""
    if isinstance(error, Refused):
        status = error.status_code
        text, hint = error.text or words(error.key), error.hint
    elif isinstance(error, HTTPException):
        status = error.status_code
        key = f"refused.{status}"
        text = words(key) if words.known(key) else words("refused.bug")
    elif isinstance(error, EdgeError):
        status, text, hint = (400 if error.exit_code == 2 else 503), error.message, error.hint
    return render(request, "error.html", status=status, text=text, hint=hint, code=status)


Handler = Callable[[Request], Awaitable[Response]]


def needs(role: str) -> Callable[[Handler], Handler]:
    """Only sessions of this role and above; others are told so."""

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def guarded(request: Request) -> Response:
            if not may(session_of(request).role, role):
                raise Refused(403, "refused.role")
            return await handler(request)

        return guarded

    return decorate


# ---------------------------------------------------------------- forms


async def form_of(request: Request, *, most_bytes: int = 1 << 20) -> FormData:
    """The form of a POST, no longer than ``most_bytes``, its CSRF token that of the session.

    Raises Refused: 413 too long, 408 too slow, 400 broken, 403 a token that is not this session's.
    """
    until_s = time.monotonic() + _FORM_S + most_bytes / _SLOWEST_BYTES_PER_S
    session: Session | None = request.scope.get("edge_session")
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > most_bytes:
        raise Refused(413, "refused.large")
    taken = 0
    receive = request.receive

    async def counted() -> Message:
        nonlocal taken
        try:
            left_s = until_s - time.monotonic()
            message = await asyncio.wait_for(receive(), max(0.0, min(_CHUNK_TIMEOUT_S, left_s)))
        except asyncio.TimeoutError:
            raise Refused(408, "refused.slow") from None
        taken += len(message.get("body", b""))
        if taken > most_bytes:
            raise Refused(413, "refused.large")
        return message

    limited = Request(request.scope, counted)
    try:
        form = await limited.form(max_files=1, max_fields=40, max_part_size=64 << 10)
    except (MultiPartException, ClientDisconnect, HTTPException) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(400, "refused.form") from None
    request.scope["edge_form"] = form  # the guard closes it
    token = form.get("csrf")
    if session is not None and not (isinstance(token, str) and session.owns(token)):
        raise Refused(403, "refused.csrf")
    return form


#: Marks that turn the direction of what follows: one name could be read as another.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def text_of(form: Mapping[str, Any], name: str, most: int = 200, *, lines: bool = False) -> str:
    """A text field, trimmed; "" where it is missing. lines: of more than one line.

    Raises Refused for one that is too long, is a file, or holds what is no text: control characters, half characters.
    """
    value = form.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise Refused(400, "refused.form")
    value = value.replace("\r\n", "\n").strip()
    allowed = "\n\t" if lines else ""
    if any(unicodedata.category(one) in ("Cc", "Cs") and one not in allowed for one in value):
        raise Refused(400, "refused.text")
    if not _TURNING.isdisjoint(value):
        raise Refused(400, "refused.text")
    return value


def attached(data: bytes, media_type: str, name: str) -> Response:
    """To take away, never opened in place: nothing of a record runs on this page."""
    return Response(data, media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'})
