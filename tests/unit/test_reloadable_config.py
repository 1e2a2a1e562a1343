"""A configuration that follows its file: replaced as a whole, or not at all."""

import os
from pathlib import Path

import pytest

from stormfold.config import Config, ConfigError, ReloadableConfig, load
from stormfold.health import Health
from stormfold.metrics import REGISTRY
from stormfold.stages import config_watcher
from stormfold.stages.config_watcher import ConfigWatcher
from tests.support.servers import until

OLD, NEW, BAD = "max_storms: 1000\n", "max_storms: 3000\n", "max_storm: 1000\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stormfold.yaml"
    path.write_text(OLD)
    return path


def reloadable(file: Path) -> ReloadableConfig:
    """The configuration of the file, which has been looked at."""
    configuration = ReloadableConfig(load(file), file)
    assert settled(configuration) and configuration.reload() == []
    return configuration


def settled(configuration: ReloadableConfig) -> bool:
    """Whether the file is another one, after the look that sees it first."""
    return configuration.changed() or configuration.changed()


def replace(file: Path, text: str) -> None:
    """Replaces a file by another one, as programs do that write safely."""
    other = file.with_name("other")
    other.write_text(text)
    other.rename(file)


def test_a_changed_file_is_applied_as_a_whole(file: Path) -> None:
    configuration = reloadable(file)
    before = configuration.current
    replace(file, NEW)
    assert settled(configuration) and configuration.reload() == ["max_storms"]
    assert before.config.max_storms == 1000 and configuration.current.config.max_storms == 3000
    assert not settled(configuration)


def test_a_file_that_is_still_written_is_not_read(file: Path) -> None:
    configuration = reloadable(file)
    for text in ("", "max_storms:", "max_storms: 20"):
        file.write_text(text)
        assert not configuration.changed()
    file.write_text(NEW)
    assert not configuration.changed() and configuration.changed()


def test_a_swapped_configmap_is_a_change(tmp_path: Path) -> None:
    """The kubelet replaces the link `..data`; the path of the file stays a link through it."""
    for version, text in (("1", OLD), ("2", NEW)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "stormfold.yaml").write_text(text)
        os.utime(tmp_path / version / "stormfold.yaml", ns=(1, 1))
    (tmp_path / "..data").symlink_to("1")
    file = tmp_path / "stormfold.yaml"
    file.symlink_to("..data/stormfold.yaml")
    configuration = reloadable(file)
    (tmp_path / "..tmp").symlink_to("2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert settled(configuration) and configuration.reload() == ["max_storms"]


def test_a_bad_file_changes_nothing_and_is_read_once(file: Path) -> None:
    configuration = reloadable(file)
    before = configuration.current
    replace(file, BAD)
    assert settled(configuration)
    with pytest.raises(ConfigError, match="did you mean max_storms"):
        configuration.reload()
    assert configuration.current is before and not settled(configuration)
    file.unlink()
    assert settled(configuration)
    with pytest.raises(ConfigError, match="No such file"):
        configuration.reload()
    assert configuration.current is before and not settled(configuration)
    replace(file, OLD)
    assert settled(configuration) and configuration.reload() == []


def test_windows_are_requested_again_only_if_they_changed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(10, 100, 10))
    monkeypatch.setattr("stormfold.config.reloadable.time.time_ns", lambda: next(times) * 1_000_000)
    configuration = reloadable(file)
    assert configuration.current.windows_at == 10
    file.write_text(NEW)
    configuration.reload()
    assert configuration.current.windows_at == 10
    file.write_text("windows: {gap: 2s, grace: 1s, slice: 10s}\n")
    assert configuration.reload() == ["windows", "max_storms"]
    assert configuration.current.windows_at == 20


@pytest.mark.parametrize("kind", ["none", "pipe"])
def test_what_can_be_read_only_once_is_never_read_again(tmp_path: Path, kind: str) -> None:
    """`--config <(command)` is a pipe: at the second time it would be empty, which are the defaults."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert ReloadableConfig(Config(), pipe if kind == "pipe" else None).path is None


async def test_the_watcher_warns_of_a_bad_file_until_it_is_corrected(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning does not keep the worker from being ready."""
    monkeypatch.setattr(config_watcher, "INTERVAL", 0.01)
    configuration, health = ReloadableConfig(load(file), file), Health()
    watcher = ConfigWatcher(configuration, health)

    def successful() -> float | None:
        return REGISTRY.get_sample_value("stormfold_config_last_reload_successful")

    await watcher.start()
    try:
        assert successful() == 1
        replace(file, BAD)
        await until(lambda: health.warnings, what="it is refused")
        warning = health.warnings["configuration"]
        assert f"{file} is refused" in warning.problem and "did you mean max_storms?" in warning.problem
        assert warning.hint == f"correct it: `stormfold check {file}` shows every problem"
        assert successful() == 0 and health.problems() == []
        assert configuration.current.config.max_storms == 1000
        replace(file, NEW)
        await until(lambda: not health.warnings, what="it is applied")
        assert successful() == 1 and configuration.current.config.max_storms == 3000
    finally:
        await watcher.stop()


async def test_a_request_reloads_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_watcher, "INTERVAL", 3600.0)
    configuration = ReloadableConfig(load(file), file)
    watcher = ConfigWatcher(configuration, Health())
    await watcher.start()
    try:
        replace(file, NEW)
        watcher.requested.set()
        await until(lambda: configuration.current.config.max_storms == 3000, what="it is applied")
    finally:
        await watcher.stop()
