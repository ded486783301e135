"""Other processes of `gpu.py`: each loads torch at most once, and answers one question after the other.

A child touches the device when it is first asked something, not before: so one that was begun early is still
fresh, and costs no time when it is needed.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

from gpu_device import Setting

END_SECONDS = 10
LEAST_PATIENCE = 20  # seconds to answer in, though the budget is used up
Answer = dict[str, Any]
Answering = Callable[[str], Answer]
# `fork` shares what is loaded, but not with a device that is in use, nor with threads.
Method = Literal["fork", "spawn"]


class ChildEnded(RuntimeError):
    """A child ended before it answered."""


class ChildFailed(RuntimeError):
    """An error in a child, which lives on."""


def serve(connection: Connection, other_end: Connection, cache: str, make: Callable[[], Answering]) -> None:
    """Answer until nobody asks any more. Kernels that others have compiled are not seen."""
    other_end.close()  # a copy: as long as it is open, nobody is seen to ask no more
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    answering = None
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        try:
            answering = answering or make()
            answer, problem = answering(question), ""
        except Exception as error:  # whatever it is, it is told
            answer, problem = {}, f"{type(error).__name__}: {error}"
        connection.send((answer, problem))


class Child:
    """A process that answers by what `make` makes there."""

    def __init__(self, make: Callable[[], Answering], method: Method) -> None:
        copy = method == "fork"
        context = multiprocessing.get_context("fork") if copy else multiprocessing.get_context("spawn")
        self._cache = tempfile.TemporaryDirectory()
        self._connection, theirs = context.Pipe()
        # No daemon: those must not start processes, as a compiler may.
        self._process = context.Process(target=serve, args=(theirs, self._connection, self._cache.name, make))
        self._process.start()
        theirs.close()

    @property
    def ended(self) -> bool:
        return not self._process.is_alive()

    def ask(self, question: str, seconds: float) -> Answer:
        """The answer.

        Raises:
            ChildFailed: there was an error; what it was.
            ChildEnded: the process has ended.
            TimeoutError: no answer for so many seconds. The process was killed.
        """
        try:
            self._connection.send(question)
            if not self._connection.poll(seconds):
                self._process.kill()
                raise TimeoutError(f"no answer to `{question}` for {seconds:.0f} s")
            answer, problem = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.join()
            code = self._process.exitcode
            raise ChildEnded(f"a process ended with {code} when asked for `{question}`") from error
        if problem:
            raise ChildFailed(f"{problem} (when a process was asked for `{question}`)")
        return dict(answer)

    def close(self) -> None:
        """End it, by force if it does not end by itself."""
        self._connection.close()
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._cache.cleanup()


@dataclass(frozen=True)
class Children:
    """The children of a run by their names; each is begun when it is first needed."""

    make: Callable[[], Answering]
    method: Method
    _known: dict[str, Child] = field(default_factory=dict, compare=False)

    def child(self, name: str) -> Child:
        """One that lives."""
        known = self._known.get(name)
        if known is not None and known.ended:
            self._known.pop(name).close()  # whoever takes its name is the last one then: see `close`
            known = None
        if known is None:
            known = self._known[name] = Child(self.make, self.method)
        return known

    def begin(self, names: Iterable[str]) -> None:
        """Begin them all at once."""
        for name in names:
            self.child(name)

    def close(self) -> None:
        # The last first: a copy of this process holds the ends of the pipes to those before it.
        for known in reversed(self._known.values()):
            known.close()
        self._known.clear()


@dataclass(frozen=True)
class Parent(Setting):
    """What the process that measures was asked for, and whom it can ask."""

    children: Children

    def ask(self, child: str, question: str) -> Answer:
        """What a child answers within the budget. Raises as `Child.ask` does."""
        return self.children.child(child).ask(question, max(LEAST_PATIENCE, self.left()))
