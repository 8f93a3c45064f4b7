"""Who is here: login and logout, users, looks; and the system behind the page."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import starlette
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from ..errors import EdgeError, UsageError
from ..recipe import load_recipe
from ..segment.bundle import load
from .sessions import Session
from .users import LEAST_PASSWORD, ROLES, Users, password_flaw
from .web import (
    PREFERENCES,
    THEMES,
    Refused,
    form_of,
    look_of,
    needs,
    own_path,
    redirect,
    render,
    services,
    session_of,
    set_session,
    text_of,
)
from .words import LANGUAGES

__all__ = ["login", "logout", "look", "password", "system", "users"]

#: scrypt takes 32 MiB a try.
_HASHING = CapacityLimiter(2)


async def login(request: Request) -> Response:
    """Name and password. What was wrong is not said; after three tries one has to wait."""
    own = services(request)
    if own.users is None:
        raise Refused(404, "refused.404")
    if request.method != "POST":
        return render(request, "login.html", failed=False, wait_s=0)
    form = await form_of(request, most_bytes=16 << 10)
    name, secret = text_of(form, "name", 64), form.get("password", "")
    address = _address(request)
    keys = _tries(address, name)
    wait_s = own.throttle.wait_s(*keys)
    if wait_s > 0:
        return render(request, "login.html", status=429, failed=True, wait_s=round(wait_s + 0.5))
    own.throttle.failed(*keys)  # taken back below: tries at the same time must not all find the door open
    user = None
    if isinstance(secret, str):
        user = await to_thread.run_sync(own.users.check, name, secret, limiter=_HASHING)
    if user is None:
        await to_thread.run_sync(lambda: own.banks.note("login_failed", name or "-", who=address or "-", why="refused"))
        return render(request, "login.html", status=403, failed=True, wait_s=0)
    own.throttle.succeeded(*keys)
    await to_thread.run_sync(
        lambda: own.banks.note("login", user.name, who=user.name, why="the password", body={"address": address})
    )
    before: Session | None = request.scope.get("edge_session")
    if before is not None:
        own.sessions.close(before.key)
    cookie, session = own.sessions.open(user.name, user.role)
    if own.users.get(user.name) != user:  # changed or removed while the password was looked at
        own.sessions.close(session.key)
        return render(request, "login.html", status=403, failed=True, wait_s=0)
    return set_session(redirect("/"), own.options, cookie)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _tries(address: str, name: str) -> tuple[str, ...]:
    """Under what a try of a password counts."""
    return f"name {name}", f"address {address}", f"both {address} {name}"


@needs("operator")
async def password(request: Request) -> Response:
    """One's own password, by whoever knows the present one: an open session alone, at a panel that was left, is not
    enough. Tries count as those to log in. Every other session of the user ends; this one goes on under a new cookie.
    """
    own, session, known = services(request), session_of(request), _users(request)
    if request.method != "POST":
        return _password_page(request, done=request.query_params.get("done") == "1")
    form = await form_of(request, most_bytes=16 << 10)
    present, new, again = (form.get(name, "") for name in ("present", "password", "again"))
    if not (isinstance(present, str) and isinstance(new, str) and isinstance(again, str)):
        raise Refused(400, "refused.form")
    flaw = password_flaw(session.user, new) or ("same" if new == present else "") or ("again" if new != again else "")
    if flaw:
        return _password_page(request, 400, flaw)
    address = _address(request)
    keys = (*_tries(address, session.user), f"session {session.key}")
    wait_s = own.throttle.wait_s(*keys)
    if wait_s > 0:
        return _password_page(request, 429, wait_s=round(wait_s + 0.5))
    own.throttle.failed(*keys)  # taken back below, as in login
    why = "by their own hand, the present one given"
    noted = partial(own.banks.note, "own_password", session.user, who=session.user, why=why, body={"address": address})
    try:
        change = partial(known.change_own, session.user, present, new, noted)
        user = await to_thread.run_sync(change, limiter=_HASHING)
    except EdgeError as error:
        own.throttle.succeeded(*keys)  # the password was right
        return _password_page(request, 400, error=error)
    if user is None:
        failed = partial(own.banks.note, "own_password_failed", session.user, who=session.user, why="refused")
        await to_thread.run_sync(failed)
        return _password_page(request, 403, "wrong")
    own.throttle.succeeded(*keys)
    own.sessions.close_user(user.name)
    cookie, opened = own.sessions.open(user.name, user.role)
    if known.get(user.name) != user:  # changed or removed in between: the session is not that user's any more
        own.sessions.close(opened.key)
        return set_session(redirect("/login"), own.options, None)
    return set_session(redirect("/password?done=1"), own.options, cookie)


def _password_page(
    request: Request, status: int = 200, flaw: str = "", *, wait_s: int = 0, done: bool = False,
    error: EdgeError | None = None,
) -> Response:  # fmt: skip
    return render(request, "password.html", status=status, flaw=flaw, wait_s=wait_s, done=done, error=error,
                  least=LEAST_PASSWORD)  # fmt: skip


@needs("operator")
async def logout(request: Request) -> Response:
    """End this session."""
    own, session = services(request), session_of(request)
    await form_of(request)
    own.sessions.close(session.key)
    if own.users is not None:
        await to_thread.run_sync(lambda: own.banks.note("logout", session.user, who=session.user))
    response = set_session(redirect("/login" if own.users is not None else "/"), own.options, None)
    response.headers["clear-site-data"] = '"cache"'  # the next one at this panel finds no picture of before
    return response


@needs("operator")
async def look(request: Request) -> Response:
    """Language and theme, kept in a cookie; back to where one was."""
    form = await form_of(request)
    language, theme = look_of(request.headers)
    asked_language, asked_theme = text_of(form, "language"), text_of(form, "theme")
    language = asked_language if asked_language in LANGUAGES else language
    theme = asked_theme if asked_theme in THEMES else theme
    back = text_of(form, "back", 2000)
    response = redirect(own_path(back))
    response.set_cookie(PREFERENCES, f"{language}.{theme}", max_age=365 * 86400, path="/", httponly=True,
                        secure=services(request).options.tls, samesite="strict")  # fmt: skip
    return response


# ---------------------------------------------------------------- users


def _users(request: Request) -> Users:
    found = services(request).users
    if found is None:
        raise Refused(404, "refused.404")
    return found


@needs("administrator")
async def users(request: Request) -> Response:
    """Add, change and remove users; each change stands in the audit trail with who and why."""
    known, own, session = _users(request), services(request), session_of(request)
    error: EdgeError | None = None
    if request.method == "POST":
        form = await form_of(request, most_bytes=16 << 10)
        do, name, role = text_of(form, "do"), text_of(form, "name", 64), text_of(form, "role")
        why, secret = text_of(form, "why"), form.get("password", "")
        try:
            if not isinstance(secret, str):
                raise Refused(400, "refused.form")
            body = {"role": role} if do in ("add", "role") else {}
            if not why:
                raise UsageError("the reason is missing", hint="every change is kept with who made it and why")
            noted = partial(own.banks.note, f"user_{do}", name, who=session.user, why=why, body=body)
            await to_thread.run_sync(_change, known, do, name, role, secret, noted, limiter=_HASHING)
            if do != "add":
                own.sessions.close_user(name)
            return redirect("/users")
        except EdgeError as caught:
            error = caught
    return render(request, "users.html", status=400 if error else 200, users=known.list(), roles=ROLES, error=error,
                  least=LEAST_PASSWORD)  # fmt: skip


def _change(known: Users, do: str, name: str, role: str, secret: str, noted: Callable[[], object]) -> None:
    if do == "add":
        known.add(name, role, secret, noted)
    elif do == "role":
        known.change(name, role=role, noted=noted)
    elif do == "password":
        known.change(name, password=secret, noted=noted)
    elif do == "remove":
        known.remove(name, noted)
    else:
        raise Refused(400, "refused.form")


# ---------------------------------------------------------------- system


@needs("operator")
async def system(request: Request) -> Response:
    """Versions, hashes, hardware, engines, calibrations, banks."""
    return render(request, "system.html", **await to_thread.run_sync(_system, request))


def _system(request: Request) -> dict[str, Any]:
    own = services(request)
    engines = []
    for name, folder in own.choices.engines().items():
        try:
            bundle = load(folder)
            claims = bundle.certificate.get("claims")
            engines.append((name, bundle.sha256, str(bundle.manifest.get("version", "")),
                            None if claims is None else str(claims.get("sentence", "")), ""))  # fmt: skip
        except EdgeError as error:
            engines.append((name, "", "", None, str(error)))
    calibrations = []
    for name, path in own.choices.recipes().items():
        try:
            recipe = load_recipe(path)
        except EdgeError as error:
            calibrations.append((name, "", "", str(error)))
            continue
        calibration = recipe.calibration
        calibrations.append((name, recipe.sha256, "" if calibration is None else calibration.expires_utc, ""))
    line = own.banks.line
    return {
        "versions": [("edge-daemon", __version__), ("Python", platform.python_version()), ("NumPy", np.__version__),
                     ("OpenCV", cv2.__version__), ("Starlette", starlette.__version__), ("Linux", platform.release())],
        "hardware": [("machine", platform.machine()), ("cpus", str(os.cpu_count())), ("memory", _memory()),
                     ("executable", os.path.basename(sys.executable))],
        "engines": engines,
        "calibrations": calibrations,
        "banks": [("line", None if line is None else line.stats()), ("page", own.banks.page.stats())],
        "free_bytes": shutil.disk_usage(own.banks.data).free,
        "waiting": own.bench.pending(),
        "open_sessions": own.sessions.count(),
        "backend": own.options.backend,
    }  # fmt: skip


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError):
        return "–"
