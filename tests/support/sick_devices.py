"""Devices that fail on purpose: real processes that compute on the CPU, under the names of cards.

    python -m tests.support.sick_worker --device cuda:0 --threads 1
    python -m tests.support.sick_probe cuda:0
    python -m tests.support.sick_devices run -c config.yaml

The file that SICK_DEVICES names says, by device, what is wrong with it at the moment: "abort" (its worker
dies before it is ready), "hang", "die" (of each task), "busy" (it is well, but at its first task until the
file says something else), "short" (of memory for canvases), or the text of an error that each task raises. A
device that it does not name is well.
The last line is the program whose daemon finds the cards that CARDS names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

from invsr_daemon.pool.local import LocalPool
from invsr_daemon.pool.worker import Programs

# A fault that shows in tasks alone: whoever tries the device finds it well.
UNSEEN = "CUDA error: only tasks see it"
CODE = Path(__file__).parents[2]


def fault_of(device: str) -> str | None:
    """What is wrong with a device now."""
    found: str | None = json.loads(Path(os.environ["SICK_DEVICES"]).read_text()).get(device)
    return found


def suffer(device: str) -> None:
    """Do at a task what is wrong with a device."""
    match fault_of(device):
        case "hang":
            time.sleep(3600)
        case "busy":
            while fault_of(device) == "busy":
                time.sleep(0.05)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "short":  # that is the restorer's to bear
            pass
        case str(text):
            raise RuntimeError(text)


def daemon() -> None:
    """The command line of the program, where `run` finds other devices."""
    import invsr_daemon.daemon.daemon as room
    from invsr_daemon.cli.main import main

    cards = tuple(os.environ["CARDS"].split(","))
    reads = (CODE, Path(os.environ["SICK_DEVICES"]).parent)
    programs = Programs("tests.support.sick_worker", "tests.support.sick_probe", (0.0, 0.5, 2.0), reads)
    with (
        patch.object(room, "choose_devices", lambda names, workers: cards),
        patch.object(room, "LocalPool", partial(LocalPool, programs=programs)),
    ):
        main(sys.argv[1:])


if __name__ == "__main__":
    daemon()
