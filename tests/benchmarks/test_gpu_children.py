"""The other processes of `benchmarks/gpu.py`: answers, errors, ends and silence are told apart."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # starts processes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def made() -> Callable[[str], dict[str, Any]]:
    asked: list[str] = []

    def answer(question: str) -> dict[str, Any]:
        asked.append(question)
        if question == "fail":
            raise ValueError("no")
        if question == "end":
            os._exit(3)
        if question == "hang":
            time.sleep(3600)
        return {"asked": list(asked), "pid": os.getpid(), "cache": os.environ["TORCHINDUCTOR_CACHE_DIR"]}

    return answer


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_children")


@pytest.fixture
def children(module: Any) -> Iterator[Any]:
    children = module.Children(made, "fork")
    yield children
    children.close()


def test_a_child_answers_one_question_after_the_other(children: Any) -> None:
    children.begin(["one", "other"])
    first = children.child("one").ask("a", 60)
    second = children.child("one").ask("b", 60)
    assert (first["asked"], second["asked"]) == (["a"], ["a", "b"])
    assert first["pid"] == second["pid"] != os.getpid()
    other = children.child("other").ask("a", 60)
    assert other["pid"] != first["pid"]
    assert other["cache"] != first["cache"]


def test_an_error_is_told_and_the_child_lives_on(module: Any, children: Any) -> None:
    with pytest.raises(module.ChildFailed, match="ValueError: no"):
        children.child("one").ask("fail", 60)
    assert children.child("one").ask("b", 60)["asked"] == ["fail", "b"]


def test_a_child_that_ended_is_followed_by_another(module: Any, children: Any) -> None:
    with pytest.raises(module.ChildEnded, match="ended with 3"):
        children.child("one").ask("end", 60)
    assert children.child("one").ask("b", 60)["asked"] == ["b"]


def test_silence_is_no_end(module: Any, children: Any) -> None:
    """A device that hangs must not look like one that ends its process."""
    with pytest.raises(TimeoutError, match="no answer to `hang`"):
        children.child("one").ask("hang", 0.2)


def test_a_child_can_begin_anew(module: Any) -> None:
    """As on a GPU, whose context cannot be shared: nothing of this process is copied."""
    children = module.Children(made, "spawn")
    try:
        assert children.child("one").ask("a", 300)["asked"] == ["a"]
    finally:
        children.close()
