"""``edge-daemon station``: the page put together and served."""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import ConfigError, EdgeError, UnavailableError, UsageError
from ..images import make_folder
from . import (
    views_account,
    views_feedback,
    views_figures,
    views_inspect,
    views_knowledge,
    views_library,
    views_line,
    views_record,
)
from .bank import Banks
from .choices import Choices
from .jobs import Job, Workbench, step_back
from .live import LineWatch
from .options import StationOptions
from .serving import CONNECTIONS, Server, protocol
from .sessions import RateLimiter, Sessions, Throttle
from .users import Users
from .web import Guard, Services, error_response

__all__ = ["PageServer", "make_app"]

_STATIC = Path(__file__).parent / "static"
_FONTS = Path(__file__).parent / "fonts"
_STOP_TIMEOUT_S, _BACKLOG = 10, 128


def make_app(options: StationOptions) -> Starlette:
    """The application. Raises EdgeError for options that cannot be served with."""
    users = None if options.users is None else Users(options.users)
    if users is not None and not any(one.role == "administrator" for one in users.list()):
        raise UsageError(f"{options.users}: no administrator", hint="--users FILE --add-user NAME --role administrator")
    data = make_folder(options.data)
    data.chmod(0o700)
    banks, choices = Banks(data, options.database), Choices(options)

    def kept(job: Job) -> None:
        banks.note("inspected", job.record_id, who=job.user, body={"picture": job.name, "again": job.again})

    bench = Workbench(choices, banks, options.limits, kept)
    own = Services(
        options=options, banks=banks, choices=choices, bench=bench, sessions=Sessions(), users=users,
        watch=LineWatch(options.watch_url), token=options.token or secrets.token_urlsafe(24), throttle=Throttle(),
        limiter=RateLimiter(300, 80.0), uploads=RateLimiter(150, 3.0),
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        bench.start()
        views_feedback.warm(banks)
        yield
        bench.stop()
        choices.close()
        banks.close()

    app = Starlette(
        routes=_routes(),
        middleware=[Middleware(Guard, services=own)],
        exception_handlers={HTTPException: _answer, EdgeError: _answer},
        lifespan=lifespan,
    )
    app.state.services = own
    app.state.plates = views_library.Plates()
    return app


async def _answer(request: Request, error: Exception) -> Response:
    return error_response(request, error)


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("running\n")


def _routes() -> list[Route | Mount]:
    return [
        Route("/", views_inspect.home),
        Route("/inspect", views_inspect.submit, methods=["POST"]),
        Route("/inspect/table", views_inspect.table_fields),
        Route("/jobs/{job}", views_inspect.job_page),
        Route("/jobs/{job}/state", views_inspect.job_state),
        Route("/records/{source}/{record}", views_record.record_page),
        Route("/records/{source}/{record}/picture/{name}", views_record.picture),
        Route("/records/{source}/{record}/report.{kind}", views_record.report),
        Route("/records/{source}/{record}/feedback", views_feedback.feedback, methods=["POST"]),
        Route("/records/{source}/{record}/correct", views_feedback.correct, methods=["GET", "POST"]),
        Route("/records/{source}/{record}/similar", views_feedback.similar),
        Route("/records/{source}/{record}/mask/{sha256}.png", views_feedback.mask),
        Route("/records/{source}/{record}/{file}", views_record.download),
        Route("/live", views_line.live),
        Route("/live/state", views_line.live_state),
        Route("/history", views_line.history),
        Route("/history/lot.pdf", views_line.lot),
        Route("/history/{table}.{kind}", views_figures.export),
        Route("/statistics", views_figures.statistics),
        Route("/knowledge", views_knowledge.knowledge),
        Route("/knowledge/{type}", views_knowledge.pattern, methods=["GET", "POST"]),
        Route("/library", views_library.library),
        Route("/library/standards/{name}", views_library.standard),
        Route("/library/references/{name:path}/plate/{level:int}", views_library.plate),
        Route("/library/references/{name:path}", views_library.reference_set),
        Route("/system", views_account.system),
        Route("/audit", views_knowledge.audit),
        Route("/users", views_account.users, methods=["GET", "POST"]),
        Route("/login", views_account.login, methods=["GET", "POST"]),
        Route("/password", views_account.password, methods=["GET", "POST"]),
        Route("/logout", views_account.logout, methods=["POST"]),
        Route("/look", views_account.look, methods=["POST"]),
        Route("/healthz", _healthz),
        Mount("/static/fonts", StaticFiles(directory=_FONTS)),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]


def _check_tls(options: StationOptions) -> None:
    """Say what is wrong with certificate and key before anything is served."""
    if options.tls_cert is None or options.tls_key is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{options.tls_cert} and {options.tls_key} cannot be used: {error}", hint="a PEM certificate and its key"
        ) from None


class PageServer:
    """The page on its port. ``run`` serves until a signal; as a context manager it serves in a thread (tests, demo).

    Raises UnavailableError (PORT) when the address cannot be listened on, EdgeError for unusable options.
    """

    def __init__(self, options: StationOptions) -> None:
        self.options = options
        _check_tls(options)
        self._app = make_app(options)
        try:
            family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
            self._socket = socket.socket(family)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((options.host, options.port))
            self._socket.listen(_BACKLOG)  # from now on whoever asks waits for the answer
        except OSError as error:
            raise UnavailableError(
                f"{options.host}:{options.port} cannot be used for the page: {error.strerror or error}",
                code="PORT", hint="is it running already? Else choose another --port",
            ) from error  # fmt: skip
        self._server = Server(uvicorn.Config(
            self._app, log_config=None, access_log=False, server_header=False, date_header=False, proxy_headers=False,
            ssl_certfile=options.tls_cert, ssl_keyfile=options.tls_key, limit_concurrency=CONNECTIONS,
            timeout_keep_alive=15, timeout_graceful_shutdown=_STOP_TIMEOUT_S, backlog=_BACKLOG, ws="none",
            http=protocol(), h11_max_incomplete_event_size=32 << 10,
        ))  # fmt: skip
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where it is, with the token that opens it where there are no users."""
        services: Services = self._app.state.services
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        base = f"{'https' if self.options.tls else 'http'}://{host}:{self.port}/"
        return base if services.users is not None else f"{base}?token={services.token}"

    def run(self, started: Callable[[str], None] = lambda _: None) -> None:
        """Serve until SIGINT or SIGTERM."""
        started(self.url)
        self._serve()

    def _serve(self) -> None:
        """The clerk first, at the priority of now; everything else gives way from here on."""
        services: Services = self._app.state.services
        if services.banks.clerk is not None:
            services.banks.clerk.start()
        step_back(self.options.niceness)
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> PageServer:
        self._thread = threading.Thread(target=self._serve, name="page")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
