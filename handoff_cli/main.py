"""Runs a command, and turns every error that its user can mend into text and an exit status. A traceback is a bug."""

import os
import sys

from handoff_cli.commands import app
from handoff_cli.exits import Exit, Stopped


def main() -> int:
    os.umask(0o002)  # files of a shared volume are group-writable: ComfyUI and the watcher may be other users
    try:
        app()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        status, text = explained
        from handoff_cli.rendering import clean

        print(clean(text), file=sys.stderr)
        return status
    return Exit.DONE


def explain(error: Exception) -> tuple[Exit, str] | None:
    """Exit status and text; None for an error that only this program can have caused."""
    if isinstance(error, Stopped):
        return error.status, str(error)
    from handoff.failures import EdgeError, Failure
    from handoff.settings import SettingsError
    from handoff.site import ForeignSite
    from handoff.spool.seat import SecondWatcher, UnfitVolume

    match error:
        case SettingsError() | UnfitVolume() | SecondWatcher() | ForeignSite():
            return Exit.USAGE, str(error)
        case Failure():
            from handoff_cli.installation import read_language
            from handoff_cli.rendering import explain_failure

            return Exit.USAGE, explain_failure(error, read_language())
        case EdgeError():
            return Exit.UNREACHABLE, str(error)
        case PermissionError():
            return (
                Exit.UNREACHABLE,
                f"{error.filename}: {error.strerror}. The volume's folders are group-writable: join that group.",
            )
    return None


if __name__ == "__main__":
    sys.exit(main())
