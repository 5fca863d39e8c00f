"""An S3 server on loopback that counts requests and can be made to fail."""

import socket
import threading
from contextlib import contextmanager
from urllib.parse import unquote

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"


class ObjectStore:
    """A store whose objects outlive the server, which can be stopped and started again at the same address."""

    def __init__(self):
        self.asked = []
        """(method, key) of each request since it was last cleared."""
        self.before = lambda method, key: None
        """Callback before each response; an exception breaks the connection."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.start()
        self.client = boto3.client("s3", endpoint_url=self.address)
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def address(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self):
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=_Quiet)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def stop_after(self, count):
        """Fail in the middle of a copy: answer the requests for the first `count` shards, and no others."""

        def before(method, key):
            if key in self.fetched(".tar")[count:]:
                self.stop()
                raise ConnectionError

        self.before = before

    def fetched(self, ending):
        """Return the keys of the objects that were read, once per read."""
        return [key for method, key in self.asked if method == "GET" and key.endswith(ending)]

    def objects(self, folder=""):
        """Map names below the folder to contents."""
        prefix = f"{folder}/" if folder else ""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {found["Key"].removeprefix(prefix): self.read(found["Key"]) for found in listed}

    def read(self, key):
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def put(self, key, content):
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def copy(self, folder, key):
        """Store all files of a folder below a key."""
        for path in folder.iterdir():
            self.put(f"{key}/{path.name}", path.read_bytes())

    def _answer(self, environ, start_response):
        key = unquote(environ["PATH_INFO"]).removeprefix(f"/{BUCKET}").lstrip("/")
        self.asked.append((environ["REQUEST_METHOD"], key))
        try:
            self.before(environ["REQUEST_METHOD"], key)
        except ConnectionError:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)  # werkzeug would keep it open
            raise
        return self._app(environ, start_response)


class _Quiet(WSGIRequestHandler):
    def log(self, *args): ...


@contextmanager
def object_store(patch):
    """Provide a store, and set the environment of its clients by pytest's `patch`."""
    patch.setenv("AWS_ACCESS_KEY_ID", "a")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = ObjectStore()
    patch.setenv("AWS_ENDPOINT_URL", store.address)
    S3FileSystem.clear_instance_cache()  # it caches settings from the environment
    try:
        yield store
    finally:
        store.stop()
