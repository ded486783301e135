"""Opening files from strangers.

A playlist or a concat script opens *other* files whatever its own name is, and a colon or a percent
sign in a name means something to FFmpeg. So: regular files only, an explicit list of demuxers,
`file:` with an absolute path, no other protocol.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from ..errors import InputError
from .foreign import unreadable_picture

TOO_MUCH_MEMORY = "it takes more memory to read than there is for one file"
# Containers of moving pictures. Left out on purpose: hls, dash, concat, image sequences, devices.
DEMUXERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,ogg,nut,mxf,gxf,rm,gif,apng,ivf,"
    "h264,hevc,av1,obu,vc1,vc1test,h263,cavsvideo,dv,yuv4mpegpipe,wtv,dirac,mjpeg,swf,nsv,roq,"
    "4xm,bink,smk,vmd,avs,flic,film_cpk,mvi,viv,vivo,xmv,wsvqa,idcin,ipmovie,psxstr,str,thp,"
    "rpl,c93,mtv,filmstrip,lmlm4,lxf,anm,bfi,ea,cdxl,dsicin,paf,jv,mm,nuv,r3d,sdr2,segafilm,seq,tmv,txd"
)

S = TypeVar("S", bound=Stream)


def check_regular(path: Path) -> os.stat_result:
    """The stat of a readable, non-empty regular file (no symlink); InputError otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise InputError("there is no such file") from error
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise InputError(f"it cannot be opened: {why}") from error
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise InputError("it is not a regular file")
    if found.st_size == 0:
        raise InputError("it is empty (zero bytes)")
    return found


@contextmanager
def open_source(path: Path) -> Iterator[InputContainer]:
    """An input container over a regular file. FFmpeg's errors inside the block become InputError."""
    check_regular(path)
    try:
        with av.open(
            f"file:{path.absolute()}",
            options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        ) as container:
            yield container
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:  # or a format that is not allowed
        raise InputError(_refusal(path)) from error
    except MemoryError as error:  # PyAV's own is an FFmpegError, too
        raise InputError(TOO_MUCH_MEMORY) from error
    except av.error.FFmpegError as error:
        raise InputError(f"it cannot be read: {error.strerror}") from error


def packets_of(container: InputContainer, *streams: S) -> Iterator[Packet[S]]:
    """What a container holds of these streams, or of all. Raises InputError."""
    try:
        yield from cast("Iterator[Packet[S]]", container.demux(*streams))
    except IndexError as error:  # PyAV knows the streams that were there when it was opened
        raise InputError("a stream begins in the middle of it, which is not supported") from error


def _refusal(path: Path) -> str:
    kind = unreadable_picture(path)
    if kind is None:
        return "it is not a film or picture that can be read, or it is damaged"
    return f"the {kind} is damaged, or of a kind that is not supported (such as 32 bits per channel)"
