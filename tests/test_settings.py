"""Settings: each described once, unknown ones refused, from the environment and from .env."""

import locale
import os
from pathlib import Path

import pytest

from handoff.settings import PROGRAMS, Settings, SettingsError, WatcherSettings, load, make_folders, name_of


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests, and no .env but the test's own."""
    for name in [name for name in os.environ if name.startswith(("HANDOFF_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write_env(text: str) -> None:
    Path(".env").write_text(text, encoding="utf-8")


def test_the_defaults() -> None:
    settings = load(WatcherSettings)
    assert (settings.comfyui_url, settings.window, settings.settle_s, settings.lease_s) == (
        "http://127.0.0.1:8188", 2, 5, 30,
    )  # fmt: skip
    assert (settings.bucket, settings.s3_prefix, settings.default_workflow, settings.watch) == (
        None, "jobs", "txt2img", "auto",
    )  # fmt: skip
    assert settings.folders.input == str(Path("data/input").absolute())
    assert settings.server.endswith(" http://127.0.0.1:8188")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_setting_is_described(program: type[Settings]) -> None:
    for name, field in program.model_fields.items():
        assert field.description, name
        assert len(field.description) > 10, name


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_env("HANDOFF_WINDOW=3\nHANDOFF_S3_PREFIX=site\n")
    assert load(WatcherSettings).window == 3
    monkeypatch.setenv("HANDOFF_WINDOW", "4")
    settings = load(WatcherSettings)
    assert (settings.window, settings.s3_prefix) == (4, "site")


@pytest.mark.parametrize("where", ["environment", "file"])
def test_an_unknown_setting_is_an_error_that_names_the_nearest(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "file":
        write_env("HANDOFF_COMFYUI_URI=http://x\n")
    else:
        monkeypatch.setenv("HANDOFF_COMFYUI_URI", "http://x")
    with pytest.raises(SettingsError, match=r"HANDOFF_COMFYUI_URI: no such setting. The nearest: HANDOFF_COMFYUI_URL"):
        load(WatcherSettings)


def test_all_that_is_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WINDOW": "0", "LEASE_S": "soon", "WATCH": "never", "COMFYUI_URL": "localhost:8188"}.items():
        monkeypatch.setenv(f"HANDOFF_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load(WatcherSettings)
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == [
        "HANDOFF_COMFYUI_URL", "HANDOFF_LEASE_S", "HANDOFF_WATCH", "HANDOFF_WINDOW",
    ]  # fmt: skip
    assert "must begin with http:// or https://" in str(caught.value)


def test_a_wrong_value_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a secret in the wrong place."""
    monkeypatch.setenv("HANDOFF_WINDOW", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load(WatcherSettings)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "read"),
    [("a,b", ("a", "b")), (" a  b ,c", ("a", "b", "c")), ("", ()), ("http://h:1", ("http://h:1",))],
)
def test_lists_are_written_with_commas_or_spaces(
    monkeypatch: pytest.MonkeyPatch, written: str, read: tuple[str, ...]
) -> None:
    for name in ("URL_ALLOW", "S3_INPUT_PREFIXES", "NODE_DENY"):
        monkeypatch.setenv(f"HANDOFF_{name}", written)
    settings = load(WatcherSettings)
    assert settings.url_allow == settings.s3_input_prefixes == settings.node_deny == read


@pytest.mark.parametrize(("written", "read"), [("yes", True), ("no", False), ("0", False), ("true", True)])
def test_yes_and_no(monkeypatch: pytest.MonkeyPatch, written: str, *, read: bool) -> None:
    monkeypatch.setenv("HANDOFF_ALLOW_GRAPHS", written)
    assert load(WatcherSettings).allow_graphs is read


def test_credentials_for_the_bucket_may_stand_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_env("AWS_ACCESS_KEY_ID=from-file\nAWS_SECRET_ACCESS_KEY=secret\nOTHER=x\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "to be removed")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    load(WatcherSettings)
    assert os.environ["AWS_ACCESS_KEY_ID"] == "from-environment"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert "OTHER" not in os.environ
    del os.environ["AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize(
    ("spoken", "language"),
    [("zh_CN", "zh"), ("zh_TW", "zh"), ("en_US", "en"), ("de_DE", "en"), (None, "en"), ("C", "en")],
)
def test_the_language_follows_the_locale(monkeypatch: pytest.MonkeyPatch, spoken: str | None, language: str) -> None:
    monkeypatch.setattr(locale, "getlocale", lambda *_: (spoken, "UTF-8"))
    assert load(WatcherSettings).language == language
    monkeypatch.setenv("HANDOFF_LANGUAGE", "zh")
    assert load(WatcherSettings).language == "zh"


def test_default_folders_are_made() -> None:
    folders = make_folders(load(WatcherSettings))
    for path in (folders.inbox, folders.ids, folders.rejected, folders.uploads, folders.work, folders.done):
        assert os.path.isdir(path)
        assert os.stat(path).st_mode & 0o7777 == 0o2775


@pytest.mark.parametrize("name", ["INPUT_DIR", "OUTPUT_DIR"])
def test_a_folder_that_was_set_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv(f"HANDOFF_{name}", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match=f"HANDOFF_{name}: .*gone is no folder. Mount ComfyUI's"):
        make_folders(load(WatcherSettings))
    assert not (tmp_path / "gone").exists()


def test_folders_that_may_not_be_written_are_named_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"HANDOFF_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(SettingsError, match=r"chmod g\+rwxs"):
        make_folders(load(WatcherSettings))


def test_the_name_of_a_setting() -> None:
    assert name_of("s3_prefix") == "HANDOFF_S3_PREFIX"


def test_a_watcher_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDOFF_WATCHER_NAME", "gpu 1")
    assert load(WatcherSettings).server == "gpu 1"


def test_links_to_the_two_folders_are_followed_and_links_below_them_are_not(tmp_path: Path) -> None:
    for name in ("real", "data", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "input").symlink_to(tmp_path / "real")
    folders = make_folders(load(WatcherSettings))
    assert folders.input == str(tmp_path / "real")
    Path(folders.done).rmdir()
    Path(folders.done).symlink_to(tmp_path / "elsewhere")
    mode = (tmp_path / "elsewhere").stat().st_mode
    with pytest.raises(SettingsError, match=r"done is a symbolic link: make it a folder, or mount one there"):
        make_folders(load(WatcherSettings))
    assert (tmp_path / "elsewhere").stat().st_mode == mode
