"""Tries a device that may be sick: see `sick_devices`."""

from __future__ import annotations

import json
import os
import sys
import time

from tests.support.sick_devices import UNSEEN, fault_of

if __name__ == "__main__":
    fault = fault_of(sys.argv[1])
    if fault == "abort":
        os.abort()
    if fault == "hang":
        time.sleep(3600)
    print(json.dumps({"problem": None if fault in ("die", "busy", UNSEEN) else fault}))
