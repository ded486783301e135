"""Named models: pulled whole or not at all, held to their lock, and offline afterwards."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from invsr_daemon import InvSR, hub
from invsr_daemon.errors import ModelError, ModelUnreachableError, ResourceError, UnknownModelError
from invsr_daemon.hub import fingerprint, listing, pull, pulling, require, resolve, sources_for, verify
from invsr_daemon.hub.remote import hub_at
from invsr_daemon.restorers.invsr.convert import convert
from tests.support.hubserver import Files, HubServer, base_files, predictor_files

NAME = "sd-turbo"
BASE, PREDICTOR = "stabilityai/sd-turbo", "OAOA/InvSR"
UNET = "unet/diffusion_pytorch_model.safetensors"
PTH = "noise_predictor_sd_turbo_v5.pth"
INSTALLED = {
    "licences/base/LICENSE.md",
    "noise_predictor.safetensors",
    "noise_predictor_config.json",
    "prompt_embeds.safetensors",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    UNET,
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture(scope="module")
def published(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Files]:
    """What both repositories hold."""
    return base_files(tiny_model_dir, tmp_path_factory.mktemp("clip")), predictor_files(tiny_model_dir)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No way to the real network, nothing of the user's (tokens, caches), no long waits."""
    from huggingface_hub import close_session, constants

    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "INVSR_"))]:
        monkeypatch.delenv(name)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for constant in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(constants, constant, str(tmp_path / "huggingface" / constant))
    monkeypatch.setattr(pulling, "RETRY_WAITS", (0.05,))
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in {"127.0.0.1", "::1"}, f"connects to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    close_session()
    yield
    close_session()


@pytest.fixture
def server(published: tuple[Files, Files]) -> Iterator[HubServer]:
    base, predictor = published
    with HubServer() as running:
        running.add(BASE, dict(base), card={"license": "other", "license_name": "sai-nc-community"})
        running.add(PREDICTOR, dict(predictor))
        yield running
        assert not [request for request in running.requests if request.authorization]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "data" / "models"


@pytest.fixture
def get(server: HubServer, models: Path) -> Callable[..., Path]:
    """`pull` of the miniature model from the server."""

    def pulled(**options: Any) -> Path:
        return pull(NAME, convert, models_dir=models, endpoint=server.url, **options)

    return pulled


@pytest.fixture(scope="module")
def installed(published: tuple[Files, Files], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with the model pulled into it. To be copied, not changed."""
    folder = tmp_path_factory.mktemp("installed")
    with HubServer() as running:
        running.add(BASE, dict(published[0]))
        running.add(PREDICTOR, dict(published[1]))
        pull(NAME, convert, models_dir=folder, endpoint=running.url)
    return folder


def assert_nothing_installed(models: Path) -> None:
    assert not (models / NAME).exists()
    assert not (models / f"{NAME}.lock.json").exists()


def read_lock(models: Path) -> Any:
    return json.loads((models / f"{NAME}.lock.json").read_text())


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# ------------------------------------------------------------------------------------ a whole pull


@pytest.mark.slow
def test_a_pulled_model_restores_and_nothing_needless_is_left(
    get: Callable[..., Path], server: HubServer, models: Path
) -> None:
    lines: list[str] = []

    folder = get(report=lines.append)

    assert folder == models / NAME == resolve(NAME, models)
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == INSTALLED
    assert not (models / f".{NAME}.partial").exists()
    assert verify(NAME, models) == []
    restored = InvSR.load(folder).restore(torch.rand(1, 3, 8, 8))
    assert restored.shape == (1, 3, 32, 32)
    assert restored.isfinite().all()
    text = "\n".join(lines)
    assert "S-Lab License 1.0 (non-commercial use only); read it at https://huggingface.co/OAOA/InvSR" in text
    assert "https://huggingface.co/stabilityai/sd-turbo" in text
    assert "the hub declares: other, sai-nc-community" in text
    assert not [r.path for r in server.requests if "fp16" in r.path or r.path.endswith((".bin", ".onnx"))]


def test_the_converted_predictor_is_the_published_one(installed: Path, tiny_model_dir: Path) -> None:
    from safetensors.torch import load_file

    converted = load_file(installed / NAME / "noise_predictor.safetensors")
    original = torch.load(tiny_model_dir / "noise_predictor.pth", weights_only=True)
    assert converted.keys() == original.keys()
    assert all(torch.equal(converted[name], original[name]) for name in original)


def test_the_lock_tells_where_everything_came_from(get: Callable[..., Path], server: HubServer) -> None:
    folder = get()

    lock = read_lock(folder.parent)
    assert lock["repos"]["base"]["id"] == BASE
    assert lock["repos"]["base"]["requested"] == "main"
    assert lock["repos"]["base"]["sha"] == server.repos[BASE].branches["main"]
    assert "text_encoder/model.safetensors" in lock["repos"]["base"]["files"]
    assert set(lock["repos"]["noise_predictor"]["files"]) == {PTH, "noise_predictor_config.json"}
    assert set(lock["installed"]) == INSTALLED


def test_a_second_pull_does_not_touch_the_network(get: Callable[..., Path], server: HubServer) -> None:
    get()
    before = len(server.requests)
    lines: list[str] = []

    get(report=lines.append)

    assert len(server.requests) == before
    assert "is installed" in lines[0]


def test_a_damaged_model_is_found_and_mended(
    get: Callable[..., Path], server: HubServer, models: Path
) -> None:
    folder = get()
    config = folder / "vae" / "config.json"
    config.write_bytes(config.read_bytes().replace(b"4", b"5", 1))
    assert verify(NAME, models) == ["vae/config.json has changed"]
    before = len(server.requests)

    get()

    fetched = [request.path for request in server.requests[before:] if request.sent]
    assert any(path.endswith("vae/config.json") for path in fetched)
    assert not any(path.endswith(UNET) for path in fetched)
    assert verify(NAME, models) == []
    assert not (models / f".{NAME}.old").exists()


# ------------------------------------------------------------------------------------ broken pulls


def test_a_broken_connection_is_continued_at_once(get: Callable[..., Path], server: HubServer) -> None:
    size = len(server.repos[BASE].commits[server.repos[BASE].branches["main"]][UNET])
    server.break_off[UNET] = [size // 2]

    get()

    answers = [request for request in server.requests if request.path.endswith(UNET) and request.sent]
    assert [request.range for request in answers] == [None, f"bytes={size // 2}-"]
    assert sum(request.sent for request in answers) == size


def test_an_interrupted_pull_goes_on_where_it_stopped(
    get: Callable[..., Path], server: HubServer, models: Path
) -> None:
    size = len(server.repos[BASE].commits[server.repos[BASE].branches["main"]][UNET])
    server.break_off[UNET] = [size // 2, 0, 0]
    with pytest.raises(ModelUnreachableError, match="try again later") as raised:
        get()
    assert raised.value.retryable
    assert_nothing_installed(models)
    first = len(server.requests)

    get()

    again = server.requests[first:]
    assert [request.range for request in again if request.path.endswith(UNET) and request.sent] == [
        f"bytes={size // 2}-"
    ]
    # Files that were whole are not fetched again either.
    assert not [request for request in again if "vae/diffusion" in request.path]
    assert sum(request.sent for request in server.requests if request.path.endswith(UNET)) == size
    assert verify(NAME, models) == []


def test_a_server_that_cannot_continue_sends_the_file_whole(
    get: Callable[..., Path], server: HubServer
) -> None:
    server.break_off[UNET] = [1000]
    server.ignore_range = True

    assert verify(NAME, get().parent) == []


def test_a_busy_hub_is_asked_again(get: Callable[..., Path], server: HubServer, models: Path) -> None:
    server.busy = 1
    with pytest.raises(ModelUnreachableError, match="answered 503"):
        get()

    assert verify(NAME, get().parent) == []


@pytest.mark.parametrize("name", [UNET, PTH, "vae/config.json", "tokenizer/merges.txt"])
def test_wrong_bytes_are_refused_and_fetched_anew(
    get: Callable[..., Path], server: HubServer, models: Path, name: str
) -> None:
    server.corrupt = {name}
    with pytest.raises(ModelError, match=rf"{name} .* expected .* found [0-9a-f]{{40,64}}\.") as raised:
        get()
    assert not raised.value.retryable
    assert_nothing_installed(models)
    server.corrupt = set()

    get()

    assert verify(NAME, models) == []


def test_a_file_shorter_than_declared_is_refused(get: Callable[..., Path], server: HubServer) -> None:
    server.overstated = {"vae/config.json"}

    with pytest.raises(ModelError, match=r"vae/config.json .* expected \d+ bytes, found \d+"):
        get()


def test_a_pull_killed_before_its_last_step_is_finished_offline(installed: Path, models: Path) -> None:
    shutil.copytree(installed, models)
    (models / NAME).rename(models / f".{NAME}.partial")

    pull(NAME, convert, models_dir=models, endpoint=f"http://127.0.0.1:{closed_port()}")

    assert verify(NAME, models) == []


def test_two_pulls_at_a_time_are_refused(get: Callable[..., Path], models: Path) -> None:
    models.mkdir(parents=True)
    with pulling.alone(models / NAME), pytest.raises(ModelError, match="another pull of sd-turbo"):
        get()


def test_a_full_disk_is_said_before_anything_is_fetched(
    get: Callable[..., Path], server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 5000, 5000))

    with pytest.raises(ResourceError, match=r"needs \d\.\d MB more in .*, where 5\.0 kB are free"):
        get()
    assert server.sent() == 0


# --------------------------------------------------------------------------------- locks, revisions


def test_a_lock_holds_a_later_pull_to_its_commit(
    get: Callable[..., Path], server: HubServer, models: Path
) -> None:
    repo = server.repos[BASE]
    old = repo.branches["main"]
    get()
    shutil.rmtree(models / NAME)
    new = repo.commit(repo.commits[old] | {"LICENSE.md": b"other conditions\n"})

    get()
    assert read_lock(models)["repos"]["base"]["sha"] == old
    assert (models / NAME / "licences/base/LICENSE.md").read_bytes() == b"conditions of the base model\n"

    get(update=True)
    assert read_lock(models)["repos"]["base"]["sha"] == new
    assert (models / NAME / "licences/base/LICENSE.md").read_bytes() == b"other conditions\n"
    assert verify(NAME, models) == []

    sent = server.sent()
    get(update=True)
    assert server.sent() == sent


@pytest.mark.parametrize("name", ["unet/config.json", UNET])
def test_other_content_under_a_locked_commit_is_refused(
    get: Callable[..., Path], server: HubServer, models: Path, name: str
) -> None:
    get()
    shutil.rmtree(models / NAME)
    repo = server.repos[BASE]
    files = repo.commits[repo.branches["main"]]
    files[name] = files[name].replace(b"1", b"2", 1)

    with pytest.raises(ModelError, match=rf"{name}.* expected .*found "):
        get()
    assert not (models / NAME).exists()


def test_a_damaged_lock_is_an_error_in_words(get: Callable[..., Path], models: Path) -> None:
    models.mkdir(parents=True)
    (models / f"{NAME}.lock.json").write_text('{"format": 1')

    with pytest.raises(ModelError, match=r"sd-turbo\.lock\.json cannot be read .* restore it or remove it"):
        get()


def test_a_directory_that_was_not_pulled_is_not_replaced(get: Callable[..., Path], models: Path) -> None:
    own = models / NAME / "own.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")

    with pytest.raises(ModelError, match="was not pulled by this command"):
        get()
    assert own.read_text() == "mine"


def test_repositories_and_revisions_can_be_others(
    get: Callable[..., Path], server: HubServer, models: Path
) -> None:
    server.repos = {"me/base": server.repos[BASE], "me/invsr": server.repos[PREDICTOR]}
    server.repos["me/base"].branches = {"v1": server.repos["me/base"].branches["main"]}
    mirror = sources_for(NAME, base_repo="me/base", base_revision="v1", predictor_repo="me/invsr")

    get(sources=mirror)

    assert read_lock(models)["repos"]["base"]["id"] == "me/base"
    # Asked again without sources, a model stays what it is.
    shutil.rmtree(models / NAME)
    get()
    assert verify(NAME, models) == []


# ---------------------------------------------------------------------------------- what goes wrong


def test_no_network_is_said_quickly(models: Path) -> None:
    began = time.monotonic()
    address = f"http://127.0.0.1:{closed_port()}"

    with pytest.raises(ModelUnreachableError, match=f"cannot reach {address}: .*copy .*lock.json") as raised:
        pull(NAME, convert, models_dir=models, endpoint=address)

    assert raised.value.retryable
    assert time.monotonic() - began < 5
    assert_nothing_installed(models)


def test_the_endpoint_of_the_environment_is_used(
    server: HubServer, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")

    assert pull(NAME, convert, models_dir=models) == models / NAME


def test_a_token_goes_to_the_hub_and_to_nobody_else(
    published: tuple[Files, Files], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    with HubServer() as server:
        server.add(BASE, published[0])
        server.add(PREDICTOR, published[1])
        pull(NAME, convert, models_dir=models, endpoint=server.url, send_token=True)

    own = {request.authorization for request in server.requests if not request.path.startswith("/stored/")}
    elsewhere = {request.authorization for request in server.requests if request.path.startswith("/stored/")}
    assert own == {"Bearer hf_made_up"}
    assert elsewhere == {None}


@pytest.mark.parametrize("named", ["endpoint", "environment"])
def test_no_token_goes_out_in_clear_unless_asked(
    published: tuple[Files, Files], models: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    told: list[str] = []
    with HubServer() as server:
        server.add(BASE, published[0])
        server.add(PREDICTOR, published[1])
        if named == "environment":
            monkeypatch.setenv("HF_ENDPOINT", server.url)
        endpoint = server.url if named == "endpoint" else None
        pull(NAME, convert, models_dir=models, endpoint=endpoint, report=told.append)

    assert {request.authorization for request in server.requests} == {None}
    assert any(line.startswith(f"your token is not sent to {server.url}") for line in told)


@pytest.mark.parametrize(
    ("endpoint", "environment", "sent"),
    [
        (None, None, True),
        ("https://huggingface.co/", None, True),
        ("https://hub.example", None, False),
        (None, "https://hub.example", True),
        ("https://hub.example/", "https://hub.example", True),
        ("https://hub.example:444", "https://hub.example", False),
        ("https://hub.example@other.example", "https://hub.example", False),
        ("https://huggingface.co", "https://hub.example", False),
        ("http://huggingface.co", None, False),
        (None, "http://hub.example", False),
    ],
)
def test_a_token_goes_only_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, environment: str | None, sent: bool
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if environment is not None:
        monkeypatch.setenv("HF_ENDPOINT", environment)

    hub = hub_at(endpoint, "")

    assert hub.gets_token is sent
    assert (hub.withheld() is None) is sent
    assert hub_at(endpoint, "", send_token=True).gets_token


def test_a_gated_repository_says_how_to_get_in(
    get: Callable[..., Path], server: HubServer, models: Path
) -> None:
    server.repos[PREDICTOR].gated = True

    with pytest.raises(ModelError, match=rf"{PREDICTOR} refuses access: accept its licence .* HF_TOKEN"):
        get()
    assert_nothing_installed(models)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_repo": "nobody/nothing"}, "there is no repository .*/nobody/nothing"),
        ({"base_repo": "not a name"}, "'not a name' is not the name of a repository"),
        ({"base_revision": "v9"}, "has no revision 'v9'"),
        ({"predictor_file": "other.pth"}, "has no file 'other.pth'"),
        ({"predictor_file": "README.md"}, "must be .pth or .safetensors"),
        ({"predictor_file": "noise_predictor_other.pth"}, "the noise predictor does not fit"),
        ({"base_repo": PREDICTOR}, "not a base model that fits: no vae, unet"),
    ],
)
def test_wrong_sources_are_errors_in_words(
    get: Callable[..., Path], models: Path, change: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        get(sources=sources_for(NAME, **change))
    assert_nothing_installed(models)


def test_a_predictor_of_another_shape_is_refused(
    get: Callable[..., Path], server: HubServer, models: Path
) -> None:
    files = dict(server.repos[PREDICTOR].commits[server.repos[PREDICTOR].branches["main"]])
    config = json.loads(files["noise_predictor_config.json"]) | {"temb_channels": 32}
    server.repos[PREDICTOR].commit(files | {"noise_predictor_config.json": json.dumps(config).encode()})

    with pytest.raises(ModelError, match="the noise predictor does not fit: ") as raised:
        get()
    assert "size mismatch" in str(raised.value)
    assert_nothing_installed(models)


def test_something_else_than_a_hub_is_recognised(get: Callable[..., Path], server: HubServer) -> None:
    server.portal = True

    with pytest.raises(ModelError, match="did not answer as a Hugging Face hub"):
        get()


def test_offline_mode_is_respected(
    get: Callable[..., Path], server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        get()
    assert server.requests == []


# -------------------------------------------------------------------- names, directories, listings


def test_a_directory_of_something_else_is_no_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    assert require(tiny_model_dir) == tiny_model_dir
    assert require("default") == resolve("default")
    with pytest.raises(UnknownModelError, match=r"holds no model: vae/config\.json is missing, unet"):
        require(tmp_path)


def test_names_and_directories_are_found(
    installed: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve(NAME, installed) == installed / NAME
    assert resolve(str(tmp_path)) == tmp_path
    monkeypatch.setenv("INVSR_MODELS_DIR", str(installed))
    assert resolve(NAME) == installed / NAME
    with pytest.raises(ModelError, match="run `invsr-daemon models pull sd-turbo`"):
        resolve(NAME, models)
    with pytest.raises(ModelError, match=r"no model 'nonsense': .* default, sd-turbo"):
        resolve("nonsense")
    with pytest.raises(ModelError, match="the names are default, sd-turbo"):
        pull("nonsense", convert, models_dir=models)


def test_models_live_in_the_users_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert hub.default_models_dir() == tmp_path / "data/invsr-daemon/models"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.default_models_dir() == tmp_path / ".local/share/invsr-daemon/models"


def test_the_packaged_model_needs_no_pull(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path
) -> None:
    monkeypatch.setattr("invsr_daemon.hub.installed.PACKAGED_MODELS", tmp_path)
    with pytest.raises(ModelError, match="install invsr-daemon again"):
        resolve("default")
    assert verify("default", models) == [f"{tmp_path / 'default'} is missing"]
    shutil.copytree(tiny_model_dir, tmp_path / "default")

    lines: list[str] = []
    assert (
        pull("default", convert, models_dir=models, report=lines.append)
        == tmp_path / "default"
        == resolve("default")
    )
    assert sources_for("default", base_repo=None) is None
    with pytest.raises(ModelError, match="no repository to choose"):
        sources_for("default", base_repo="me/base")
    assert lines == ["default is part of this package; there is nothing to pull"]
    assert verify("default", models) == []
    (tmp_path / "default/unet/config.json").unlink()
    assert verify("default", models) == ["unet/config.json is missing"]


def test_verify_names_every_kind_of_damage(installed: Path, models: Path) -> None:
    assert verify(NAME, models) == [f"{models / NAME} is missing"]
    shutil.copytree(installed, models)
    (models / NAME / "vae/config.json").unlink()
    (models / NAME / "vae/extra.json").write_text("{}")
    assert verify(NAME, models) == ["vae/config.json is missing", "vae/extra.json does not belong here"]
    (models / f"{NAME}.lock.json").unlink()
    assert "nothing says what the files should be" in verify(NAME, models)[0]


def test_a_fingerprint_is_of_names_and_contents(installed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(installed / NAME, copy)
    named = fingerprint(installed / NAME)

    assert fingerprint(copy) == named  # with a lock and without
    (copy / "vae/config.json").rename(copy / "vae/renamed.json")
    renamed = fingerprint(copy)
    (copy / "vae/renamed.json").write_text("{}")
    assert len({named, renamed, fingerprint(copy)}) == 3
    (copy / os.fsdecode(b"no-utf-8-\xff")).touch()
    assert fingerprint(copy) not in (named, renamed)
    with pytest.raises(ModelError, match="not a directory"):
        fingerprint(tmp_path / "nowhere")


def test_the_listing_tells_what_is_there(installed: Path, models: Path) -> None:
    default, turbo = listing(installed)
    assert (default.name, default.licence, default.revision) == ("default", "Apache-2.0", None)
    assert turbo.installed
    assert turbo.size_bytes > 3_000_000
    assert turbo.revision == read_lock(installed)["repos"]["base"]["sha"]
    assert "S-Lab License 1.0" in turbo.licence
    assert not listing(models)[1].installed


@pytest.mark.slow
def test_finding_models_imports_nothing_heavy() -> None:
    code = (
        "import sys, invsr_daemon.hub as hub; hub.listing(); "
        "print([n for n in ('torch', 'diffusers', 'transformers', 'huggingface_hub') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
