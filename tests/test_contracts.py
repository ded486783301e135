"""The import contracts of pyproject.toml catch mistakes: each of these, planted in a copy, breaks one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # starts processes, or computes for long

ROOT = Path(__file__).parents[1]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")

FLOORS = "Every room has its floor, and imports point down"
NO_TORCH = "The parent never loads torch"
NO_DECODING = "What serves never loads what decodes"
TENSORS_ONLY = "Restorers know tensors only: no files of settings, no databases, no films"
STRANGERS = "Restorers do not know each other"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's modules and its contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module in (ROOT / "invsr_daemon").rglob("*.py"):
        target = tmp_path / module.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    """The exit code, and what was said without line breaks."""
    done = subprocess.run(
        [LINT_IMPORTS, "--no-logo", "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, " ".join(f"{done.stdout} {done.stderr}".split())


def test_the_code_keeps_every_contract(copy: Path) -> None:
    code, said = lint(copy)
    assert code == 0, said
    for contract in (FLOORS, NO_TORCH, NO_DECODING, TENSORS_ONLY, STRANGERS):
        assert f"{contract} KEPT" in said


@pytest.mark.parametrize(
    ("module", "imported", "contract", "told"),
    [
        ("newroom", "", FLOORS, "newroom"),
        ("store.planted", "invsr_daemon.media", FLOORS, "store.planted -> invsr_daemon.media"),
        ("jobs.planted", "torch", NO_TORCH, "jobs.planted -> torch"),
        ("daemon.planted", "av", NO_DECODING, "daemon.planted -> av"),
        ("restorers.planted", "yaml", TENSORS_ONLY, "restorers.planted -> yaml"),
        ("restorers.film.planted", "invsr_daemon.restorers.invsr", STRANGERS, "film.planted -> invsr_daemon"),
        ("batch.planted", "invsr_daemon.daemon", FLOORS, "batch.planted -> invsr_daemon.daemon"),
        ("wire.planted", "invsr_daemon.pool", FLOORS, "wire.planted -> invsr_daemon.pool"),
    ],
)
def test_a_mistake_breaks_a_contract(
    copy: Path, module: str, imported: str, contract: str, told: str
) -> None:
    place = (copy / "invsr_daemon" / module.replace(".", "/")).with_suffix(".py")
    place.write_text(f"import {imported}\n" if imported else "")
    code, said = lint(copy)
    assert code == 1
    assert f"{contract} BROKEN" in said
    assert told in said
