"""Settings: defaults, errors, and config.yaml, which documents every one of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from invsr_daemon.errors import ConfigError
from invsr_daemon.settings.reading import examined, load
from invsr_daemon.settings.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "config.yaml"


def names(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += names(kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def documented() -> dict[str, bool]:
    """Every setting in config.yaml (also commented out), and whether a comment stands above it."""
    found, section, comment = {}, "", False
    for line in EXAMPLE.read_text().splitlines():
        if match := re.match(r"^(#?|  )([a-z_]+):(.*)$", line):
            indent, name, value = match.groups()
            if not indent.isspace():
                section = ""
            if not indent and not value:
                section, comment = f"{name}.", False
                continue
            found[section + name] = comment
            comment = False
        elif line.strip().startswith("# "):
            comment = True
        elif not line.strip():
            comment = False
    return found


def test_every_setting_stands_in_config_yaml_with_a_comment() -> None:
    shown = documented()
    assert sorted(shown) == sorted(names(Settings))
    uncommented = [name for name, commented in shown.items() if not commented and not name.startswith("hub.")]
    assert not uncommented


def test_config_yaml_holds_the_defaults() -> None:
    assert load(EXAMPLE, {}) == Settings()


def test_all_errors_are_told_at_once_with_their_paths(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"stepps": 3, "scale": 40, "video": {"cfr": 1, "crf": -1}, "timesteps": [1, 2]})
    )
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    message = str(caught.value)
    for part in ("did you mean 'steps'", "scale", "video.cfr", "did you mean 'crf'", "video.crf"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00", "plain words"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load(path, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: b: c", "line 1, column 5: mapping values"), ("a: \x00", "character 4: special characters")],
)
def test_what_is_no_yaml_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"{path} is not valid YAML: {said}")) as caught:
        load(path, {})
    assert "unicode string" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_in_presets_are_told_beside_others(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "{scale: 9, originals: {after: archive, archive: 3},"
        " presets: {a: {devices: cpu, scale: 8, steps: 0}}}"
    )
    settings, mistakes = examined(path, {})
    assert [each.name for each in mistakes] == [
        "originals.archive",
        "scale",
        "presets.a.devices",
        "presets.a.steps",
        "presets.a.scale",
    ]
    assert (settings.scale, settings.presets) == (4.0, {"a": {}})


def test_options_are_named_as_they_were_given(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: -1\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {"scale": 9, "hub.base_repo": 3, "devices": "gpu7"})
    in_the_file, *options = str(caught.value).split("; ")
    assert in_the_file.startswith(f"{path}: seed: ")
    assert [each.partition(":")[0] for each in options] == ["--device", "--scale", "--base-repo"]


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("steps: 3\nseed: 5\nvideo: {crf: 20}\n")
    settings = load(path, {"timesteps": (150,), "seed": None, "video.crf": 30})
    assert settings.schedule() == (150,)
    assert (settings.seed, settings.video.crf) == (5, 30)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("# nothing set\n")
    assert load(path, {}).schedule() == (200,)


def test_a_section_without_anything_in_it_means_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("limits:\nhub:\nvideo: {crf: 20}\npresets:\n  plain:\n  other: {video: }\n")
    settings = load(path, {"hub.endpoint": "http://here"})
    assert settings.limits == Settings().limits
    assert settings.hub.endpoint == "http://here"
    assert [each.video.crf for each in settings.variants().values()] == [20, 20, 20]
    path.write_text("presets:\n")
    assert load(path, {}).presets == {}
    path.write_text("hub: 5\n")
    with pytest.raises(ConfigError, match="hub: Input should be names with values"):
        load(path, {"hub.endpoint": "http://here"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("results: {mode: 0640}", 'results.mode: write it in quotes, such as "0640"'),
        ("results: {name: '{stem.foo}'}", "results.name: '{stem.foo}' may hold {stem}, {preset} and {model}"),
        ("results: {mode: 640}", 'results.mode: write it in quotes, such as "0640"'),
        ("devices: 3", ": devices: Input should be auto, cpu, cpu:N, cuda or cuda:N, or a list of those"),
        ("devices: [cpu, 3]", ": devices: Input should be auto"),
        ("video: {options: {a: [1]}}", ": video.options.a: Input should be a text or a number"),
        ("devices: 'cpu,,cpu'", ": devices: '' is none of auto, cpu, cpu:N, cuda, cuda:N"),
        ("devices: [cpu, gpu7]", ": devices: 'gpu7' is none of auto, cpu, cpu:N, cuda, cuda:N"),
        ("watch: {ignore: '*.x'}", ": watch.ignore: Input should be a list"),
        ("inbox: 3", ": inbox: Input should be a path"),
        ("presets: {5: {}}", ": presets.5: Input should be a text: write it in quotes"),
        ("presets: {a: {devices: 3}}", ": presets.a.devices: it holds for the whole daemon"),
        ("presets: {a: {video: {options: {b: [1]}}}}", ": presets.a.video.options.b: Input should be a text"),
    ],
)
def test_errors_say_what_to_write(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        load(path, {})
    assert "; " not in str(caught.value), "one mistake is told once"


def test_two_schedules_are_told_beside_other_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("{steps: 3, timesteps: [100], scale: 9}")
    with pytest.raises(ConfigError, match=r"timesteps: .* exclude each other.*; scale: "):
        load(path, {})


@pytest.mark.parametrize(
    "preset", [{"models_dir": "/m"}, {"limits": {"stall_seconds": 5}}, {"keep_days": 3}, {"log": {}}]
)
def test_what_belongs_to_the_whole_daemon_is_no_presets(preset: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"presets\.a\.\S+: it holds for the whole daemon"):
        load(None, {"presets": {"a": preset}})


def test_a_job_keeps_what_decides_its_result_and_follows_where_things_lie() -> None:
    then = load(
        None, {"inbox": "/in", "outbox": "/out", "state_dir": "/a", "seed": 7, "limits.cpu_threads": 1}
    )
    own = then.for_preset(None).of_the_job()
    assert not own.keys() & {"inbox", "outbox", "state_dir", "models_dir", "devices", "presets"}
    assert json.loads(json.dumps(own)) == own
    now = load(None, {"outbox": "/elsewhere", "state_dir": "/b", "seed": 9, "limits.cpu_threads": 4})
    job = now.with_job({**own, "outbox": "/of/an/older/version"})
    assert (job.seed, job.limits.max_input_pixels) == (7, then.limits.max_input_pixels)
    assert (job.outbox, job.state_dir, job.limits.cpu_threads) == (Path("/elsewhere"), Path("/b"), 4)
