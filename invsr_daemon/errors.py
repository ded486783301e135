"""Every expected failure. Its text tells a person what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20


class InvsrError(Exception):
    """Base of every expected failure: its text tells a person what is wrong and what to do.

    `retryable` says whether the same work may succeed later without anyone changing it.
    """

    retryable = False


class InputError(InvsrError):
    """The input cannot be restored: not a picture or film, damaged, or beyond the limits."""


class UnreadableError(InputError):
    """This user may not read the input. That may be changed without the file being touched."""

    retryable = True


class ConfigError(InvsrError):
    """A setting or an option is wrong."""


class ModelError(InvsrError):
    """A model is missing, incomplete or not what it should be."""


class UnknownModelError(ModelError, ConfigError):
    """Neither a known name nor a directory with a model's parts: a wrong setting or option."""


class NotPulledError(ModelError, ConfigError):
    """A known model is not on this machine, or not whole: a wrong setting until it is pulled."""


class ModelChangedError(ModelError):
    """A model's files are others by now than when the job was planned."""

    retryable = True


class ModelUnreachableError(ModelError):
    """A model cannot be fetched just now: no network, a broken connection, a busy hub."""

    retryable = True


class OutputError(InvsrError):
    """The result cannot be written where it should go."""


class OutputExistsError(OutputError):
    """Something already has the result's name, and overwriting was not asked for."""


class InUseError(OutputError):
    """An original cannot be moved or removed as long as someone has it open for writing."""

    retryable = True


class UnwritableError(OutputError):
    """The folder of results cannot be written to just now: read-only, unmounted, failing."""

    retryable = True


class ResourceError(InvsrError):
    """A passing want: disk space, memory, a vanished mount."""

    retryable = True


class MachineError(ResourceError):
    """The machine's own want, not a file's: work waits until it has passed, and no job pays an attempt."""


class DiskFullError(MachineError):
    """No space where a result or a piece of work should go: nobody's fault but the disk's."""


class NoRoomError(DiskFullError):
    """A result does not fit where it should go: it needs about `needed` bytes in `folder`."""

    def __init__(self, folder: Path, needed: int, free: int) -> None:
        super().__init__(f"the result needs about {_told(needed)}, and {_told(free)} are free in {folder}")
        self.folder = folder
        self.needed = needed


def _told(size: int) -> str:
    """A size in bytes, in words."""
    return f"{size / MIB:.1f} MiB" if size >= MIB else f"{size / KIB:.0f} KiB"


class ProcessRefusedError(MachineError):
    """The system starts no process just now: too many of them, or too little memory."""


class NoDeviceError(MachineError):
    """Every device is set aside."""


class InternalError(InvsrError):
    """A mistake of this program itself."""


class WorkerLostError(ResourceError):
    """A worker process died or fell silent."""


class WorkerStartError(WorkerLostError):
    """A process ended before it could be asked anything: whatever it was to do is not to blame."""


class DeviceLostError(ResourceError):
    """A device fails: the error is its own or its driver's, not that of the work it was given."""


class DeviceUnfitError(ResourceError):
    """A device cannot compute in the precision that a task asks for; it is well, and another one may."""


class DeviceOccupiedError(DeviceLostError):
    """Others have taken a device's memory: not even the model finds room."""


class WorkersLostError(InvsrError):
    """Workers died of one chunk again and again: the fault of the film, or of the machine."""


class Interrupted(InvsrError):
    """Stopped on request; the same job resumes where it was."""

    retryable = True
