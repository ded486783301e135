"""The package's public name, and its former place."""

from __future__ import annotations

import importlib
import sys

import pytest

import invsr_daemon
from invsr_daemon.restorers.opening import InvSR


def test_the_package_offers_the_model_under_its_own_name() -> None:
    assert invsr_daemon.InvSR is InvSR
    assert set(invsr_daemon.__all__) == {"InvSR", "__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        invsr_daemon.nonsense  # noqa: B018


def test_the_former_place_warns_and_still_serves() -> None:
    sys.modules.pop("invsr_daemon.model", None)
    with pytest.warns(DeprecationWarning, match="from invsr_daemon import InvSR"):
        former = importlib.import_module("invsr_daemon.model")
    assert former.InvSR is InvSR
