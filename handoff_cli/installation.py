"""Where the command line finds an installation: its settings, its folders, and whether somebody works on its jobs."""

from handoff.folders import Folders
from handoff.messages import Language
from handoff.settings import Settings, SettingsError, load, make_folders, name_of
from handoff.spool.listing import find_pause, list_watchers
from handoff_cli.rendering import warn


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


def warn_of_standstill(folders: Folders) -> None:
    """Says why jobs that wait would go on waiting, and the remedy."""
    pause = find_pause(folders)
    if pause is None:
        warn_of_absence(folders)
    else:
        why = f" ({pause.reason})" if pause.reason else ""
        warn(f"Paused since {pause.since or 'an unknown time'}{why}: jobs wait until `handoff resume`.")


def warn_of_absence(folders: Folders) -> None:
    """Says when no watcher is there to act upon anything. One of which that is unclear counts as there."""
    watchers = list_watchers(folders)
    if not any(seen.alive is not False for seen in watchers):
        last = "the last one is silent" if watchers else "none was found"
        warn(f"No watcher works on {folders.input} ({last}): nothing happens there until `handoff watch` runs.")
