"""Files, links and configs named in README and docs/ exist, and all files are named there."""

import re
import sys
import tomllib
from fnmatch import fnmatch

import pytest
import yaml

from launch import cli
from tests.places import ROOT
from tests.test_layers import imported_modules, module

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("package", ["driftwork", "models", "pipeline", "launch"])
def test_file_map_equals_the_modules(package):
    """In the map of docs/architecture.md `*` stands for any letters."""
    _, *parts = re.split(r"(?m)^(\w+)/ ", ARCHITECTURE.rpartition("## Every file")[2].split("```")[1])
    lines = [line for line in dict(zip(parts[::2], parts[1::2], strict=True))[package].splitlines() if line[:2] == "  "]
    patterns, place = [], ""
    for line in lines:
        if found := re.match(r"  (\w+)/", line):
            place = f"{found[1]}/"
            continue
        place = place if line.startswith("    ") else ""
        patterns += [place + name for name in re.findall(r"(?<![\w/])(?:\w+/)?[\w*]+\.py", line)]
    files = (path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")
    names = sorted(str(path.relative_to(ROOT / package)) for path in files)
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)] == []


def test_diagram_names_files_that_exist():
    diagram = re.search(r"```mermaid\n(.*?)```", ARCHITECTURE, re.DOTALL)[1]
    files = re.findall(r"[\w/]+\.py", diagram)
    assert len(files) >= 12
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_main_path_is_short_and_imported():
    """Each file of the main path is imported by one of the three commands, or by the ranks that they start, directly or
    through others."""
    path = re.findall(r"(?m)^\d+\. `(.+\.py)`", ARCHITECTURE)
    assert 0 < len(path) <= 12
    files = {module(ROOT / file) for file in path}
    reached, waiting = set(), ["launch.prepare", "launch.train", "launch.evaluate", "launch.training.rank"]
    while waiting:
        name = waiting.pop()
        file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name not in reached and file.exists():
            reached.add(name)
            waiting += imported_modules(file)
    assert files - reached == set()


def test_index_lists_every_page():
    links = set(re.findall(r"\]\(([^)]+\.md)\)", (ROOT / "docs/README.md").read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert pages <= links


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_hooks_are_those_of_make_check():
    target = re.search(r"(?m)^check: setup\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())[1]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in target.splitlines()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for repo in hooks for hook in repo["hooks"]] == commands


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_configs_on_pages_exist(page):
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    configs = re.findall(r"(?<![\w/])configs/[a-z0-9_/]+\.\w+", text)
    assert [config for config in configs if not (ROOT / config).exists()] == []


@pytest.mark.parametrize("folder", ["fetch", "prepare", "grids", "clusters"])
def test_every_shipped_file_is_documented(folder):
    text = "\n".join(page.read_text() for page in PAGES)
    stems = {path.stem.removesuffix("_small") for path in (ROOT / "configs" / folder).iterdir()}
    assert [stem for stem in sorted(stems) if stem not in text] == []


def test_config_page_equals_the_printed_help(monkeypatch, capsys):
    """To renew the page, run `driftwork help --markdown > docs/config.md`."""
    monkeypatch.setattr(sys, "argv", ["driftwork", "help", "--markdown"])
    assert cli.main() == 0
    assert capsys.readouterr().out == (ROOT / "docs/config.md").read_text()
