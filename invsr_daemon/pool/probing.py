"""Trying a device in a process of its own: a broken driver may crash it, or hang it."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress

from .child import environment
from .devices import named_by_torch

PROBING_SECONDS = 120.0


async def device_problem(device: str, module: str, seconds: float = PROBING_SECONDS) -> str | None:
    """What is wrong with a device; None if nothing is.

    `module` is run with the device's name, and prints {"problem": TEXT or null}.
    """
    name, seen = named_by_torch(device)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**environment(), **seen},
        )
    except OSError as error:
        return f"it cannot be tried: {error.strerror}"
    try:
        async with asyncio.timeout(seconds):
            answer, words = await process.communicate()
    except TimeoutError:
        return f"it does not answer within {seconds:g} s"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    return _problem(answer, words, process.returncode)


def _problem(answer: bytes, words: bytes, code: int | None) -> str | None:
    if code != 0:
        last = words.decode(errors="replace").strip().rpartition("\n")[2]
        return f"what tries it ends with code {code}" + (f": {last}" if last else "")
    problem: str | None = json.loads(answer.splitlines()[-1])["problem"]
    return problem
