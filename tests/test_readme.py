"""What README and docs/ say is there, is there, and nothing else."""

import re
from fnmatch import fnmatch

import pytest

from tests.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def mapped(package):
    """The modules that the file map of README has under a package, `*` for any letters."""
    lines = (ROOT / "README.md").read_text().split("```\nlaunch/ ")[1].split("```")[0]
    part = re.split(r"(?m)^(\w+)/ ", f"launch/ {lines}")
    words = dict(zip(part[1::2], part[2::2], strict=True))[package]
    indented = "\n".join(line for line in words.splitlines() if line.startswith("  "))
    return re.findall(r"(?<![\w/])[\w*]+\.py", indented)


@pytest.mark.parametrize("package", ["launch", "pipeline", "models"])
def test_the_file_map_names_every_module_and_no_other(package):
    names = {path.name for path in (ROOT / package).rglob("*.py")} - {"__init__.py"}
    patterns = mapped(package)
    assert [name for name in sorted(names) if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_configs_on_a_page_lead_somewhere(page):
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    configs = re.findall(r"(?<![\w/])configs/[a-z0-9_/]+\.\w+", text)
    assert [config for config in configs if not (ROOT / config).exists()] == []


@pytest.mark.parametrize("folder", ["fetch", "prepare", "grids", "clusters"])
def test_every_shipped_file_is_on_a_page(folder):
    text = "\n".join(page.read_text() for page in PAGES)
    stems = {path.stem.removesuffix("_small") for path in (ROOT / "configs" / folder).iterdir()}
    assert [stem for stem in sorted(stems) if stem not in text] == []
