"""Asks a chatty process for 30 signs of life, and allows it to be silent for a second."""

from __future__ import annotations

import asyncio

from invsr_daemon.pool.child import Child


async def ask() -> None:
    child = Child("the chatty process", "tests.support.chatty", (), 1.0)
    try:
        print(await child.ask("30\n", lambda frames: print("alive", flush=True)))
    finally:
        await child.stop()


if __name__ == "__main__":
    asyncio.run(ask())
