"""A worker on a device that may be sick: see `sick_devices`. It computes on the CPU."""

from __future__ import annotations

import os
import sys

from invsr_daemon.wire.events import Progress
from tests.support.sick_devices import fault_of, suffer


def main() -> None:
    device = sys.argv[sys.argv.index("--device") + 1]
    if fault_of(device) == "abort":
        os.abort()

    import torch

    from invsr_daemon.wire.tasks import parse_task
    from invsr_daemon.workers.device import DeviceRestorer
    from invsr_daemon.workers.faults import device_faults
    from invsr_daemon.workers.restore import perform
    from invsr_daemon.workers.serving import serve

    torch.set_num_threads(1)
    restorer = DeviceRestorer("cpu")

    def answer(line: str, source: int | None, progress: Progress) -> float:
        with device_faults(torch.device(device)):
            suffer(device)
        return perform(parse_task(line), restorer, progress, source)

    serve(answer)


if __name__ == "__main__":
    main()
