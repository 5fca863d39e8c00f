"""`driftwork report` on a store of runs with known scores: contents of tables, figures and page, and refusals."""

import base64
import csv
import errno
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import report
from launch.reports import contents
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.scoring import tables
from launch.scoring.estimates import difference, estimate, over_seeds
from launch.scoring.results import write_results
from launch.tracker.tracking import TrackingConfig, open_run
from pipeline.readers.wav import write_wav
from tests.launch.reports.scored import MANIFEST, rates_of, scored
from tests.launch.tracker.test_tracking import client_of
from tests.places import tiny


def ran(root, uri, name, level, *overrides, best, command=None, evaluations=("test",), extra=()):
    """Make a finished run whose model has scores of about `level` everywhere."""
    folder = root / name
    yaml = tiny("vsdn_vae")
    config = load(RunConfig, yaml, [f"out={folder}", "data=rolls", *overrides])
    run_folder.create(config)
    files = []
    for evaluation in evaluations:
        rates = ("10", "20", "50") if "-at-" in evaluation else ("25", "50")
        files += write_results(folder, evaluation, rates_of(level, rates))
    tags = {"driftwork.model": config.model.name, "driftwork.data": "rolls", "driftwork.manifest": MANIFEST}
    tags |= {"driftwork.dataset": "lakh"} | ({"driftwork.command": command} if command else {})
    with open_run(TrackingConfig(uri=uri), experiment="rolls", run_name=name, run_folder=folder, tags=tags) as tracker:
        tracker.metrics({"val/best_score": best}, 3)
        tracker.artifact(folder / "config.yaml")
        for file in [*files, *extra]:
            tracker.artifact(file, "outputs")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """Provide a store with VSDN-VAE at each beta and latent size, the best with two seeds, the residual form, and runs
    that are in no table."""
    root = tmp_path_factory.mktemp("tracked")
    uri = f"sqlite:///{root}/mlflow.db"
    media = root / "media"
    media.mkdir()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(media / "skeleton.gif", save_all=True, append_images=frames[1:])
    frames[0].save(media / "interpolation.png")
    (media / "interpolation.pdf").write_bytes(b"%PDF-1.4\n")
    (media / "truth.mid").write_bytes(b"MThd\0\0\0\6\0\0\0\1\0\x60")
    write_wav(media / "truth.wav", np.zeros(160, np.float32), 16000)
    extra = sorted(media.iterdir())
    for beta, latent, best, level in ((0.1, 2, 9.5, 31.0), (0.1, 4, 9.4, 32.0), (1, 2, 9.0, 30.0), (1, 4, 9.2, 29.0)):
        options = (f"train.beta={beta}", f"model.latent={latent}")
        ran(root, uri, f"{beta}-{latent}", level, *options, best=best, command="driftwork sweep some.yaml")
    again = ("train.beta=1", "model.latent=2", "train.seed=1")
    ran(root, uri, "again", 30.5, *again, best=9.1, command="driftwork train some.yaml 'a=<b>'")
    both = ("test", "test-at-10-20-50")
    ran(root, uri, "res", 33.0, "model.name=vsdn_vae_res", best=8.0, evaluations=both, extra=extra)
    ran(root, uri, "unscored", 33.0, "model.latent=7", best=1.0, evaluations=())
    with pytest.raises(ZeroDivisionError), open_run(
        TrackingConfig(uri=uri), experiment="rolls", run_name="failed", run_folder=root, tags={"driftwork.model": "x"}
    ):  # fmt: skip
        raise ZeroDivisionError
    return uri


@pytest.fixture(scope="module")
def out(uri, tmp_path_factory):
    """Make the report once, as a user would; tests inspect it."""
    out = tmp_path_factory.mktemp("made") / "report"
    assert report.main(["rolls", f"out={out}", f"tracking.uri={uri}"]) == 0
    return out


def rows(path):
    with path.open(newline="") as handle:
        return {row["model"]: row for row in csv.DictReader(handle)}


class Page(HTMLParser):
    """A parser that checks that tags are closed in the right order, and collects the page's references."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.links += [(tag, value) for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_tables_have_the_exact_scores(out):
    found = rows(out / "table1.csv")
    names = ["VSDN-VAE", "VSDN-VAE (res)", "last observed frame"]
    assert list(found)[:3] == names
    assert [found[name]["seeds"] for name in names] == ["2", "1", ""]
    both = over_seeds([scored(30.0, 25), scored(30.5, 25)])  # latent 2, beta 1: the best by validation
    one = estimate(scored(33.0, 51))
    assert float(found["VSDN-VAE"]["NLL 25 %"]) == both.value
    assert float(found["VSDN-VAE"]["NLL 25 %, standard error"]) == both.stderr
    assert float(found["VSDN-VAE (res)"]["pred. 50 %"]) == one.value
    assert found["last observed frame"]["NLL 25 %"] == ""
    assert found["VSDN-SDE (res), published"]["interp. 50 %"] == "74.14"
    apart = difference([scored(33.0, 25)], [scored(30.0, 25), scored(30.5, 25)])
    assert float(rows(out / "table1-differences.csv")["VSDN-VAE (res)"]["NLL 25 %"]) == apart.value
    markdown, tex = (out / "tables.md").read_text(), (out / "table1.tex").read_text()
    assert f"**{tables.figure(both).replace('±', ' ± ')}**" in markdown  # of NLL less is better
    assert f"**{tables.figure(one).replace('±', ' ± ')}**" in markdown
    value, _, error = tables.figure(both).partition("±")
    assert rf"\textbf{{{value} $\pm$ {error}}}" in tex
    assert tex.count(r"\midrule") == 3  # under the heading, above the trivial baselines and the published figures
    assert MANIFEST in markdown


def test_all_settings_have_their_own_table(out):
    found = rows(out / "table1-settings.csv")
    assert [name for name in found if name != "VSDN-VAE (res)"] == [
        f"VSDN-VAE (latent {latent}, beta {beta})" for latent in (2, 4) for beta in (0.1, 1.0)
    ]
    assert float(found["VSDN-VAE (latent 4, beta 0.1)"]["NLL 25 %"]) == estimate(scored(32.0, 25)).value


def test_figures_are_pdf_and_png(out):
    for name in ("figure2", "figure4"):
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 300


def test_page_is_self_contained_and_documented(out):
    """The page needs no other file and shows the commands behind its tables."""
    text = (out / "index.html").read_text()
    page = Page(text)
    kinds = set()
    for tag, link in page.links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text
            continue
        kind, payload = re.fullmatch(r"data:([a-z/]+);base64,(.+)", link).groups()
        assert base64.b64decode(payload, validate=True)
        kinds.add((tag, kind))
    assert kinds == {("img", "image/png"), ("img", "image/gif"), ("audio", "audio/wav"), ("a", "audio/midi")}
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert page.text.count(MANIFEST) >= 4
    assert "driftwork train some.yaml 'a=<b>'" in page.text
    assert "driftwork sweep some.yaml" in page.text
    assert re.search(r"driftwork train runs/\w{32}/config.yaml", page.text)
    assert "driftwork evaluate" in page.text
    assert "ratios=[0.1,0.2,0.5]" in page.text
    assert "unscored" in page.text
    assert "no scores of single sequences" in page.text


def test_report_folder_has_outputs_and_configs(out):
    record = json.loads((out / "report.json").read_text())
    assert sorted(record["runs"].values()) == ["0.1-2", "0.1-4", "1-2", "1-4", "again", "res"]
    assert {folder.name for folder in (out / "runs").iterdir()} == set(record["runs"])
    for run_id, name in record["runs"].items():
        assert load(RunConfig, out / "runs" / run_id / "config.yaml").out.name == name
    (res,) = [run_id for run_id, name in record["runs"].items() if name == "res"]
    assert (out / "runs" / res / "outputs/truth.wav").stat().st_size > 160
    assert not list(out.rglob("*-sequences.json"))


@pytest.mark.slow
def test_report_is_logged_and_excludes_itself(uri, out, tmp_path):
    """A report made again does not contain the first."""
    client = client_of(uri)
    (logged,) = client.search_runs(
        [client.get_experiment_by_name("rolls").experiment_id], "tags.driftwork.report='true'"
    )
    assert (logged.info.run_name, logged.info.status) == ("report", "FINISHED")
    assert {"index.html", "table1.csv", "figure4.pdf", "runs"} <= {
        x.path for x in client.list_artifacts(logged.info.run_id)
    }
    copy = tmp_path / "report"
    shutil.copytree(out, copy)
    (copy / "of-before.txt").write_text("")
    assert report.main(["rolls", f"out={copy}", f"tracking.uri={uri}"]) == 0
    assert not (copy / "of-before.txt").exists()
    assert (copy / "table1.csv").read_text() == (out / "table1.csv").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.slow
def test_full_disk_keeps_the_old_report(uri, out, tmp_path, monkeypatch):
    """The error is one line."""
    copy = tmp_path / "report"
    shutil.copytree(out, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(contents.page, "page", full)
    with pytest.raises(DriftworkError, match="report: cannot be written: No space left on device; free space there"):
        report.main(["rolls", f"out={copy}", f"tracking.uri={uri}"])
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rulls", "out=new"], "has no experiment 'rulls'; choose one of Default, rolls"),
        (["Default", "out=new"], "experiment 'Default': no finished run can be reported: it has none"),
        (["rolls", "out=new", "split=val"], "no scores of single sequences; run driftwork evaluate .* split=val"),
        (["rolls", "out=full"], "out=.*full: holds other files"),
        (["rolls", "out=full/file"], "out=.*file: is a file"),
        (["rolls", "out=new", "tracking.uri=sqlite:///none.db"], "none.db: no tracking store here"),
        (["rolls", "out=new", "splot=val"], "unknown key 'splot'"),
        (["out=new"], "the first argument is an experiment's name"),
    ],
)
def test_mistake_is_one_line(uri, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    store = [] if any(argument.startswith("tracking") for argument in arguments) else [f"tracking.uri={uri}"]
    with pytest.raises(DriftworkError, match=said) as caught:
        report.main([*arguments, *store])
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


@pytest.mark.network
def test_silent_server_is_reported(tmp_path, free_port):
    with pytest.raises(DriftworkError, match=f"tracking store http://127.0.0.1:{free_port} does not answer"):
        report.main(["rolls", f"out={tmp_path / 'new'}", f"tracking.uri=http://127.0.0.1:{free_port}"])
    assert list(tmp_path.iterdir()) == []
