"""A result looked at once more before it gets its name: does it open, and is it all there?"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from ..errors import InputError, OutputError
from ..records import Film, ImageTask, Layout, output_size
from .assemble import FORMATS, MILLISECOND
from .image import probe_image
from .source import NO_PROTOCOL, File, reading


def verify_film(file: File, film: Film, layout: Layout) -> None:
    """Every frame is there at its time, the first one decodes, and no copied stream is missing.

    Frames are counted by packets, for this program wrote them; decoding all would take as long as a
    player. Raises OutputError.
    """
    try:
        with (
            reading(file) as reader,
            av.open(reader, "r", format=FORMATS[layout.container], options=NO_PROTOCOL) as container,
        ):
            _check_streams(container, layout)
            video = _restored(container, film, layout)
            _check_times(_times(container, video), [pts * film.info.time_base for pts in film.pts])
            container.seek(0)
            next(container.decode(video))
    except (av.error.FFmpegError, InputError, StopIteration, IndexError) as error:
        raise OutputError(f"the assembled film cannot be read: {error}") from error


def _restored(container: InputContainer, film: Film, layout: Layout) -> VideoStream:
    """The film's own stream: as many others lie before it as in the source, attachments and covers apart."""
    apart = {"attachment"} if layout.container == "nut" else {"attachment", "cover"}
    attached = {other.index for other in film.info.others if other.type in apart}
    place = sum(index < film.info.stream for index in set(layout.carried) - attached)
    found = container.streams[place]
    if not isinstance(found, VideoStream):
        raise OutputError("the assembled film has no video in its place")
    return found


def _check_streams(container: InputContainer, layout: Layout) -> None:
    wanted = 1 + len(layout.carried)
    if len(container.streams) < wanted:  # chapters may make one more
        raise OutputError(f"the assembled film has {len(container.streams)} of {wanted} streams")


def _times(container: InputContainer, video: VideoStream) -> list[Fraction]:
    assert video.time_base is not None
    packets = container.demux(video)
    return sorted(p.pts * video.time_base for p in packets if p.size and p.pts is not None)


def _check_times(found: Sequence[Fraction], wanted: Sequence[Fraction]) -> None:
    if len(found) != len(wanted):
        raise OutputError(f"the assembled film has {len(found)} of {len(wanted)} frames")
    # Matroska rounds to milliseconds; MP4 may shift a whole film that begins before zero.
    for (a, b), (c, d) in zip(pairwise(found), pairwise(wanted), strict=True):
        if abs((b - a) - (d - c)) > MILLISECOND:
            raise OutputError(
                f"a frame of the assembled film lasts {float(b - a):g} s, not {float(d - c):g} s"
            )


def verify_picture(file: File, task: ImageTask) -> None:
    """It opens as a picture of the expected size. Raises OutputError."""
    size = output_size(task.info.width, task.info.height, task.model.scale, even=False)
    try:
        found = probe_image(file, size[0] * size[1])
    except InputError as error:
        raise OutputError(f"the restored picture cannot be read: {error}") from error
    if found is None or (found.width, found.height) != size:
        raise OutputError(f"the restored picture is not of {size[0]}x{size[1]} pixels")
