"""A small Hugging Face hub on the loopback interface, and a miniature model to serve from it.

It speaks the part of the protocol that fetching models uses: what a revision is and holds, and the files,
small ones directly, large ones by a redirect to another origin, both with Range. It can break off, lie,
refuse and move a branch.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]

LARGE = (".safetensors", ".pth", ".bin")


@dataclass
class Repo:
    """A repository: its commits, where its branches stand, and who may come in."""

    commits: dict[str, Files]
    branches: dict[str, str]
    card: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: Files) -> str:
        """Move `main` to a new commit with these files."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha] = files
        self.branches["main"] = sha
        return sha


@dataclass(frozen=True)
class Request:
    """A request as the server saw it, and how many bytes of a file it answered."""

    path: str
    range: str | None
    authorization: str | None
    sent: int


class HubServer:
    """Serves while it is entered; `requests` grows. Leaving it leaves no thread behind."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.break_off: dict[str, list[int]] = {}  # file -> bytes after which its next answers end
        self.corrupt: set[str] = set()  # files whose bytes are not what was declared
        self.busy = 0  # so many next answers are 503
        self.ignore_range = False
        self.overstated: set[str] = set()  # files that are declared larger than they are
        self.portal = False  # answers as a hotel's network does
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="hub")

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: Files, **settings: Any) -> Repo:
        self.repos[name] = repo = Repo({}, {}, **settings)
        repo.commit(files)
        return repo

    def sent(self) -> int:
        """Bytes of files sent so far."""
        return sum(request.sent for request in self.requests)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for the threads that still answer


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    hub: HubServer


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one answer per connection, so that no thread waits for a second request."""

    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `requests` instead."""

    def do_GET(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.server.hub
        if hub.portal:
            self._answer(200, b"<html>Log in to this network</html>", {"Content-Type": "text/html"})
        elif hub.busy:
            hub.busy -= 1
            self._refuse(503, "", "come back later")
        elif found := re.fullmatch(r"/api/models/(.+?/.+?)/revision/(.+)", path):
            self._describe(found[1], found[2])
        elif found := re.fullmatch(r"/(.+?/.+?)/resolve/(.+?)/(.+)", path):
            self._resolve(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/stored/(.+?/.+?)/([0-9a-f]{40})/(.+)", path):
            self._send_file(found[3], hub.repos[found[1]].commits[found[2]][found[3]])
        else:
            self._refuse(404, "", "no such page")

    def _repo(self, name: str) -> Repo | None:
        repo = self.server.hub.repos.get(name)
        if repo is None:
            self._refuse(401, "", "Invalid username or password.")
        elif repo.gated:
            self._refuse(403, "GatedRepo", "Access is restricted.")
        else:
            return repo
        return None

    def _describe(self, name: str, revision: str) -> None:
        if (repo := self._repo(name)) is None:
            return
        sha = repo.branches.get(revision, revision)
        if sha not in repo.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings = [_sibling(file, content) for file, content in repo.commits[sha].items()]
        for sibling in siblings:
            sibling["size"] += 5 * (sibling["rfilename"] in self.server.hub.overstated)
        document = {"id": name, "sha": sha, "cardData": repo.card, "siblings": siblings}
        self._answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (repo := self._repo(name)) is None:
            return
        sha = repo.branches.get(revision, revision)
        content = repo.commits.get(sha, {}).get(file)
        if content is None:
            self._refuse(404, "EntryNotFound", "no such file")
        elif file.endswith(LARGE):
            location = f"http://localhost:{self.server.hub.port}/stored/{name}/{sha}/{file}"
            linked = {"X-Linked-Etag": f'"{_sha256(content)}"', "X-Linked-Size": str(len(content))}
            self._answer(302, b"", {"Location": location, "X-Repo-Commit": sha, **linked})
        else:
            self._send_file(file, content)

    def _send_file(self, file: str, content: bytes) -> None:
        hub = self.server.hub
        if file in hub.corrupt:
            content = bytes(byte ^ 0xFF for byte in content[:16]) + content[16:]
        asked = None if hub.ignore_range else self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start and start >= len(content):
            self._refuse(416, "", "no such range")
            return
        breaks = hub.break_off.get(file)
        end = min(len(content), start + breaks.pop(0)) if breaks else len(content)
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(len(content) - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206 if asked else 200, content[start:end], headers, end - start)

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], sent: int = 0) -> None:
        # Noted first: the client may go on, and the test look, before this thread does.
        seen = Request(self.path, self.headers.get("Range"), self.headers.get("Authorization"), sent)
        self.server.hub.requests.append(seen)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it with `blobs`: for a large one git knows only a pointer."""
    entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
    if name.endswith(LARGE):
        pointer = f"oid sha256:{_sha256(content)}\nsize {len(content)}\n".encode()
        lfs = {"sha256": _sha256(content), "size": len(content), "pointerSize": len(pointer)}
        return entry | {"blobId": _blob_id(pointer), "lfs": lfs}
    return entry | {"blobId": _blob_id(content)}


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def base_files(tiny_model: Path, scratch: Path) -> Files:
    """The base model as its repository holds it, with much that nobody needs."""
    write_text_encoder(scratch)
    files = _read(tiny_model, ("vae", "unet", "scheduler")) | _read(scratch, ("text_encoder", "tokenizer"))
    unwanted = (
        "README.md",
        "model_index.json",
        "sd_turbo.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors.index.json",
        "unet/model.onnx",
        "vae_decoder/config.json",
        "vae/../../outside.json",
    )
    return files | dict.fromkeys(unwanted, b"{}") | {"LICENSE.md": b"conditions of the base model\n"}


def predictor_files(tiny_model: Path) -> Files:
    """The noise predictor's repository."""
    return {
        "README.md": b"# InvSR",
        "noise_predictor_sd_turbo_v5.pth": (tiny_model / "noise_predictor.pth").read_bytes(),
        "noise_predictor_config.json": (tiny_model / "noise_predictor_config.json").read_bytes(),
        "noise_predictor_other.pth": b"another one",
    }


def _read(root: Path, folders: tuple[str, ...]) -> Files:
    paths = [path for folder in folders for path in sorted((root / folder).iterdir())]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def write_text_encoder(folder: Path) -> None:
    """A CLIP text encoder with 32 channels and random weights, and a tokenizer that knows single letters."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = sorted(ByteLevel.alphabet())
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = [*letters, *(f"{letter}</w>" for letter in letters), start, end]
    vocabulary = {word: number for number, word in enumerate(words)}
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=vocabulary[start],
        eos_token_id=vocabulary[end],
        pad_token_id=vocabulary[end],
    )
    torch.manual_seed(1)
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    # The files of the published base models, which are older than tokenizer.json.
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "special_tokens_map.json").write_text(json.dumps(special))
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
