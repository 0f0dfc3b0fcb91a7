"""Where the command line finds an installation: its settings, its folders, and whether somebody works on its jobs."""

from handoff.folders import Folders
from handoff.messages import Language
from handoff.settings import Settings, SettingsError, load, make_folders, name_of
from handoff.spool.listing import find_pause, list_watchers


def open_folders() -> tuple[Settings, Folders]:
    """For commands that look at jobs, or change one. Raises SettingsError where there is no installation."""
    settings = load(Settings)
    folders = settings.folders
    if not settings.input_dir.is_dir():
        raise SettingsError(
            f"{folders.input} is no folder. Run this where the watcher was started, or set {name_of('input_dir')} and"
            f" {name_of('output_dir')} to ComfyUI's folders on the shared volume"
        )
    return settings, folders


def make_installation() -> tuple[Settings, Folders]:
    """For `submit`, which may come before the first watcher. Raises SettingsError."""
    settings = load(Settings)
    return settings, make_folders(settings)


def read_language() -> Language:
    """Also while another setting is wrong."""
    try:
        return load(Settings).language
    except SettingsError:
        return "en"


def find_standstill(folders: Folders) -> str | None:
    """Why a job that was submitted now would not be worked on, and the remedy."""
    pause = find_pause(folders)
    if pause is not None:
        why = f" ({pause.reason})" if pause.reason else ""
        return f"Paused since {pause.since or 'an unknown time'}{why}: jobs wait until `handoff resume`."
    watchers = list_watchers(folders)
    if any(seen.alive is not False for seen in watchers):
        return None
    last = "the last one is silent" if watchers else "none was found"
    return f"No watcher works on {folders.input} ({last}): the job waits until `handoff watch` runs there."
