"""`fetch` from the shipped configs, each pointed at a mirror on loopback."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from driftwork.lock import locked
from launch import fetch as command
from pipeline.fetch import fetch as module
from pipeline.fetch.download import Patience
from pipeline.fetch.fetch import fetch
from pipeline.fetch.sources import SOURCES
from pipeline.readers.rotating_mnist import IMAGES, LABELS
from tests.pipeline.fetch.bad_server import serving, stalls, status, whole

QUICK = Patience(timeout=10, attempts=2, wait=0.01)
CONFIGS = Path(command.CONFIGS)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as started:
        yield started


def archive(kind, **files):
    packed = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
            for name, data in files.items():
                out.writestr(name, data)
    else:
        with tarfile.open(fileobj=packed, mode="w:gz") as out:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                out.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def md5(data):
    return hashlib.md5(data).hexdigest()


def config(name, server, to, *overrides, sha256=None):
    """Return the shipped config with the address of the mirror; `sha256` replaces the hash of the first file."""
    raw = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    files = [{**file, "sha256": sha256} for file in raw["files"]]
    return load(SOURCES[name], CONFIGS / f"{name}.yaml", [f"url={server.url}", f"to={to}", f"files={json.dumps(files)}",
                *overrides])  # fmt: skip


def lock(to):
    return json.loads((to / "fetch.lock.json").read_text())["files"]


@pytest.mark.parametrize("name", SOURCES)
def test_shipped_configs_load(name):
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(SOURCES)
    found = load(SOURCES[name], CONFIGS / f"{name}.yaml", [] if name == "timit" else ["to=x"])
    assert found.name == name
    assert found.licence


@pytest.mark.network
def test_mnist_files_suit_their_reader(server, tmp_path):
    wanted = config("mnist", server, tmp_path / "to")
    assert {f"{IMAGES[0]}.gz", f"{LABELS[0]}.gz"} < {file.path for file in wanted.files}
    server.files.update({file.path: file.path.encode() for file in wanted.files})
    assert fetch(wanted, QUICK)[:3] == (4, sum(len(file.path) for file in wanted.files), 4)
    assert fetch(wanted, QUICK).new == 0
    assert len(server.asked) == 4


@pytest.mark.network
def test_clean_subset_is_unpacked_once(server, tmp_path, capsys):
    to = tmp_path / "to"
    packed = archive("tar", **{"clean_midi/ABBA/Waterloo.mid": b"MThd", "clean_midi/.DS_Store": b""})
    server.files["clean_midi.tar.gz"] = packed
    wanted = config("lakh_clean", server, to, sha256=hashlib.sha256(packed).hexdigest())
    assert fetch(wanted, QUICK) == (1, len(packed), 1, (to / "clean_midi",), None)
    assert (to / "clean_midi/ABBA/Waterloo.mid").read_bytes() == b"MThd"
    assert not (to / "clean_midi/.DS_Store").exists()
    assert lock(to)["clean_midi.tar.gz"] == {
        "sha256": hashlib.sha256(packed).hexdigest(),
        "bytes": len(packed),
        "url": f"{server.url}/clean_midi.tar.gz",
        "unpacked": {"clean_midi": {"files": 1, "bytes": 4}},
    }
    assert "MB" in capsys.readouterr().err or len(packed) < 10**6
    (to / "clean_midi.tar.gz").unlink()  # to save its space
    assert fetch(wanted, QUICK).new == 0
    assert len(server.asked) == 1


@pytest.mark.network
def test_names_that_are_md5_are_checked(server, tmp_path):
    to, good = tmp_path / "to", b"MThd good"
    name = f"lmd_full/{md5(good)[0]}/{md5(good)}.mid"
    server.files["lmd_full.tar.gz"] = archive("tar", **{name: good})
    assert fetch(config("lakh_full", server, to), QUICK).folders == (to / "lmd_full",)
    server.files["lmd_full.tar.gz"] = archive("tar", **{name: b"MThd evil"})
    with pytest.raises(DriftworkError, match=f"1 files differ from the MD5 in their names, .*{md5(good)}.mid first"):
        fetch(config("lakh_full", server, tmp_path / "other"), QUICK)
    assert not (tmp_path / "other/lmd_full").exists()


@pytest.mark.network
def test_subjects_come_singly_or_from_the_archive(server, tmp_path):
    to = tmp_path / "to"
    trials = [f"35_{trial:02d}.amc" for trial in range(1, 35)]
    server.files.update({f"subjects/35/{name}": name.encode() for name in ["35.asf", *trials]})
    assert fetch(config("cmu", server, to), QUICK).files == 35
    assert sorted(path.name for path in (to / "subjects/35").iterdir()) == ["35.asf", *trials]
    members = {f"all_asfamc/subjects/{n}/{n}{end}": n.encode() for n in ("02", "35") for end in (".asf", "_01.amc")}
    server.files["allasfamc.zip"] = archive("zip", **members, **{"all_asfamc/README": b"x"})
    assert fetch(config("cmu", server, to, "subject=2"), QUICK).folders == (to / "subjects/02",)
    assert sorted(path.name for path in (to / "subjects/02").iterdir()) == ["02.asf", "02_01.amc"]
    with pytest.raises(DriftworkError, match=r"subjects: exists already, and was not unpacked from allasfamc.zip"):
        fetch(config("cmu", server, to, "subject=all"), QUICK)
    fetch(config("cmu", server, tmp_path / "all", "subject=all"), QUICK)
    assert {path.name for path in (tmp_path / "all/subjects").rglob("*.amc")} == {"02_01.amc", "35_01.amc"}
    with pytest.raises(DriftworkError, match=r"holds no .asf or .amc below all_asfamc/subjects/99/"):
        fetch(config("cmu", server, to, "subject=99"), QUICK)


@pytest.mark.network
def test_recorded_hash_is_required_later(server, tmp_path):
    to = tmp_path / "to"
    wanted = config("cmu", server, to, "trials={35: 1}")
    server.files.update({"subjects/35/35.asf": b"bones", "subjects/35/35_01.amc": b"steps"})
    fetch(wanted, QUICK)
    assert lock(to)["subjects/35/35.asf"]["sha256"] == hashlib.sha256(b"bones").hexdigest()
    (to / "subjects/35/35.asf").write_bytes(b"other")
    with pytest.raises(DriftworkError, match=r"35.asf: sha256 \w+, expected \w+: damaged, or another file; delete it"):
        fetch(wanted, QUICK)
    (to / "subjects/35/35.asf").unlink()
    server.files["subjects/35/35.asf"] = b"changed by the publisher"
    with pytest.raises(DriftworkError, match="altered on its way, or changed by the publisher"):
        fetch(wanted, QUICK)
    assert not (to / "subjects/35/35.asf").exists()


@pytest.mark.network
def test_hash_in_config_must_match_the_lock(server, tmp_path):
    server.files["clean_midi.tar.gz"] = archive("tar", **{"clean_midi/a.mid": b"1"})
    fetch(config("lakh_clean", server, tmp_path), QUICK)
    with pytest.raises(DriftworkError, match=r"sha256=0.* in the config, .* in fetch.lock.json; delete the"):
        fetch(config("lakh_clean", server, tmp_path, sha256="0" * 64), QUICK)


@pytest.mark.network
def test_killed_fetch_resumes_at_every_stage(server, tmp_path, monkeypatch):
    """The fetch is stopped while it downloads, while it unpacks, and just before the last rename; the next call ends in
    the same folder.
    """
    packed = archive("tar", **{f"clean_midi/{n}.mid": os.urandom(3000) for n in range(5)})
    server.files["clean_midi.tar.gz"] = packed
    wanted = config("lakh_clean", server, tmp_path)
    server.will(whole(send=5000), status(503), status(503))
    with pytest.raises(DriftworkError, match="5000 bytes are kept"):
        fetch(wanted, QUICK)
    put = module._Book.put

    def put_and_stop(book, file, **facts):
        put(book, file, **facts)
        if "unpacked" in facts:
            raise KeyboardInterrupt

    stages = {"pipeline.fetch.archive._write": stop, "os.sync": stop, "pipeline.fetch.fetch._Book.put": put_and_stop}
    for place, stopped in stages.items():
        with monkeypatch.context() as patch:
            patch.setattr(place, stopped)
            with pytest.raises(KeyboardInterrupt):
                fetch(wanted, QUICK)
        assert not (tmp_path / "clean_midi").exists()
    assert fetch(wanted, QUICK).new == 0
    assert len(list((tmp_path / "clean_midi").iterdir())) == 5
    assert server.asked[-1]["Range"] == "bytes=5000-"
    names = {".fetch.lock.json", "fetch.lock.json", "clean_midi", "clean_midi.tar.gz"}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.process
def test_kill_9_loses_no_received_bytes(server, tmp_path):
    body = os.urandom(300_000)
    server.files.update({"subjects/35/35.asf": body, "subjects/35/35_01.amc": b"steps"})
    server.will(stalls(60, after=100_000))
    line = ["fetch", "cmu", f"to={tmp_path}", f"url={server.url}", "trials={35: 1}"]
    command_line = [sys.executable, "-m", "launch.cli", *line]
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parent.parent)}
    part = tmp_path / "subjects/35/35.asf.part"
    first = subprocess.Popen(command_line, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    first.wait()
    came = part.stat().st_size
    assert 0 < came <= 100_000
    done = subprocess.run(command_line, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [asked.get("Range") for asked in server.asked] == [None, f"bytes={came}-", None]
    assert (tmp_path / "subjects/35/35.asf").read_bytes() == body


def stop(*arguments):
    raise KeyboardInterrupt


def test_foreign_folder_is_not_touched(server, tmp_path):
    server.files["clean_midi.tar.gz"] = archive("tar", **{"clean_midi/a.mid": b"1"})
    (tmp_path / "clean_midi").mkdir()
    (tmp_path / "clean_midi/mine").write_bytes(b"mine")
    with pytest.raises(DriftworkError, match=r"exists already, and was not unpacked from clean_midi.tar.gz"):
        fetch(config("lakh_clean", server, tmp_path), QUICK)
    assert (tmp_path / "clean_midi/mine").read_bytes() == b"mine"


def test_folder_admits_one_fetch_at_once(server, tmp_path):
    with (
        locked(tmp_path / ".fetch.lock.json", "here", "test"),
        pytest.raises(DriftworkError, match="another fetch is at work there"),
    ):
        fetch(config("mnist", server, tmp_path), QUICK)


@pytest.mark.network
def test_room_for_unpacking_is_checked_first(server, tmp_path, monkeypatch):
    server.files["clean_midi.tar.gz"] = archive("tar", **{"clean_midi/a.mid": b"1"})
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr("pipeline.fetch.download._check_room", lambda *arguments: None)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(DriftworkError, match=r"GB are free; unpacking clean_midi.tar.gz takes about"):
        fetch(config("lakh_clean", server, tmp_path), QUICK)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lahk"], "choose one of lakh_clean, lakh_full, cmu, mnist, physionet2012, ushcn, timit"),
        (["mnist"], "'to' is missing"),
        (["mnist", "to=x", "url=file:///etc"], "must be http"),
        (["mnist", "to=x", "url=http://u:p@host/"], "holds a user name or a password"),
        (["mnist", "to=x", "urll=http://h"], "did you mean 'url'"),
        (["cmu", "to=x", "subject=every"], "subject"),
    ],
)
def test_mistake_is_one_line(argv, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DriftworkError, match=said) as caught:
        command.main(argv)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_configured_paths_stay_below_the_folder(server, tmp_path):
    for bad in ("../x", "/etc/x"):
        files = json.dumps([{"path": bad, "max_bytes": 1}])
        with pytest.raises(DriftworkError, match="must be a path below the folder"):
            load(SOURCES["mnist"], CONFIGS / "mnist.yaml", [f"to={tmp_path}", f"files={files}"])


@pytest.mark.network
def test_command_names_the_folder_to_prepare(server, tmp_path, capsys):
    server.files["subjects/35/35.asf"] = server.files["subjects/35/35_01.amc"] = b"x"
    assert command.main(["cmu", f"to={tmp_path}", f"url={server.url}", "trials={35: 1}"]) == 0
    assert f"2 files fetched, 0 existed already; hashes in {tmp_path}/fetch.lock.json" in capsys.readouterr().out
