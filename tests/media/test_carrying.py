"""No film loses its sound to a container: another one takes it, or it becomes lossless sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from invsr_daemon.media.verify import verify_film
from tests.support.mediafiles import Copy, Sound, make_film, pass_through


def restored(path: Path, container: str = "auto") -> Copy:
    copy = pass_through(path, container=container)
    verify_film(copy.path, copy.source, copy.layout)
    return copy


def heard(path: Path) -> tuple[Fraction, NDArray[np.float64]]:
    """When the sound begins, in seconds, and its samples [channels,N] from -1 to 1."""
    parts: list[NDArray[np.float64]] = []
    with av.open(str(path)) as film:
        stream = film.streams.audio[0]
        start: Fraction | None = None
        for frame in film.decode(stream):
            if start is None and frame.pts is not None and frame.time_base is not None:
                start = frame.pts * frame.time_base
            samples = frame.to_ndarray()
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            scale = 1.0 if samples.dtype.kind == "f" else 2.0 ** (8 * samples.itemsize - 1)
            parts.append(samples.astype(np.float64) / scale)
    assert start is not None
    return start, np.concatenate(parts, axis=1)


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [("a.avi", "pcm_alaw", "mov"), ("a.mov", "adpcm_ima_qt", "mov"), ("a.avi", "pcm_mulaw", "mov")],
)
def test_a_container_that_holds_the_sound_is_taken(
    tmp_path: Path, name: str, codec: str, container: str
) -> None:
    make_film(tmp_path / name, sounds=(Sound(codec=codec),))
    copy = restored(tmp_path / name)
    assert (copy.layout.container, copy.layout.copied, copy.layout.notes) == (container, (1,), ())
    assert np.array_equal(heard(copy.path)[1], heard(tmp_path / name)[1])


@pytest.mark.parametrize(
    ("name", "codec", "container", "becomes"),
    [
        ("a.avi", "adpcm_ima_wav", "auto", "alac"),
        ("a.avi", "adpcm_ima_wav", "mkv", "flac"),
        ("a.asf", "wmav2", "auto", "alac"),
        ("a.asf", "wmav1", "mkv", "flac"),
        ("a.avi", "adpcm_ms", "mov", "alac"),
        ("a.vob", "pcm_dvd", "auto", "alac"),
        ("a.mkv", "pcm_alaw", "mp4", "alac"),
    ],
)
def test_where_there_is_none_it_becomes_lossless_sound(
    tmp_path: Path, name: str, codec: str, container: str, becomes: str
) -> None:
    sound = Sound(codec=codec)
    video = "mpeg2video" if name.endswith("vob") else "libx264"
    source = tmp_path / name
    if name == "a.mkv":  # which PyAV does not write with this sound
        source = tmp_path / "a.mov"
    make_film(source, codec=video, sounds=(sound,))
    copy = restored(source, container)
    assert (copy.layout.copied, copy.layout.transcoded) == ((), (1,))
    (note,) = [note for note in copy.layout.notes if "audio" in note]
    assert note == (
        f"stream 1 (audio {codec}) becomes {becomes}, without loss: {copy.layout.container} cannot hold it"
    )
    with av.open(str(copy.path)) as film:
        assert film.streams.audio[0].codec_context.name == becomes
    (begins, before), (still_begins, after) = heard(source), heard(copy.path)
    assert abs(begins - still_begins) <= Fraction(1, 1000)
    shorter = min(before.shape[1], after.shape[1])
    assert abs(before.shape[1] - after.shape[1]) <= 4096, "the last frame may be filled"
    audible = before.clip(-1, 1)  # what WMA decodes to may be louder
    assert np.abs(audible[:, :shorter] - after[:, :shorter]).max() <= 2**-23
    with av.open(str(copy.path)) as film:
        size = sum(packet.size for packet in film.demux(audio=0))
    assert size == copy.layout.transcoded_size


def test_the_containers_that_are_first_stay_so_if_nothing_is_won(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", sounds=(Sound(),))
    make_film(tmp_path / "a.mp4", sounds=(Sound(),))
    assert restored(tmp_path / "a.mkv").layout.container == "mkv"
    assert restored(tmp_path / "a.mp4").layout.container == "mp4"
