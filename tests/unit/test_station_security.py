"""Who may do what on the page: sessions, users, limits, origins, headers, the audit trail."""

from __future__ import annotations

import json
import re
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_daemon.errors import ConfigError, StorageError, UsageError
from edge_daemon.memory import MemoryBank
from edge_daemon.station import web
from edge_daemon.station.app import PageServer, make_app
from edge_daemon.station.options import StationOptions, is_loopback
from edge_daemon.station.serving import protocol
from edge_daemon.station.sessions import RateLimiter, Sessions, Throttle
from edge_daemon.station.users import Users, may

PASSWORD = "a sentence of its own"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


# ---------------------------------------------------------------- sessions and limits


def test_a_session_ends_when_idle_when_old_and_when_closed() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    cookie, session = sessions.open("ann", "inspector")
    assert sessions.find(cookie) is session and sessions.find("another") is None and sessions.find(None) is None
    clock.now_s += 7 * 3600
    assert sessions.find(cookie) is session
    clock.now_s += 9 * 3600
    assert sessions.find(cookie) is None, "idle for too long"
    cookie, _ = sessions.open("ann", "inspector")
    for _ in range(5):
        clock.now_s += 5 * 3600
        last = sessions.find(cookie)
    assert last is None, "a day is the longest"
    cookie, session = sessions.open("ann", "inspector")
    sessions.close_user("ann")
    assert sessions.find(cookie) is None


def test_sessions_do_not_fill_the_memory() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    first, _ = sessions.open("ann", "operator")
    for number in range(600):
        clock.now_s += 1
        sessions.open(f"bob{number}", "operator")
    assert sessions.count() == 500 and sessions.find(first) is None


def test_one_user_cannot_put_the_others_out() -> None:
    sessions = Sessions(Clock())
    first, _ = sessions.open("ann", "operator")
    for _ in range(600):
        sessions.open("bob", "operator")
    assert sessions.find(first) is not None and sessions.count() == 41


def test_a_bucket_empties_and_fills_for_each_asker_alone() -> None:
    clock = Clock()
    limiter = RateLimiter(3, 1.0, most_keys=2, clock=clock)
    assert [limiter.allows("a") for _ in range(4)] == [True, True, True, False]
    assert limiter.allows("b")
    clock.now_s += 2.0
    assert [limiter.allows("a") for _ in range(3)] == [True, True, False]
    limiter.allows("c")
    limiter.allows("d")
    assert len(limiter._buckets) == 2


def test_wrong_passwords_cost_more_and_more_time() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(3):
        throttle.failed("name ann")
    assert throttle.wait_s("name ann") == 0.0
    throttle.failed("name ann")
    assert throttle.wait_s("name ann", "address x") == 2.0
    for _ in range(20):
        throttle.failed("name ann", "both x ann")
    assert throttle.wait_s("both x ann") == 900.0
    assert throttle.wait_s("name ann") == 20.0, "a stranger cannot lock its owner out"
    throttle.succeeded("name ann", "both x ann")
    assert throttle.wait_s("name ann", "both x ann") == 0.0


def test_however_often_somebody_tries_the_wait_does_not_break() -> None:
    throttle = Throttle(Clock())
    for _ in range(3000):
        throttle.failed("address x")
    assert throttle.wait_s("address x") == 900.0


# ---------------------------------------------------------------- users


def test_users_are_kept_as_hashes_that_only_their_owner_may_read(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.json")
    users.add("ann", "administrator", PASSWORD)
    text = (tmp_path / "users.json").read_text()
    assert PASSWORD not in text
    assert stat.S_IMODE((tmp_path / "users.json").stat().st_mode) == 0o600
    again = Users(tmp_path / "users.json")
    found = again.check("ann", PASSWORD)
    assert found is not None and found.role == "administrator"
    assert again.check("ann", PASSWORD + "x") is None and again.check("bob", PASSWORD) is None


def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.json")
    users.add("ann", "administrator", PASSWORD)
    before = (tmp_path / "users.json").read_bytes()
    for change in (
        lambda: users.add("ann", "operator", PASSWORD), lambda: users.add("bob", "king", PASSWORD),
        lambda: users.add("../x", "operator", PASSWORD), lambda: users.add("bob", "operator", "short"),
        lambda: users.change("ann", role="operator"), lambda: users.remove("ann"), lambda: users.remove("bob"),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            change()
    assert (tmp_path / "users.json").read_bytes() == before
    users.add("bob", "administrator", PASSWORD)
    users.change("ann", role="operator")
    users.remove("ann")
    assert [one.name for one in users.list()] == ["bob"]


def test_a_user_added_beside_the_page_is_known_and_never_lost(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    users = Users(path)
    users.add("ann", "administrator", PASSWORD)
    Users(path).add("bob", "operator", PASSWORD)  # as --add-user does, in a process of its own
    assert users.check("bob", PASSWORD) is not None
    Users(path).add("cid", "operator", PASSWORD)
    users.change("bob", role="inspector")
    assert [(one.name, one.role) for one in Users(path).list()] == [
        ("ann", "administrator"), ("bob", "inspector"), ("cid", "operator")
    ]  # fmt: skip
    path.unlink()
    users.change("cid", role="inspector")
    assert len(Users(path).list()) == 3
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no file of users"):
        users.get("ann")


@pytest.mark.parametrize("change", [{"n": 2}, {"role": "king"}, {"salt": ""}, {"name": "../x"}, {"extra": 1}])
def test_a_file_of_users_that_was_tampered_with_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "users.json"
    Users(path).add("ann", "administrator", PASSWORD)
    document = json.loads(path.read_text())
    document["users"][0].update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="no file of users"):
        Users(path)


def test_roles_build_on_each_other() -> None:
    assert may("administrator", "operator") and may("inspector", "inspector") and not may("operator", "inspector")


# ---------------------------------------------------------------- where it may listen


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "station.example"])
def test_other_machines_are_let_in_with_tls_and_users_only(tmp_path: Path, host: str) -> None:
    pem = tmp_path / "x.pem"
    with pytest.raises(UsageError, match="no TLS"):
        StationOptions(data=tmp_path, host=host, users=tmp_path / "u")
    with pytest.raises(UsageError, match="no users"):
        StationOptions(data=tmp_path, host=host, tls_cert=pem, tls_key=pem)
    assert StationOptions(data=tmp_path, host=host, tls_cert=pem, tls_key=pem, users=tmp_path / "u").tls
    with pytest.raises(UsageError, match="go together"):
        StationOptions(data=tmp_path, tls_cert=pem)


def test_loopback_is_an_address_not_a_name() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("127.9.9.9") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("localhost.example") and not is_loopback("0.0.0.0")


def test_without_an_administrator_it_does_not_start(tmp_path: Path) -> None:
    Users(tmp_path / "users.json").add("ann", "inspector", PASSWORD)
    with pytest.raises(UsageError, match="no administrator"):
        make_app(StationOptions(data=tmp_path / "data", users=tmp_path / "users.json"))


# ---------------------------------------------------------------- requests


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    with PageServer(StationOptions(data=tmp_path / "data", port=0)) as running:
        yield running


def base_of(server: PageServer) -> str:
    return f"http://127.0.0.1:{server.port}"


_CLIENTS: list[httpx.Client] = []


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    yield
    while _CLIENTS:
        _CLIENTS.pop().close()


def browser(server: PageServer, *, key: bool = True) -> httpx.Client:
    """A client that says where its forms come from, as a browser does."""
    client = httpx.Client(base_url=base_of(server), headers={"origin": base_of(server)}, timeout=30.0)
    _CLIENTS.append(client)
    if key:
        assert client.get(server.url).status_code == 303
    return client


def csrf_of(client: httpx.Client, path: str = "/") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path, headers={"accept-language": "en"}).text)
    assert found is not None
    return found.group(1)


def test_the_key_opens_a_session_and_leaves_the_address(server: PageServer) -> None:
    client = browser(server, key=False)
    assert client.get("/").status_code == 403
    assert client.get("/?token=wrong").status_code == 403
    answer = client.get(server.url)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert client.get("/").status_code == 200


def test_every_answer_carries_the_headers(server: PageServer) -> None:
    client = browser(server)
    for path in ("/", "/nowhere", "/static/page.css", "/static/none", "/jobs/none"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
    assert client.get("/").headers["cache-control"] == "no-store"


def test_a_page_by_another_name_is_not_answered(server: PageServer) -> None:
    """A foreign name that points here must not reach the page of a browser on this machine."""
    answer = httpx.get(f"{base_of(server)}/healthz", headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert httpx.get(f"{base_of(server)}/healthz", headers={"host": f"localhost:{server.port}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"sec-fetch-site": "same-site"}],
)  # fmt: skip
def test_a_form_from_elsewhere_is_refused(server: PageServer, headers: dict[str, str]) -> None:
    client = browser(server)
    token = csrf_of(client)
    assert client.post("/look", data={"csrf": token, "theme": "dark"}, headers=headers).status_code == 403
    assert client.post("/look", data={"csrf": token, "theme": "dark"}).status_code == 303


def test_a_form_without_its_own_token_is_refused(server: PageServer) -> None:
    client, other = browser(server), browser(server)
    for token in ("", "x", csrf_of(other)):
        assert client.post("/look", data={"csrf": token, "theme": "dark"}).status_code == 403
    token = csrf_of(client)
    del client.headers["origin"]
    assert client.post("/look", data={"csrf": token}).status_code == 403, "says nothing of where it is from"


def test_methods_that_nobody_needs_are_refused(server: PageServer) -> None:
    client = browser(server)
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
        assert client.request(method, "/").status_code == 405


def test_no_path_from_outside_reaches_a_file(server: PageServer, tmp_path: Path) -> None:
    client = browser(server)
    (tmp_path / "secret.png").write_bytes(b"what nobody may see")
    for path in (
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
        "/records/page/../../secret.png", "/records/page/x/picture/..%2f..%2fsecret", "/records/page/x/frame.png",
        "/records/..%2f/x", "/library/references/..%2f..%2f..%2fetc", "/library/references//etc",
        "/library/standards/..%2f..%2fsetup", "/jobs/..%2f..%2fx", "/records/line/%00/record.json",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code in (400, 404), path
        assert "what nobody may see" not in answer.text and "root:" not in answer.text


def test_going_back_leads_to_a_page_of_our_own(server: PageServer) -> None:
    client = browser(server)
    for back in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        answer = client.post("/look", data={"csrf": csrf_of(client), "theme": "dark", "back": back})
        assert answer.headers["location"] == "/"
    answer = client.post("/look", data={"csrf": csrf_of(client), "language": "he", "back": "/system"})
    assert answer.headers["location"] == "/system"
    page = client.get("/system")
    assert '<html lang="he" dir="rtl" data-theme="dark">' in page.text


def raw(server: PageServer, request: bytes, wait_s: float = 10.0) -> bytes:
    """The answer to exactly these bytes, until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait_s) as one:
        one.sendall(request)
        got = b""
        while data := one.recv(65536):
            got += data
        return got


@pytest.mark.parametrize("host", ["[", "[::1", "]", "127.0.0.1@evil.example", "evil.example#127.0.0.1", ""])
def test_a_host_that_is_none_is_refused_and_breaks_nothing(server: PageServer, host: str) -> None:
    answer = raw(server, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in (b"421", b"400")
    assert b"Traceback" not in answer and b"running" not in answer


def test_no_line_of_a_header_comes_from_outside(server: PageServer) -> None:
    client = browser(server)
    for back in ("/live\r\nset-cookie: edge_session=x", "/live\nx: y", "/\t/evil.example", "/live\x00", "/ליב"):
        answer = client.post("/look", data={"csrf": csrf_of(client), "theme": "dark", "back": back})
        assert answer.status_code in (303, 400), back
        assert answer.headers.get("location", "/") == "/" and "x" not in answer.headers
        assert "edge_session" not in answer.headers.get("set-cookie", "")


def test_the_key_leads_to_no_other_machine(server: PageServer) -> None:
    token = server.url.partition("token=")[2]
    answer = raw(
        server, f"GET //evil.example/?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        "Connection: close\r\n\r\n".encode(),
    )  # fmt: skip
    assert b"location: /\r\n" in answer.lower()


def test_who_opens_connections_and_says_nothing_loses_them(tmp_path: Path) -> None:
    """One machine must not keep everybody else out by holding all connections there are."""
    running = PageServer(StationOptions(data=tmp_path / "data", port=0))
    running._server.config.http = protocol(head_timeout_s=0.5, of_an_address=3)
    with running:
        address = ("127.0.0.1", running.port)
        httpx.get(f"{base_of(running)}/healthz")
        idle = [socket.create_connection(address, timeout=10) for _ in range(2)]
        idle[1].sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        assert httpx.get(f"{base_of(running)}/healthz").status_code == 200
        more = [socket.create_connection(address, timeout=10) for _ in range(3)]
        started_s = time.monotonic()
        assert [one.recv(10) for one in (*more[1:], *idle)] == [b""] * 4, "too many, and too slow"
        assert time.monotonic() - started_s < 5.0
        assert httpx.get(f"{base_of(running)}/healthz").status_code == 200
        for one in (*idle, *more):
            one.close()


@pytest.mark.parametrize(
    ("last", "connections", "status"), [("close", 9, 403), ("keep-alive", 9, 403), ("keep-alive", 1, 503)]
)
def test_who_is_refused_before_all_is_sent_reads_the_answer(
    server: PageServer, last: str, connections: int, status: int
) -> None:
    """Closed over unread words, a connection is reset, and the answer may be lost with it. 503: all are taken."""
    server._server.config.limit_concurrency = connections
    body = b"x" * (8 << 20)
    head = (
        f"POST /inspect HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: http://evil.example\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {last}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one:
        one.sendall(head.encode() + body[:1000])
        time.sleep(0.5)  # the answer is there; its sender goes on sending, as browsers do
        one.sendall(body[1000:])
        got = one.recv(65536)
        assert got.startswith(f"HTTP/1.1 {status}".encode())
        if last == "close" or status == 503:
            while data := one.recv(65536):
                got += data
            assert got.rstrip().endswith(b"</html>" if status == 403 else b"Service Unavailable")
            return
        one.sendall(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        while b"running" not in got:
            got += one.recv(65536) or b"closed"
        assert b"closed" not in got and b"HTTP/1.1 200" in got


def test_what_is_no_request_is_refused_and_nobody_goes_on_with_it(
    server: PageServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Chunks that are none, words behind the end of a request: 400, and no mistake of the page's own."""
    client = browser(server)
    head = (
        f"Host: 127.0.0.1:{server.port}\r\nOrigin: {base_of(server)}\r\n"
        f"Cookie: edge_session={client.cookies['edge_session']}\r\n"
    )
    chunked = f"POST /look HTTP/1.1\r\n{head}Content-Type: application/x-www-form-urlencoded\r\n"
    assert b" 400 " in raw(server, f"{chunked}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode())[:40]
    for end in (False, True):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as one:
                one.sendall(f"GET /history HTTP/1.0\r\n{head}\r\n".encode())
                time.sleep(0.001)
                with suppress(OSError):  # it broke the rules: it may or may not see the answer
                    one.sendall(b"--x\r\nxxx")
                    if end:
                        one.shutdown(socket.SHUT_WR)
                    assert one.recv(65536)[9:12] in (b"200", b"400", b"")
    assert client.get("/system").status_code == 200
    assert not [one for one in caplog.records if one.exc_info or "page_bug" in one.getMessage()]


def test_who_is_refused_and_sends_no_more_loses_the_connection(tmp_path: Path) -> None:
    running = PageServer(StationOptions(data=tmp_path / "data", port=0))
    running._server.config.http = protocol(head_timeout_s=30.0)
    running._server.config.http.rest_s = 0.5  # type: ignore[attr-defined]
    with running, socket.create_connection(("127.0.0.1", running.port), timeout=20) as one:
        head = f"POST /inspect HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nContent-Length: 999999\r\n\r\nx"
        one.sendall(head.encode())
        assert one.recv(65536).startswith(b"HTTP/1.1 403")
        one.sendall(b"x")  # a drop, and then silence
        started_s = time.monotonic()
        while one.recv(65536):
            continue
        assert time.monotonic() - started_s < 5.0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_under_way_when_the_page_is_told_to_stop_is_answered(tmp_path: Path, method: str) -> None:
    """On a connection that was open: sent before it was closed, read by nobody yet."""
    running = PageServer(StationOptions(data=tmp_path / "data", port=0))
    really = running._server.shutdown
    body = b"x" * 300_000 if method == "POST" else b""
    head = (
        f"{method} /healthz HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nOrigin: {base_of(running)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as one:

        async def shutdown(sockets: Any = None) -> None:
            one.sendall(head.encode() + body)
            await really(sockets)

        running._server.shutdown = shutdown  # type: ignore[method-assign]
        with running:
            one.sendall(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode())
            got = b""
            while b"running" not in got:
                got += one.recv(65536)
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 8.0
        got = b""
        while data := one.recv(65536):
            got += data
    assert got.startswith(b"HTTP/1.1 200" if method == "GET" else b"HTTP/1.1 405"), got[:80]


def test_a_form_that_comes_too_slowly_is_cut_off(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part in time, but never an end."""
    monkeypatch.setattr(web, "_FORM_S", 0.6)
    monkeypatch.setattr(web, "_SLOWEST_BYTES_PER_S", 1 << 30)
    client = browser(server)
    head = (
        f"POST /look HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: {base_of(server)}\r\nContent-Length: 9999\r\n"
        f"Cookie: edge_session={client.cookies['edge_session']}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n\r\ncsrf="
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as one:
        one.sendall(head.encode())
        got, sent = b"", 0
        while not got and sent < 100:
            one.sendall(b"x")
            sent += 1
            try:
                got = one.recv(65536)
            except TimeoutError:
                continue
    assert got.startswith(b"HTTP/1.1 408"), (got[:40], sent)


def test_a_form_that_is_too_long_is_cut_off(server: PageServer) -> None:
    client = browser(server)
    answer = client.post("/look", data={"csrf": csrf_of(client), "back": "x" * (2 << 20)})
    assert answer.status_code == 413

    def endless() -> Iterator[bytes]:  # no length is stated
        for _ in range(64):
            yield b"x" * 65536

    answer = client.post("/look", content=endless(), headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code in (400, 413)
    assert client.get("/").status_code == 200


def test_who_asks_too_often_is_told_to_wait(server: PageServer) -> None:
    client = browser(server)
    server._app.state.services.limiter = RateLimiter(5, 0.001)
    answers = [client.get("/healthz").status_code for _ in range(8)]
    assert answers == [200] * 5 + [429] * 3


def test_text_of_others_is_escaped(server: PageServer) -> None:
    client = browser(server)
    answer = client.get("/history", params={"since": "<script>alert(1)</script>"})
    assert answer.status_code == 400 and "<script>alert" not in answer.text
    answer = client.get("/library/standards/house-demo", params={"metal": "aluminum", "thickness": '"><img src=x>'})
    assert "<img src=x>" not in answer.text


# ---------------------------------------------------------------- roles


@pytest.fixture
def staffed(tmp_path: Path) -> Iterator[PageServer]:
    users = Users(tmp_path / "users.json")
    for name, role in (("ann", "administrator"), ("ian", "inspector"), ("otto", "operator")):
        users.add(name, role, PASSWORD)
    with PageServer(StationOptions(data=tmp_path / "data", port=0, users=tmp_path / "users.json")) as running:
        yield running


def logged_in(server: PageServer, name: str, password: str = PASSWORD) -> httpx.Client:
    client = browser(server, key=False)
    client.post("/login", data={"name": name, "password": password})
    return client


def test_each_role_sees_what_it_may(staffed: PageServer) -> None:
    allowed = {
        "otto": {"/history": 200, "/system": 200, "/library": 200, "/": 403, "/users": 403, "/audit": 403},
        "ian": {"/history": 200, "/": 200, "/users": 403, "/audit": 403, "/jobs/none": 404},
        "ann": {"/history": 200, "/": 200, "/users": 200, "/audit": 200},
    }
    for name, pages in allowed.items():
        client = logged_in(staffed, name)
        for path, status in pages.items():
            assert client.get(path).status_code == status, (name, path)
    stranger = browser(staffed, key=False)
    assert stranger.get("/history").headers["location"] == "/login"
    assert stranger.get("/live/state", headers={"hx-request": "true"}).headers["hx-redirect"] == "/login"
    assert stranger.get(staffed.url + "?token=x").status_code == 303


def test_wrong_passwords_are_noted_and_slow_down(staffed: PageServer) -> None:
    staffed._app.state.services.throttle.clock = Clock()
    client = browser(staffed, key=False)
    statuses = [client.post("/login", data={"name": "ann", "password": "wrong"}).status_code for _ in range(5)]
    assert statuses == [403, 403, 403, 403, 429]
    assert client.post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 429
    with MemoryBank(staffed.options.data / "page.db", read_only=True) as bank:
        assert [one.kind for one in bank.notes(limit=10)] == ["login_failed"] * 4


def test_changes_of_users_stand_in_the_trail_with_who_and_why_and_end_their_sessions(staffed: PageServer) -> None:
    ann, otto = logged_in(staffed, "ann"), logged_in(staffed, "otto")
    form = {"csrf": csrf_of(ann, "/users"), "name": "otto", "role": "inspector", "why": "passed the exam", "do": "role"}
    assert ann.post("/users", data=form).status_code == 303
    assert otto.get("/history").headers["location"] == "/login", "the role of the open session is not that any more"
    assert logged_in(staffed, "otto").get("/").status_code == 200
    refused = ann.post("/users", data={**form, "name": "ann", "role": "operator"})
    assert refused.status_code == 400 and "no administrator" in refused.text
    page = ann.get("/audit?verify=1").text
    assert "passed the exam" in page and "user_role" in page and "each as it was written" in page
    token = csrf_of(logged_in(staffed, "ian"))
    assert logged_in(staffed, "ian").post("/users", data={**form, "csrf": token}).status_code == 403


def test_nobody_is_logged_in_from_elsewhere(staffed: PageServer) -> None:
    """A foreign page that logs a browser in as somebody would get what is then sent."""
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        answer = httpx.post(f"{base_of(staffed)}/login", data={"name": "ann", "password": PASSWORD}, headers=headers)
        assert answer.status_code == 403 and "set-cookie" not in answer.headers
    answer = httpx.post(f"{base_of(staffed)}/login", data={"name": "ann", "password": PASSWORD})
    assert answer.status_code == 403, "says nothing of where it is from"


def test_a_session_is_never_the_one_that_was_brought_along(staffed: PageServer) -> None:
    client = browser(staffed, key=False)
    client.cookies.set("edge_session", "chosen-by-somebody-else")
    assert client.get("/history").headers["location"] == "/login"
    client.post("/login", data={"name": "ian", "password": PASSWORD})
    first = client.cookies.get("edge_session", domain="127.0.0.1")
    assert first not in (None, "chosen-by-somebody-else")
    client.cookies.clear()
    client.cookies.set("edge_session", first)
    other = {"name": "otto", "password": PASSWORD}
    assert client.post("/login", data=other).status_code == 403, "not over the head of whoever is here"
    client.post("/login", data={**other, "csrf": csrf_of(client, "/login")})
    old = httpx.get(f"{base_of(staffed)}/history", cookies={"edge_session": first})
    assert old.status_code == 303, "the session of before has ended"


def test_many_wrong_passwords_at_once_win_nothing(staffed: PageServer) -> None:
    def attempt(_: int) -> int:
        with httpx.Client(base_url=base_of(staffed), headers={"origin": base_of(staffed)}, timeout=30.0) as client:
            return client.post("/login", data={"name": "ann", "password": "wrong"}).status_code

    staffed._app.state.services.throttle.clock = Clock()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(attempt, range(24)))
    assert answers.count(403) == 4 and answers.count(429) == 20


def test_a_removed_user_is_not_let_in_while_the_password_is_looked_at(staffed: PageServer) -> None:
    users = staffed._app.state.services.users
    really = users.check

    def slowly(name: str, password: str) -> Any:
        found = really(name, password)
        users.remove("ian")
        return found

    users.check = slowly
    answer = browser(staffed, key=False).post("/login", data={"name": "ian", "password": PASSWORD})
    assert answer.status_code == 403 and "set-cookie" not in answer.headers


def test_what_the_trail_cannot_keep_is_not_done(staffed: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = logged_in(staffed, "ann")
    form = {"csrf": csrf_of(ann, "/users"), "name": "otto", "role": "administrator", "why": "x", "do": "role"}
    before = staffed.options.users.read_bytes() if staffed.options.users else b""

    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full", code="DISK_FULL")

    assert ann.post("/users", data={**form, "why": ""}).status_code == 400, "who and why, or not at all"
    monkeypatch.setattr(staffed._app.state.services.banks, "note", full)
    for change in ({}, {"do": "remove"}, {"do": "add", "name": "new", "password": PASSWORD},
                   {"do": "password", "password": PASSWORD}):  # fmt: skip
        assert ann.post("/users", data={**form, **change}).status_code == 400, change
    assert staffed.options.users is not None and staffed.options.users.read_bytes() == before


def test_the_next_one_at_the_panel_finds_no_picture_of_before(staffed: PageServer) -> None:
    client = logged_in(staffed, "ian")
    assert client.post("/logout", data={"csrf": csrf_of(client)}).headers["clear-site-data"] == '"cache"'


def test_logging_out_ends_the_session(staffed: PageServer) -> None:
    client = logged_in(staffed, "ian")
    cookies = dict(client.cookies)
    assert client.post("/logout", data={"csrf": csrf_of(client)}).headers["location"] == "/login"
    assert httpx.get(f"{base_of(staffed)}/history", cookies=cookies).status_code == 303


# ---------------------------------------------------------------- one's own password

NEW_PASSWORD = "another sentence, a longer one"


def change_password(client: httpx.Client, present: str, new: str, again: str | None = None) -> httpx.Response:
    form = {"csrf": csrf_of(client, "/password"), "present": present, "password": new, "again": again or new}
    return client.post("/password", data=form, headers={"accept-language": "en"})


@pytest.mark.parametrize("name", ["otto", "ian", "ann"])
def test_everybody_changes_their_own_password_and_is_logged_out_elsewhere(staffed: PageServer, name: str) -> None:
    here, elsewhere, other = logged_in(staffed, name), logged_in(staffed, name), logged_in(staffed, "ann")
    before = dict(here.cookies)
    assert 'href="/password"' in here.get("/history").text
    answer = change_password(here, PASSWORD, NEW_PASSWORD)
    assert (answer.status_code, answer.headers["location"]) == (303, "/password?done=1")
    assert here.get(answer.headers["location"]).status_code == 200, "this session goes on"
    assert elsewhere.get("/history").headers["location"] == "/login", "every other one of that user has ended"
    assert httpx.get(f"{base_of(staffed)}/history", cookies=before).status_code == 303, "under a new cookie"
    assert name == "ann" or other.get("/history").status_code == 200, "nobody else's"
    assert logged_in(staffed, name).get("/history").status_code == 303, "the old password is of no use any more"
    assert logged_in(staffed, name, NEW_PASSWORD).get("/history").status_code == 200
    assert staffed.options.users is not None
    again = Users(staffed.options.users)
    assert again.check(name, NEW_PASSWORD) is not None and again.check(name, PASSWORD) is None
    with MemoryBank(staffed.options.data / "page.db", read_only=True) as bank:
        (entry,) = bank.notes(kind="own_password", limit=10)
    assert (entry.subject, entry.who) == (name, name)
    assert NEW_PASSWORD not in json.dumps(entry.body) and PASSWORD not in json.dumps(entry.body)


def test_a_password_that_cannot_be_changes_nothing_and_says_why(staffed: PageServer) -> None:
    otto = logged_in(staffed, "otto")
    assert staffed.options.users is not None
    before = staffed.options.users.read_bytes()
    for new, again, status, sentence in (
        ("brief", None, 400, "shorter than 12 characters"), ("x" * 1025, None, 400, "longer than 1,024"),
        (PASSWORD, None, 400, "is the current one"), (NEW_PASSWORD, NEW_PASSWORD + "!", 400, "differ"),
    ):  # fmt: skip
        answer = change_password(otto, PASSWORD, new, again)
        assert answer.status_code == status and sentence in answer.text, new[:20]
        assert new not in answer.text, "what was typed is not sent back"
    answer = change_password(otto, "wrong", NEW_PASSWORD)
    assert answer.status_code == 403 and "current password is wrong" in answer.text
    form = {"csrf": csrf_of(otto, "/password"), "present": PASSWORD, "again": NEW_PASSWORD}
    assert otto.post("/password", data=form, files={"password": ("x", b"y" * 20)}).status_code == 400
    form = {**form, "csrf": "of somebody else", "password": NEW_PASSWORD}
    assert otto.post("/password", data=form).status_code == 403
    assert staffed.options.users.read_bytes() == before
    assert otto.get("/history").status_code == 200
    with MemoryBank(staffed.options.data / "page.db", read_only=True) as bank:
        assert [one.who for one in bank.notes(kind="own_password_failed", limit=10)] == ["otto"]


def test_an_open_session_does_not_help_to_guess_the_password(staffed: PageServer) -> None:
    clock = Clock()
    staffed._app.state.services.throttle.clock = clock
    otto = logged_in(staffed, "otto")
    answers = [change_password(otto, "wrong", NEW_PASSWORD).status_code for _ in range(5)]
    assert answers == [403, 403, 403, 403, 429]
    assert change_password(otto, PASSWORD, NEW_PASSWORD).status_code == 429, "nor the right one, before the time"
    clock.now_s += 3.0
    assert change_password(otto, PASSWORD, NEW_PASSWORD).status_code == 303


def test_whom_an_administrator_changes_meanwhile_changes_nothing(staffed: PageServer) -> None:
    users, otto = staffed._app.state.services.users, logged_in(staffed, "otto")
    really = users.check

    def slowly(name: str, password: str) -> Any:
        found = really(name, password)
        users.change("otto", password="set by the administrator")
        return found

    users.check = slowly
    answer = change_password(otto, PASSWORD, NEW_PASSWORD)
    assert answer.status_code == 400 and "changed by somebody else" in answer.text
    assert really("otto", "set by the administrator") is not None


def test_a_password_that_the_trail_cannot_keep_is_not_changed(
    staffed: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    otto = logged_in(staffed, "otto")

    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full", code="DISK_FULL")

    monkeypatch.setattr(staffed._app.state.services.banks, "note", full)
    assert change_password(otto, PASSWORD, NEW_PASSWORD).status_code == 400
    assert staffed._app.state.services.users.check("otto", PASSWORD) is not None


def test_without_users_there_is_no_password_to_change(server: PageServer) -> None:
    client = browser(server)
    assert client.get("/password").status_code == 404
    assert 'href="/password"' not in client.get("/").text
