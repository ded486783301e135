"""Reading files from strangers.

A playlist or a concat script opens *other* files whatever its own name is, and a colon or a percent
sign in a name means something to FFmpeg. So libraries get no names to open: they read through a descriptor.
And there are regular files only, an explicit list of demuxers, and no protocol.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, cast

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from ..errors import InputError
from ..files.inputs import opened
from .foreign import unreadable_picture

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TOO_MUCH_MEMORY = "it takes more memory to read than there is for one file (limits.max_memory)"
READ_BYTES = 256 * 1024  # at once, by FFmpeg
# Containers of moving pictures. Left out on purpose: hls, dash, concat, image sequences, devices.
DEMUXERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,ogg,nut,mxf,gxf,rm,gif,apng,ivf,"
    "h264,hevc,av1,obu,vc1,vc1test,h263,cavsvideo,dv,yuv4mpegpipe,wtv,dirac,mjpeg,swf,nsv,roq,"
    "4xm,bink,smk,vmd,avs,flic,film_cpk,mvi,viv,vivo,xmv,wsvqa,idcin,ipmovie,psxstr,str,thp,"
    "rpl,c93,mtv,filmstrip,lmlm4,lxf,anm,bfi,ea,cdxl,dsicin,paf,jv,mm,nuv,r3d,sdr2,segafilm,seq,tmv,txd"
)
NO_PROTOCOL = {"protocol_whitelist": "none"}


@dataclass(frozen=True)
class OpenFile:
    """A file that is open already. Its path only tells some formats, and is not opened again."""

    path: Path
    descriptor: int


Heard = Callable[[int], None]


def unheard(count: int) -> None:
    """Of no interest."""


# A path is opened for one call alone, and no link is followed.
File = Path | OpenFile
S = TypeVar("S", bound=Stream)


class Reader(io.RawIOBase):
    """Reads a descriptor at a place of its own: several may read it at once. `heard`: told of bytes read."""

    def __init__(self, file: OpenFile, heard: Heard = unheard) -> None:
        self.name = str(file.path)
        self._descriptor = file.descriptor
        self._position = 0
        self._heard = heard

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        self._heard(count)
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError("a file has no places before its beginning")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


@contextmanager
def reading(file: File, heard: Heard = unheard) -> Iterator[Reader]:
    """A file's content; `heard` is told of bytes read.

    Raises InputError if it is a path of no regular file with something in it.
    """
    if isinstance(file, OpenFile):
        yield Reader(file, heard)
        return
    with opened(file) as descriptor:
        yield Reader(OpenFile(file, descriptor), heard)


@contextmanager
def buffered(file: File) -> Iterator[IO[bytes]]:
    """The same, for who reads a few bytes at a time."""
    with reading(file) as reader, io.BufferedReader(reader) as content:
        yield content


@contextmanager
def open_source(file: File, heard: Heard = unheard) -> Iterator[InputContainer]:
    """An input container; `heard` is told of bytes read.

    FFmpeg's errors inside the block become InputError.
    """
    with reading(file, heard) as reader:
        try:
            with av.open(
                reader,
                "r",
                options={"format_whitelist": DEMUXERS, **NO_PROTOCOL},
                metadata_errors="replace",
                buffer_size=READ_BYTES,
            ) as container:
                yield container
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:  # or a format not allowed
            raise InputError(_refusal(file)) from error
        except MemoryError as error:  # PyAV's own is an FFmpegError, too
            raise InputError(TOO_MUCH_MEMORY) from error
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"it cannot be read: {error.strerror}") from error


def is_cover(stream: Stream) -> bool:
    """Whether it is a picture that stands for the whole film."""
    return bool(stream.disposition & Disposition.attached_pic)


def packets_of(container: InputContainer, *streams: S) -> Iterator[Packet[S]]:
    """What a container holds of these streams, or of all. Raises InputError."""
    try:
        yield from cast("Iterator[Packet[S]]", container.demux(*streams))
    except IndexError as error:  # PyAV knows the streams that were there when it was opened
        raise InputError("a stream begins in the middle of it, which is not supported") from error


def _refusal(file: File) -> str:
    with buffered(file) as content:
        kind = unreadable_picture(content)
    if kind is None:
        return "it is not a film or picture that can be read, or it is damaged"
    return f"the {kind} is damaged, or of a kind that is not supported (such as 32 bits per channel)"
