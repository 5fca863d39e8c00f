"""Downloads from a server on loopback that stalls, truncates, redirects, and changes sizes and files."""

import base64
import email.utils
import hashlib
import random
import shutil
import socket
import ssl
import subprocess
import time

import pytest
from urllib3 import HTTPConnectionPool, HTTPResponse, poolmanager

from driftwork.errors import DriftworkError
from pipeline.fetch import download as module
from pipeline.fetch.download import Patience, download
from pipeline.fetch.http_get import Retries
from tests.pipeline.fetch.bad_server import claims, drips, endless, redirect, serving, stalls, status, whole

pytestmark = pytest.mark.network

QUICK = Patience(timeout=10, slowest=1000, attempts=3, wait=0.01, longest_wait=5)
HASTY = QUICK._replace(timeout=0.5)
BODY = random.Random(0).randbytes(300_000)
HASH = hashlib.sha256(BODY).hexdigest()
LIMIT = 1_000_000


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as started:
        started.files["a.bin"] = BODY
        yield started


@pytest.fixture
def target(tmp_path):
    return tmp_path / "a.bin"


def get(server, target, **options):
    return download(f"{server.url}/a.bin", target, **{"max_bytes": LIMIT, "patience": QUICK, **options})


def only(target):
    """Check that nothing but the finished file is left."""
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
    assert target.read_bytes() == BODY


def ranges(server):
    return [asked.get("Range") for asked in server.asked]


def test_file_is_complete_and_progress_reported(server, target):
    seen = []
    assert get(server, target, seen=lambda done, total: seen.append((done, total))) == HASH
    only(target)
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("bad", [whole(send=100_000), stalls(3, after=100_000)], ids=["truncated", "stalled"])
def test_broken_download_is_resumed(server, target, bad):
    server.will(bad)
    assert get(server, target, patience=QUICK._replace(timeout=1)) == HASH
    assert ranges(server) == [None, "bytes=100000-"]
    only(target)


def test_killed_download_resumes_in_next_call(server, target):
    server.will(whole(send=100_000), whole(send=50_000), status(503))
    with pytest.raises(DriftworkError, match="given up after 3 attempts; 150000 bytes are kept"):
        get(server, target)
    assert not target.exists()
    server.will()
    assert get(server, target) == HASH
    assert ranges(server)[-1] == "bytes=150000-"
    only(target)


def test_server_without_ranges_restarts_download(server, target):
    server.will(whole(send=100_000), whole(ranges=False))
    assert get(server, target) == HASH
    assert ranges(server) == [None, "bytes=100000-"]
    only(target)


def test_changed_file_is_not_pieced_together(server, target):
    def then_changes(handler):
        whole(send=100_000)(handler)
        handler.server.files["a.bin"] = BODY[::-1]

    server.will(then_changes)
    assert get(server, target) == hashlib.sha256(BODY[::-1]).hexdigest()
    assert target.read_bytes() == BODY[::-1]


def test_piece_of_another_file_is_refused(server, target):
    other = BODY[::-1]
    headers = {"Content-Range": f"bytes 100000-{len(other) - 1}/{len(other)}", "ETag": '"other"'}

    def lies(handler):
        return handler.answer(206, {**headers, "Content-Length": len(other) - 100_000}, other[100_000:])

    server.will(whole(send=100_000), lies)
    assert get(server, target) == HASH
    assert ranges(server) == [None, "bytes=100000-", None]
    only(target)


def test_download_without_validator_restarts(server, target):
    server.will(whole(send=100_000, etag=False))
    assert get(server, target) == HASH
    assert ranges(server) == [None, None]


def test_weak_etag_is_no_validator(server, target):
    server.will(lambda handler: handler.answer(200, {"ETag": 'W/"1"', "Content-Length": len(BODY)}, BODY[:1000]))
    assert get(server, target) == HASH
    assert ranges(server) == [None, None]


def test_file_that_shrank_is_downloaded_anew(server, target):
    server.will(whole(send=100_000), status(416))
    assert get(server, target) == HASH
    assert ranges(server) == [None, "bytes=100000-", None]


def test_retry_after_of_the_server_is_obeyed(server, target):
    server.will(status(500), status(503, Retry_After=1))
    began = time.monotonic()
    assert get(server, target) == HASH
    assert 1 <= time.monotonic() - began < 4
    assert len(server.asked) == 3


@pytest.mark.parametrize(("text", "least", "most"), [("7", 7, 7), ("soon", None, None), ("", None, None), (60, 50, 60)])
def test_retry_after_is_number_or_date(text, least, most):
    if isinstance(text, int):
        text = email.utils.formatdate(time.time() + text, usegmt=True)
    found = Retries(backoff_max=100).get_retry_after(HTTPResponse(headers={"Retry-After": text}))
    assert (found is None) == (least is None)
    assert found is None or least <= found <= most


def test_attempts_and_waiting_are_bounded(server, target):
    server.will(*[status(503)] * 10)
    with pytest.raises(DriftworkError, match=r"503 .*; given up after 3 attempts; call again later$"):
        get(server, target)
    assert len(server.asked) == 3
    server.will(status(503, Retry_After=3600))
    with pytest.raises(DriftworkError, match="requires a wait of 3600 s"):
        get(server, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refused_request_is_not_repeated(server, target, code):
    server.will(status(code))
    with pytest.raises(DriftworkError, match=f"responded {code}"):
        get(server, target)
    assert len(server.asked) == 1


def test_absent_server_is_named(server, target):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        free_port = gone.getsockname()[1]
    with pytest.raises(DriftworkError, match=f"127.0.0.1:{free_port}/a: cannot be reached: .*given up after 3"):
        download(f"http://127.0.0.1:{free_port}/a", target, LIMIT, patience=QUICK)


def test_silent_server_is_abandoned(target):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        began = time.monotonic()
        with pytest.raises(DriftworkError, match=r"no response for 0.5 s|cannot be reached: timed out"):
            download(url, target, LIMIT, patience=HASTY)
        assert time.monotonic() - began < 10


def test_slow_drip_counts_as_stall(server, target):
    server.will(*[drips(100, 0.05)] * 3)
    with pytest.raises(DriftworkError, match="stalled: "):
        get(server, target, patience=HASTY)


def test_size_limit_holds_before_and_during_download(server, target):
    with pytest.raises(DriftworkError, match="300000 bytes, more than max_bytes=1000"):
        get(server, target, max_bytes=1000)
    server.will(endless)
    with pytest.raises(DriftworkError, match="more than max_bytes=1000000"):
        get(server, target, expected=HASH)
    server.will(claims(10**15, BODY))
    with pytest.raises(DriftworkError, match="1000000000000000 bytes, more than"):
        get(server, target)
    assert all(path.stat().st_size == 0 for path in target.parent.glob("*.part"))


@pytest.mark.parametrize("length", [len(BODY) + 1, LIMIT])
def test_early_end_is_not_complete(server, target, length):
    server.will(*[claims(length, BODY)] * 9)
    with pytest.raises(DriftworkError, match=f"ended after {len(BODY)} of {length} bytes; given up"):
        get(server, target)
    assert not target.exists()


def test_too_small_length_fails_the_hash(server, target):
    server.will(claims(1000, BODY))
    with pytest.raises(DriftworkError, match="expected " + HASH):
        get(server, target, expected=HASH)
    assert list(target.parent.iterdir()) == []


def test_unknown_length_needs_a_hash(server, target):
    server.will(whole(length=False))
    with pytest.raises(DriftworkError, match="does not give the length of the file, and the config has no hash"):
        get(server, target)
    server.will(whole(length=False))
    assert get(server, target, expected=HASH) == HASH


def test_wrong_hash_leaves_no_file(server, target):
    with pytest.raises(DriftworkError, match=f"sha256 {HASH}, expected {'0' * 64}"):
        get(server, target, expected="0" * 64)
    assert list(target.parent.iterdir()) == []


def test_redirects_keep_the_range(server, target):
    server.will(whole(send=100_000), redirect("/b"), redirect("a.bin", 307))
    assert get(server, target) == HASH
    assert ranges(server) == [None, "bytes=100000-", "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("file:///etc/passwd", "redirects to file:///etc/passwd: must be http"),
        ("ftp://127.0.0.1/a", "must be http"),
        ("data:,x", "must be http"),
        ("http://u:p@127.0.0.1/a.bin", "holds a user name or a password"),
        ("/a.bin", "redirects more than 5 times"),
    ],
)
def test_circular_or_foreign_redirect_is_refused(server, target, where, said):
    server.will(*[redirect(where)] * 20)
    with pytest.raises(DriftworkError, match=said):
        get(server, target)
    assert len(server.asked) <= 6
    assert list(target.parent.iterdir()) == []


def test_redirect_does_not_leave_https(server, target, monkeypatch):
    server.will(redirect(f"{server.url}/a.bin"))
    monkeypatch.setitem(poolmanager.pool_classes_by_scheme, "https", HTTPConnectionPool)  # without a certificate
    with pytest.raises(DriftworkError, match="which anyone on the way can alter"):
        download(f"{server.url}/x".replace("http", "https"), target, LIMIT, patience=QUICK)


def test_full_disk_is_reported_before_writing(server, target, monkeypatch):
    usage = shutil.disk_usage(target.parent)._replace(free=64 * 2**20 + 1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DriftworkError, match="GB are free, and http"):
        get(server, target)
    assert not target.exists()


def test_no_credentials_are_sent(server, target, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.netrc").write_text("machine 127.0.0.1 login u password p\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    get(server, target)
    assert {name.lower() for name in server.asked[0]} == {"accept-encoding", "host", "user-agent", "connection"}


def test_proxy_of_the_environment_is_used(server, target, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:p%40ss@"))
    server.files["http://nowhere.invalid/a.bin"] = BODY
    assert download("http://nowhere.invalid/a.bin", target, LIMIT, patience=QUICK) == HASH
    assert server.asked[0]["proxy-authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_untrusted_certificate_is_final(server, target, tmp_path):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(DriftworkError, match="the certificate cannot be trusted"):
        download(server.url.replace("http", "https"), target, LIMIT, patience=QUICK)
    assert not server.asked
