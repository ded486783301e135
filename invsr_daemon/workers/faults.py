"""What torch raises when a device fails or memory does not suffice, as errors of this program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import DeviceLostError, DeviceUnfitError

# Older torch, and libraries below it, raise plain RuntimeErrors. These are parts of their texts.
DEVICE_FAULTS = (
    "CUDA error",
    "CUDA driver",
    "CUDA unknown error",
    "cuDNN error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "CUSOLVER_STATUS",
    "CUFFT_STATUS",
    "NCCL error",
    "NVML",
    "HIP error",
    "miopenStatus",
    "No CUDA GPUs are available",
    "no NVIDIA driver",
    "no kernel image is available",
    "system not yet initialized",
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "uncorrectable ECC error",
    "fell off the bus",
)

# Want of memory, a device's or the machine's, where it is no torch.OutOfMemoryError.
SHORTAGES = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


# An operation that is not there in half precision: older torch has few of them on a CPU.
LACKS = ("not implemented for 'Half'", "not implemented for 'BFloat16'")


@contextmanager
def memory_errors() -> Iterator[None]:
    """MemoryError for what torch raises where memory does not suffice: RuntimeErrors of several kinds."""
    try:
        yield
    except RuntimeError as error:
        if is_shortage(error):
            raise MemoryError(str(error)) from error
        raise


@contextmanager
def device_faults(device: torch.device) -> Iterator[None]:
    """DeviceLostError for what torch raises when a device fails; DeviceUnfitError if it lacks a precision.

    Memory that does not suffice is no fault.
    """
    try:
        yield
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        if any(part in first for part in LACKS):
            raise DeviceUnfitError(f"{device} lacks the precision: {first} (set another one)") from error
        if is_shortage(error) or not is_fault(error):
            raise
        raise DeviceLostError(f"{device} fails: {first}") from error


def is_shortage(error: RuntimeError) -> bool:
    """Whether an error tells of memory that does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in SHORTAGES)


def is_fault(error: RuntimeError) -> bool:
    """Whether an error tells of a device, and not of what it was given to compute."""
    # torch.AcceleratorError is newer than the oldest torch that we take
    kind = getattr(torch, "AcceleratorError", None)
    known = kind is not None and isinstance(error, kind)
    return known or any(part in str(error) for part in DEVICE_FAULTS)
