"""The documents name what there is, and what they name is there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from invsr_daemon.batch import reports
from invsr_daemon.cli import options
from invsr_daemon.cli.main import main
from invsr_daemon.settings.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "invsr_daemon"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
DOCUMENTS = sorted([*TOP, *(ROOT / "docs").rglob("*.md")])
INTERRUPTED, DONE = 130, 0
# Folders by which a document may name a file or a folder of the tree.
TREE = re.compile(r"`((?:invsr_daemon|tests|benchmarks|docs|systemd|\.ci)/[\w./-]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def parametrized(documents: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", documents, ids=lambda page: str(page.relative_to(ROOT)))


pages = parametrized(DOCUMENTS)
# The changelog also names what there was.
present = parametrized([page for page in DOCUMENTS if page.name != "CHANGELOG.md"])


def text_of(*names: str) -> str:
    return "\n".join((ROOT / name).read_text() for name in names)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield from settings(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        yield prefix + name
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


def rooms() -> list[str]:
    return sorted(each.parent.name for each in PACKAGE.glob("*/__init__.py"))


@cache
def code() -> str:
    """What stands in backticks and in blocks of code, in all documents."""
    fence = re.compile(r"^ *```.*?^ *```", flags=re.DOTALL | re.MULTILINE)
    pieces = []
    for page in DOCUMENTS:
        text = page.read_text()
        pieces += fence.findall(text)
        rest = fence.sub("", text)
        pieces += re.findall(r"^ {4}.*$", rest, flags=re.MULTILINE)
        pieces += [" ".join(words.split()) for words in re.findall(r"`[^`]+`", rest)]
    return "\n".join(pieces)


@pytest.mark.parametrize("name", [*settings(Settings)])
def test_every_setting_is_documented(name: str) -> None:
    """In config.yaml, the place of all settings; tests/settings looks at the comments."""
    section, _, own = name.rpartition(".")
    example = text_of("config.yaml")
    pattern = rf"^#?{section}:\n(?: .*\n|\n|#.*\n)*?  #?{own}:" if section else rf"^#?{own}:"
    assert re.search(pattern, example, flags=re.MULTILINE), f"{name} is not in config.yaml"


@pages
def test_settings_that_are_named_exist(page: Path) -> None:
    """Those of a section, such as `limits.stall_seconds`."""
    known = {*settings(Settings)}
    sections = "|".join(sorted({name.partition(".")[0] for name in known if "." in name}))
    for name in re.findall(rf"`((?:{sections})\.[a-z_]+)(?:: [^`]*)?`", page.read_text()):
        assert name in known, f"{name} is no setting"


@pytest.mark.parametrize("name", [*commands(main)])
def test_every_command_is_documented(name: str) -> None:
    assert re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", code()), f"no document names `{name}`"


@pytest.mark.parametrize("code", [DONE, options.FAILED, options.USAGE, INTERRUPTED])
def test_every_exit_code_is_documented(code: int) -> None:
    said = " ".join(text_of("README.md").split())
    (line,) = re.findall(r"Exit codes: ([^.]*)\.", said)
    assert re.search(rf"\b{code} \w", line)
    assert re.search(rf"\b{code}\b", text_of("docs/operations.md"))


def test_every_event_is_documented() -> None:
    events = set(re.findall(r'_write\(\s*"(\w+)"', inspect.getsource(reports.Events)))
    assert len(events) > 3, "the events are not found in the code any more"
    documented = re.findall(r"^\| `(\w+)` \|", text_of("docs/operations.md"), flags=re.MULTILINE)
    assert events <= set(documented)
    assert set(documented) <= events


@pytest.mark.parametrize("room", rooms())
def test_every_room_is_documented(room: str) -> None:
    for page in ("docs/architecture.md", "CONTRIBUTING.md"):
        assert f"`{room}/`" in text_of(page), f"{page} does not name the room {room}"


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if re.match(r"https?:", link):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            assert heading in anchors(target), link


@present
def test_files_that_are_named_are_there(page: Path) -> None:
    for name in TREE.findall(page.read_text()):
        assert (ROOT / name).exists(), name


@present
def test_modules_that_are_named_are_there(page: Path) -> None:
    """In commands, such as `python -m invsr_daemon.train.export`."""
    for name in re.findall(r"-m ((?:invsr_daemon|tests)\.[\w.]*\w)", page.read_text()):
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name


def anchors(page: Path) -> set[str]:
    """A page's headings as links have them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
