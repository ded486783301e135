"""A worker on a device that may be sick: see `sick_devices`. It computes on the CPU."""

from __future__ import annotations

import os
import sys
from typing import Any

from invsr_daemon.wire.events import Progress
from tests.support.sick_devices import fault_of, suffer


def main() -> None:
    device = sys.argv[sys.argv.index("--device") + 1]
    if fault_of(device) == "abort":
        os.abort()

    import torch

    from invsr_daemon.wire.tasks import parse_task, plain_done
    from invsr_daemon.workers.device import DeviceRestorer, Sparing
    from invsr_daemon.workers.faults import device_faults
    from invsr_daemon.workers.restore import perform
    from invsr_daemon.workers.serving import serve

    torch.set_num_threads(1)

    class Sick(DeviceRestorer):
        """As after running out of memory, if that is what is wrong with it."""

        def begin(self) -> None:
            super().begin()
            self._sparing = Sparing(in_main_memory=fault_of(device) == "short")

    restorer = Sick("cpu")

    def answer(line: str, source: int | None, progress: Progress) -> Any:
        with device_faults(torch.device(device)):
            suffer(device)
        return plain_done(perform(parse_task(line), restorer, progress, source))

    serve(answer)


if __name__ == "__main__":
    main()
