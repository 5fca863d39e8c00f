"""Files, links and configs named in README and docs/ exist, and all files are named there."""

import re
from fnmatch import fnmatch

import pytest

from tests.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("package", ["driftwork", "models", "pipeline", "launch"])
def test_file_map_equals_the_modules(package):
    """In the map of docs/architecture.md `*` stands for any letters."""
    _, *parts = re.split(r"(?m)^(\w+)/ ", (ROOT / "docs/architecture.md").read_text().split("```")[1])
    lines = [line for line in dict(zip(parts[::2], parts[1::2], strict=True))[package].splitlines() if line[:2] == "  "]
    patterns, place = [], ""
    for line in lines:
        if found := re.match(r"  (\w+)/", line):
            place = f"{found[1]}/"
            continue
        place = place if line.startswith("    ") else ""
        patterns += [place + name for name in re.findall(r"(?<![\w/])[\w*]+\.py", line)]
    files = (path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")
    names = sorted(str(path.relative_to(ROOT / package)) for path in files)
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)] == []


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
