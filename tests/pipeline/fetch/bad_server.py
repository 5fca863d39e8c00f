"""A server on loopback that misbehaves on request: each request gets the next response of a list, and further requests
get the last one.
"""

import hashlib
import re
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class BadServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.script, self.asked = {}, [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def will(self, *answers):
        """Set the responses to the next requests, `answers`, as functions of the handler. Afterwards files are
        served."""
        self.script = list(answers)


@contextmanager
def serving():
    server = BadServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(dict(self.headers))
        answer = self.server.script.pop(0) if self.server.script else whole()
        with suppress(ConnectionError):
            answer(self)

    def log_message(self, *args): ...

    @property
    def body(self):
        return self.server.files[self.path.lstrip("/")]

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def tag(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


def whole(*, send=None, length=True, etag=True, ranges=True):
    """Return the response of a correct server, or one of only `send` bytes, without a length, without an ETag or
    without ranges.
    """

    def answer(handler):
        if handler.path.lstrip("/") not in handler.server.files:
            return handler.answer(404, {"Content-Length": 0})
        body, status, headers = handler.body, 200, {}
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if etag:
            headers["ETag"] = tag(body)
        if wanted and ranges and handler.headers.get("If-Range") == tag(body):
            start = int(wanted[1])
            if start >= len(body):
                return handler.answer(416, {"Content-Range": f"bytes */{len(body)}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        if length:
            headers["Content-Length"] = len(body)
        return handler.answer(status, headers, body[:send])

    return answer


def status(code, **headers):
    return lambda handler: handler.answer(
        code, {"Content-Length": 0, **{k.replace("_", "-"): v for k, v in headers.items()}}
    )


def redirect(where, code=302):
    return lambda handler: handler.answer(code, {"Location": where, "Content-Length": 0})


def claims(length, body):
    """Return a response with a false Content-Length."""
    return lambda handler: handler.answer(200, {"Content-Length": length}, body)


def stalls(seconds, after=0):
    def answer(handler):
        headers = {"Content-Length": len(handler.body), "ETag": tag(handler.body)}
        handler.answer(200, headers, handler.body[:after])
        time.sleep(seconds)

    return answer


def drips(count, pause):
    """Return a response of one byte at a time, which is never silent for long and never ends."""

    def answer(handler):
        handler.answer(200, {"Content-Length": len(handler.body)})
        for at in range(count):
            handler.wfile.write(handler.body[at : at + 1])
            handler.wfile.flush()
            time.sleep(pause)

    return answer


def endless(handler):
    """Send a response without a length and without an end."""
    handler.answer(200, {})
    for _ in range(10_000):
        handler.wfile.write(bytes(1 << 16))
