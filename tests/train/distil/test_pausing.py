"""While the file is there, nothing goes on."""

from pathlib import Path

from invsr_daemon.train.distil.pausing import wait_while


def test_it_waits_until_the_file_is_gone(tmp_path: Path) -> None:
    paused = tmp_path / "PAUSE"
    slept: list[float] = []
    said: list[str] = []
    paused.touch()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            paused.unlink()

    wait_while(paused, sleep, said.append)
    assert len(slept) == 3
    assert said[-1] == "going on"


def test_without_a_file_it_goes_on_at_once(tmp_path: Path) -> None:
    wait_while(tmp_path / "PAUSE")
    wait_while(None)
