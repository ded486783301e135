"""Values and errors that every room shares. Nothing here imports anything heavy."""

from __future__ import annotations


class InvsrError(Exception):
    """Base of every expected failure: its text tells a person what is wrong and what to do.

    `retryable` says whether the same work may succeed later without anyone changing it.
    """

    retryable = False


class InputError(InvsrError):
    """The input cannot be restored: not a picture or film, damaged, or beyond the limits."""


class ConfigError(InvsrError):
    """A setting or an option is wrong."""


class ModelError(InvsrError):
    """A model is missing, incomplete or not what it should be."""


class OutputError(InvsrError):
    """The result cannot be written where it should go."""


class OutputExistsError(OutputError):
    """Something already has the result's name, and overwriting was not asked for."""


class ResourceError(InvsrError):
    """A passing want: disk space, memory, a vanished mount."""

    retryable = True


class WorkerLostError(ResourceError):
    """A worker process died or fell silent."""
