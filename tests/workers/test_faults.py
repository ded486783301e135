"""What torch raises, told apart: faults of a device, want of memory, and all else."""

from __future__ import annotations

import pytest
import torch

from invsr_daemon.errors import DeviceLostError, DeviceUnfitError
from invsr_daemon.workers.faults import device_faults, memory_errors
from invsr_daemon.workers.soundness import device_problem

CPU, CUDA0 = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...",
        "CUDA error: device-side assert triggered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( ...)`",
        "No CUDA GPUs are available",
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: system not yet initialized",
        "Unexpected error from cudaGetDeviceCount(): CUDA driver initialization failed",
    ],
)
def test_a_device_that_fails_is_lost(text: str) -> None:
    with pytest.raises(DeviceLostError) as raised, device_faults(CUDA0):
        raise RuntimeError(text)
    assert str(raised.value) == f"cuda:0 fails: {text.partition(chr(10))[0]}"
    assert raised.value.retryable


def test_torchs_own_class_for_it_is_known() -> None:
    with pytest.raises(DeviceLostError, match="cuda:0 fails: whatever it says"), device_faults(CUDA0):
        raise torch.AcceleratorError("whatever it says")


@pytest.mark.parametrize("kind", ["Half", "BFloat16"])
def test_a_device_that_lacks_a_precision_is_well(kind: str) -> None:
    with pytest.raises(DeviceUnfitError, match="cpu lacks the precision") as raised, device_faults(CPU):
        raise RuntimeError(f"\"slow_conv2d_cpu\" not implemented for '{kind}'")
    assert not isinstance(raised.value, DeviceLostError)
    assert raised.value.retryable


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_want_of_memory_is_no_fault(error: RuntimeError) -> None:
    with pytest.raises(MemoryError), memory_errors(), device_faults(CUDA0):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^The size of tensor a"), memory_errors(), device_faults(CUDA0):
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    with pytest.raises(ValueError, match=r"^steps"), memory_errors(), device_faults(CUDA0):
        raise ValueError("steps")


def test_a_device_that_computes_has_no_problem() -> None:
    assert device_problem("cpu") is None


def test_one_that_computes_nothing_has() -> None:
    expected = "it raises NotImplementedError: Cannot copy out of meta tensor; no data!"
    assert device_problem("meta") == expected
