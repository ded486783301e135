"""A Hugging Face hub: which files a repository has at a commit, and their bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from .. import __version__
from ..errors import ModelError, ModelUnreachableError
from .known import PUBLIC_HUB

Report = Callable[[str], None]

TIMEOUT_SECONDS = 20.0  # to connect, and between two pieces of a file
BUSY = (408, 425, 429, 500, 502, 503, 504)
PROGRESS_STEP = 256 << 20

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, where it goes, and what it must be: by SHA-256 or by git's blob id."""

    name: str
    target: str
    size: int
    sha256: str | None
    blob_id: str | None

    @property
    def digest(self) -> str:
        return self.sha256 or self.blob_id or ""


@dataclass(frozen=True)
class Snapshot:
    """The wanted files of a repository at one commit."""

    repo: str
    sha: str
    licence: str | None
    files: tuple[RemoteFile, ...]


def hub_at(endpoint: str | None, advice: str, *, send_token: bool = False) -> Hub:
    """The hub at a base URL; at $HF_ENDPOINT, else the public one, if none is given.

    `advice`: what else somebody can do while it cannot be reached. `send_token`: send the user's token there
    even if it was given for another hub, or can be overheard on the way. Raises ModelError if it is no URL.
    """
    home = os.environ.get("HF_ENDPOINT") or PUBLIC_HUB
    url = (endpoint or home).rstrip("/")
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise ModelError(f"the hub's address must begin with https:// or http://, not {url!r}")
    return Hub(url, f"try again later, or {advice}", send_token or _keeps_secrets(url, home))


def _keeps_secrets(url: str, home: str) -> bool:
    """Whether a token for the hub at `home` is safe with this one: it is the same, and nobody listens."""
    one, other = urlsplit(url), urlsplit(home)
    return one.scheme == "https" and (one.scheme, one.netloc) == (other.scheme, other.netloc)


@dataclass(frozen=True)
class Hub:
    """A Hugging Face hub, or something that speaks as one. All failures are ModelErrors.

    `gets_token`: whether it is sent the user's token, if there is one.
    """

    endpoint: str
    advice: str
    gets_token: bool

    def withheld(self) -> str | None:
        """What to tell of a token that it is not sent, if so."""
        from huggingface_hub import get_token

        if self.gets_token or get_token() is None:
            return None
        return (
            f"your token is not sent to {self.endpoint}: it goes only over https, and only to the public hub"
            " or $HF_ENDPOINT, unless you ask for it with --send-token"
        )

    def snapshot(self, repo: str, revision: str, place: Callable[[str], str | None]) -> Snapshot:
        """The commit behind `revision`, and those of its files for which `place` has a place."""
        from huggingface_hub import get_session, hf_raise_for_status
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        with self._errors(repo, revision):
            validate_repo_id(repo)
            response = get_session().get(
                f"{self.endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}",
                params={"blobs": True},
                headers=self._headers(),
                timeout=TIMEOUT_SECONDS,
            )
            hf_raise_for_status(response)
        try:
            return _parsed(repo, response.json(), place)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.endpoint} did not answer as a Hugging Face hub about {repo} ({error!r});"
                " check the address, and whether a proxy stands between"
            ) from error

    def stream(self, snapshot: Snapshot, file: RemoteFile, part: Path, report: Report) -> None:
        """Append what is missing to `part`. Whatever arrives before a failure is kept.

        Plain HTTP also for files in the hub's chunk store: only so can a file be continued.
        """
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

        had = part.stat().st_size
        headers = self._headers() | {"Accept-Encoding": "identity"}
        if had:
            headers["Range"] = f"bytes={had}-"
        with self._errors(snapshot.repo, snapshot.sha):
            url = hf_hub_url(snapshot.repo, file.name, revision=snapshot.sha, endpoint=self.endpoint)
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
                if response.status_code == 416:  # it has no more bytes, although it declared more
                    part.unlink()
                    raise ModelError(
                        f"{file.name} of {snapshot.repo} is not what it should be:"
                        f" expected {file.size} bytes, found {had}"
                    )
                hf_raise_for_status(response)
                # A server that does not continue a file sends it whole.
                with part.open("ab" if response.status_code == 206 else "wb") as out:
                    _copy(response.iter_bytes(), out, file, report)
        have = part.stat().st_size
        if have < file.size:
            raise ModelUnreachableError(
                f"{self.endpoint} broke off after {have} of {file.size} bytes of {file.name}; {self.advice}"
            )

    def _headers(self) -> dict[str, str]:
        """Our name, and the user's token if it may be sent.

        The client's own headers would ask the public hub for a list of programs to recognise first.
        """
        from huggingface_hub import get_token

        headers = {"User-Agent": f"invsr-daemon/{__version__}"}
        if self.gets_token and (token := get_token()):
            headers["Authorization"] = f"Bearer {token}"
        return headers

    @contextmanager
    def _errors(self, repo: str, revision: str) -> Iterator[None]:
        """The client's errors as ours, each saying what to do. The order matters: some contain others."""
        # HTTPError is that of the HTTP library beneath the client, which differs with its version.
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            HTTPError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        page = f"{self.endpoint}/{repo}"
        try:
            yield
        except HFValidationError as error:
            raise ModelError(f"{repo!r} is not the name of a repository: {error}") from error
        except OfflineModeIsEnabled as error:
            raise ModelError(f"{page} is needed, but HF_HUB_OFFLINE forbids it: unset it") from error
        except GatedRepoError as error:
            raise ModelError(_refused(page)) from error
        except RevisionNotFoundError as error:
            raise ModelError(f"{page} has no revision {revision!r}, or not any more") from error
        except EntryNotFoundError as error:
            raise ModelError(f"{page} at {revision} lacks a file that it lists: {_first(error)}") from error
        except RepositoryNotFoundError as error:
            raise ModelError(_absent(page)) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in {401, 404}:  # to strangers a private repository is as one that does not exist
                raise ModelError(_absent(page)) from error
            if status == 403:
                raise ModelError(_refused(page)) from error
            if status in BUSY:
                raise ModelUnreachableError(f"{page} answered {status}; {self.advice}") from error
            raise ModelError(f"{page} answered {status}: {_first(error)}") from error
        except HTTPError as error:
            reason = _first(error) or type(error).__name__
            raise ModelUnreachableError(f"cannot reach {self.endpoint}: {reason}; {self.advice}") from error


def _absent(page: str) -> str:
    return (
        f"there is no repository {page}, or it is not open to everyone: check its name;"
        " if it is private or gated, ask for access there and set HF_TOKEN to a valid token"
    )


def _refused(page: str) -> str:
    return f"{page} refuses access: accept its licence there, then set HF_TOKEN to a token of your account"


def _first(error: Exception) -> str:
    """The first line of an error's text: the client adds paragraphs."""
    return next((line for line in str(error).splitlines() if line.strip()), "")


def _parsed(repo: str, document: Any, place: Callable[[str], str | None]) -> Snapshot:
    sha = document["sha"]
    if not _COMMIT.fullmatch(sha):
        raise ValueError(f"{sha!r} is not a commit")
    files = tuple(
        _parsed_file(entry, target)
        for entry in document["siblings"]
        if (target := place(entry["rfilename"])) is not None
    )
    card = document.get("cardData") or {}
    declared = [str(card[key]) for key in ("license", "license_name", "license_link") if card.get(key)]
    return Snapshot(repo, sha, ", ".join(declared) or None, files)


def _parsed_file(entry: dict[str, Any], target: str) -> RemoteFile:
    """A file must come with a checksum; the digest also becomes a file name, so its form is checked."""
    name = entry["rfilename"]
    if lfs := entry.get("lfs"):
        size, sha256, blob_id = lfs["size"], lfs["sha256"], None
        valid = _SHA256.fullmatch(sha256)
    else:
        size, sha256, blob_id = entry["size"], None, entry["blobId"]
        valid = _COMMIT.fullmatch(blob_id)
    if not valid or not isinstance(size, int) or size < 0:
        raise ValueError(f"{name} comes without a proper size and checksum")
    return RemoteFile(name, target, size, sha256, blob_id)


def _copy(pieces: Iterator[bytes], out: Any, file: RemoteFile, report: Report) -> None:
    """Write the pieces, never far beyond the declared size, and see them safely on the disk."""
    done = out.tell()
    for piece in pieces:
        out.write(piece)
        before, done = done, done + len(piece)
        if done // PROGRESS_STEP > before // PROGRESS_STEP:
            report(f"    {human(done)} of {human(file.size)}")
        if done > file.size:
            break
    out.flush()
    os.fsync(out.fileno())


def human(size: int) -> str:
    """Bytes for people: 3.5 GB, 763.0 kB."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
