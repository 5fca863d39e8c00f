"""MLflow behind a login: its own basic-auth app on loopback, with a password that must not be stored or printed."""

import contextlib
import http.server
import json
import os
import socket
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

from driftwork import config_base
from driftwork.command import typed
from driftwork.errors import DriftworkError, without_login
from launch import cli
from launch.checks import store
from launch.runs import run_folder
from launch.sweeps import grid
from launch.tracker import login, store_uri
from launch.tracker.tracking import TrackingConfig
from tests.datasets import write_rolls
from tests.launch.checks.findings import level_of
from tests.launch.tracker.test_outage import serving
from tests.launch.training.test_train import driftwork
from tests.places import tiny

TINY = str(tiny("vsdn_vae"))
PASSWORD = "p/s s:w@rd#?%41'"  # with all characters that are special in an address
VARIABLES = (login.USER, login.PASSWORD, login.TOKEN, *login.OTHERS, store_uri.VARIABLE, "NETRC")


@pytest.fixture
def unknown(monkeypatch, tmp_path):
    """Remove logins from the environment and the home folder, before and after the test."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "address", "user", "password"),
    [
        ("http://host:5000", "http://host:5000", None, None),
        ("https://me:secret@host/mlflow", "https://host/mlflow", "me", "secret"),
        (f"http://me:{quote(PASSWORD, safe='')}@host:1", "http://host:1", "me", PASSWORD),
        ("http://me@host:1", "http://host:1", "me", None),
        ("http://me:s@e:c@host:1", "http://host:1", "me", "s@e:c"),
    ],
)
def test_login_moves_to_the_environment(unknown, uri, address, user, password):
    assert config_base.build(TrackingConfig, {"uri": uri}, where="test").uri == address
    assert (os.environ.get(login.USER), os.environ.get(login.PASSWORD)) == (user, password)
    os.environ[store_uri.VARIABLE] = uri
    assert TrackingConfig().uri == address == os.environ[store_uri.VARIABLE]


@pytest.mark.parametrize(
    "uri", ["http://me:se/cret@host", "http://me:se cret@host", "http://:secret@h", "ftp://me:secret@h"]
)
def test_refused_login_is_not_printed(unknown, uri):
    for override in (f"uri={uri}", f"uri:{uri}", f"parent.x={uri}", f"nonesuch={uri}"):
        with pytest.raises(DriftworkError) as caught:
            config_base.parse(TrackingConfig, [override], where="test")
        assert "cret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    os.environ[store_uri.VARIABLE] = uri
    with pytest.raises(DriftworkError, match=store_uri.VARIABLE) as caught:
        TrackingConfig()
    assert "cret" not in str(caught.value)


def test_stored_command_has_no_login():
    argv = ["c.yaml", f"tracking.uri=http://me:{PASSWORD}@host:1", "data=s3://bucket/a@b", "out=a b"]
    assert typed("train", argv) == "driftwork train c.yaml tracking.uri=http://host:1 data=s3://bucket/a@b 'out=a b'"
    assert without_login("at http://a and http://b:c@d") == "at http://a and http://d"


def test_login_in_grid_is_refused(unknown):
    (unknown / "some.yaml").write_text(
        f"base: {TINY}\nset: {{tracking.uri: 'http://me:secret@h'}}\nruns: [{{ranks: 1}}]"
    )
    with pytest.raises(DriftworkError, match="a login does not belong in a grid") as caught:
        grid.read([str(unknown / "some.yaml"), "data=x"])
    assert "secret" not in str(caught.value)


def test_login_is_found_where_mlflow_looks(unknown, monkeypatch):
    basic = {"me:secret": "Basic bWU6c2VjcmV0", "file:%": "Basic ZmlsZTol", "net:rc": "Basic bmV0OnJj"}
    uri = "http://host:1/x"
    assert login.headers(uri) == {}
    (unknown / ".netrc").write_text("machine host login net password rc\n")
    (unknown / ".netrc").chmod(0o600)
    assert login.headers(uri) == {"Authorization": basic["net:rc"]}
    assert login.headers("http://other:1") == {}
    monkeypatch.setenv(login.TOKEN, "abc")
    assert login.headers(uri) == {"Authorization": "Bearer abc"}
    (unknown / ".mlflow").mkdir()
    lines = ["[mlflow]", "mlflow_tracking_username = file", "mlflow_tracking_password = %%"]
    (unknown / ".mlflow/credentials").write_text("\n".join(lines))
    assert login.headers(uri) == {"Authorization": basic["file:%"]}
    monkeypatch.setenv(login.USER, "me")
    monkeypatch.setenv(login.PASSWORD, "secret")
    assert login.headers(uri) == {"Authorization": basic["me:secret"]}


@pytest.mark.network
def test_mlflow_and_doctor_send_equal_tokens(unknown, monkeypatch, free_port):
    from launch.tracker.mlflow_store import connect

    shown = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            shown.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def do_POST(self):
            self.do_GET()

        def log_message(self, *arguments): ...

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv(login.TOKEN, "abc")
    uri = f"http://127.0.0.1:{free_port}"
    with http.server.HTTPServer(("127.0.0.1", free_port), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert level_of(store.tracking(uri)) == "ok"
        with contextlib.suppress(Exception):
            connect(uri).get_run("x")
        server.shutdown()
    assert shown == ["Bearer abc"] * 3  # health, an experiment; a run


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_store):
    """Provide a working folder with data, the address of a server with a login, and a run trained with it."""
    folder = tmp_path_factory.mktemp("login")
    write_rolls(folder / "rolls")
    empty_store(folder / "mlflow.db")  # which the server would take long to make
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\nadmin_username = me\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secrets = {"MLFLOW_AUTH_CONFIG_PATH": f"{folder}/auth.ini", "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
               "MLFLOW_FLASK_SERVER_SECRET_KEY": "key"}  # fmt: skip
    with serving(folder, port, "--app-name", "basic-auth", **secrets):
        address = f"127.0.0.1:{port}"
        given = f"tracking.uri=http://me:{quote(PASSWORD, safe='')}@{address}"
        done = driftwork(folder, "train", TINY, "data=rolls", "out=runs/one", "train.max_epochs=1", "ranks=1", given)
        assert done.returncode == 0, done.stderr
        (folder / "said.txt").write_text(done.stdout + done.stderr)
        yield folder, f"http://{address}"


@pytest.fixture
def here(place, unknown, monkeypatch, capsys):
    """Run commands in the folder of `place` and in this process, with the login in variables, and return their
    output."""
    monkeypatch.chdir(place[0])
    monkeypatch.setenv(login.USER, "me")
    monkeypatch.setenv(login.PASSWORD, PASSWORD)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["driftwork", *arguments])
        code, said = cli.main(), capsys.readouterr()
        (place[0] / f"{arguments[0]}.txt").write_text(said.out + said.err)
        return code, said.out, said.err

    return call


def tracked(uri):
    from launch.tracker.mlflow_store import connect

    return connect(uri).get_run(json.loads(Path("runs/one/run.json").read_text())["run_id"])


@pytest.mark.slow
def test_run_is_tracked_behind_a_login(place, here, monkeypatch):
    folder, uri = place
    assert here("evaluate", "runs/one")[0] == 0
    run = tracked(uri)
    assert run.info.status == "FINISHED"
    assert run.data.params["tracking.uri"] == uri
    assert run.data.tags["driftwork.command"].endswith(f"ranks=1 tracking.uri={uri}")
    assert "test/density_25_nll_nats_per_frame" in run.data.metrics
    assert not (folder / "runs/one/unsent.jsonl").exists() or not (folder / "runs/one/unsent.jsonl").read_text()
    assert here("report", "rolls", "out=report", f"tracking.uri={uri}")[0] == 0
    monkeypatch.setenv(store_uri.VARIABLE, uri)
    assert run_folder.find(run.info.run_id) == folder / "runs/one"


@pytest.mark.slow
def test_doctor_checks_the_login(place, here, monkeypatch):
    _, uri = place

    def said(address):
        found = store.tracking(config_base.build(TrackingConfig, {"uri": address}, where="test").uri)
        return level_of(found), found.message

    assert said(uri) == ("ok", f"{uri} answers")
    assert said(uri.replace("//", "//me:wrong@")) == ("error", f"{uri} refuses the login (401)")
    monkeypatch.delenv(login.PASSWORD)
    assert said(uri) == ("error", f"{uri} requires a login (401)")
    code, _, err = here("train", TINY, "data=rolls", f"tracking.uri={uri}")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"driftwork train: tracking store {uri} requires a login (401); export {login.USER} and ")
    code, _, err = here("ui", f"tracking.uri={uri.replace('//', '//me:wrong@')}")
    assert (code, err) == (2, f"driftwork ui: {uri} is a server already: open it in a browser\n")


@pytest.mark.slow
def test_refused_user_loses_no_results(place, here, monkeypatch, caplog):
    _, uri = place
    monkeypatch.delenv(login.PASSWORD)
    assert here("evaluate", "runs/one", "split=val")[0] == 0
    assert f"tracking server {uri} refuses this user, messages are kept" in caplog.text
    monkeypatch.setenv(login.PASSWORD, PASSWORD)
    run = Path("runs/one")
    assert not any(key.startswith("val/interpolation") for key in tracked(uri).data.metrics)
    with run_folder.tracked(run, run_folder.config_of(run)):
        pass  # the next command that opens the run sends the kept messages
    assert any(key.startswith("val/interpolation_25") for key in tracked(uri).data.metrics)


@pytest.mark.slow
def test_password_is_in_no_file(place):
    """The password is not in files of the run, the commands' output, the store or its artifacts. This test runs after
    those above."""
    folder, _ = place
    secrets = [PASSWORD.encode(), quote(PASSWORD).encode(), quote(PASSWORD, safe="").encode(), b"s:w@rd", b"s%3Aw"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert [path for path in files if any(secret in path.read_bytes() for secret in secrets)] == []
