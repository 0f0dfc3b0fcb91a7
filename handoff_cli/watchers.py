"""Running a watcher, seeing whether one lives, and letting all of them rest."""

import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress

from handoff import durable, timestamps
from handoff.masking import mask_urls
from handoff.settings import WatcherSettings, load, make_folders
from handoff.spool import listing
from handoff.spool.listing import Pause, SeenWatcher
from handoff_cli.exits import Exit
from handoff_cli.installation import open_folders
from handoff_cli.rendering import note, print_json, print_table, say, show_seconds

_SECOND_LOOK_S = 2.5  # a little longer than a beat


def watch() -> Exit:
    from handoff import log
    from watcher.watch import watch as run

    log.configure()
    run(load(WatcherSettings))
    return Exit.DONE


def health(*, any_server: bool, as_json: bool) -> Exit:
    """Whether a watcher of this installation's ComfyUI lives; with `any_server`, of whichever."""
    _, folders = open_folders()
    server = None if any_server else load(WatcherSettings).server
    seen = _of(server, listing.list_watchers(folders))
    if not any(watcher.alive for watcher in seen) and any(watcher.alive is None for watcher in seen):
        time.sleep(_SECOND_LOOK_S)
        seen = _of(server, listing.look_again(folders, seen))
    if as_json:
        print_json({"ok": any(watcher.alive for watcher in seen), "watchers": [_to_json(watcher) for watcher in seen]})
    else:
        for watcher in seen:
            _print(watcher)
    if pause := listing.find_pause(folders):
        note(_describe(pause), "yellow")
    if any(watcher.alive for watcher in seen):
        return Exit.DONE
    note(_explain(server, seen, folders.input), "red")
    return Exit.UNREACHABLE


def _of(server: str | None, watchers: Sequence[SeenWatcher]) -> list[SeenWatcher]:
    return [seen for seen in watchers if server in (None, seen.text.server)]


def _explain(server: str | None, seen: Sequence[SeenWatcher], folder: str) -> str:
    whose = f" for {mask_urls(server)}" if server is not None else ""
    remedy = "`handoff watch` starts one; `handoff health --any` looks for watchers of other ComfyUIs."
    if not seen:
        return f"No watcher{whose} was found in {folder}. {remedy}"
    return f"No watcher{whose} lives: what it left is silent or unlocked. {remedy}"


def _to_json(seen: SeenWatcher) -> dict[str, object]:
    text = seen.text
    return {"watcher": text.wid, "server": mask_urls(text.server), "alive": bool(seen.alive), "health": text.health}


def _print(seen: SeenWatcher) -> None:
    state = "alive" if seen.alive else f"dead, last seen {show_seconds(seen.silent_s)} ago" if seen.silent_s else "dead"
    say(f"{mask_urls(seen.text.server)}: {state}", "green" if seen.alive else "red")
    if seen.alive:
        print_table(("", ""), [(f"  {name}", str(value)) for name, value in seen.text.health.items()])


def pause(reason: str | None) -> Exit:
    """From now on no watcher claims a job; what is at ComfyUI goes on."""
    settings, folders = open_folders()
    make_folders(settings)
    if earlier := listing.find_pause(folders):
        note(_describe(earlier))
        return Exit.DONE
    document = Pause(since=timestamps.to_text(timestamps.now()), reason=reason)
    scratch = f"{folders.spool}/.paused-{secrets.token_hex(8)}"
    durable.publish(document.model_dump_json().encode() + b"\n", scratch, folders.paused)
    note("Paused: jobs are accepted and wait; those at ComfyUI go on. `handoff resume` lets them go.")
    return Exit.DONE


def resume() -> Exit:
    _, folders = open_folders()
    if listing.find_pause(folders) is None:
        note("It was not paused.")
        return Exit.DONE
    with durable.disk_errors(folders.paused), suppress(FileNotFoundError):
        os.unlink(folders.paused)
    note("Resumed.")
    return Exit.DONE


def _describe(pause: Pause) -> str:
    reason = f": {pause.reason}" if pause.reason else ""
    return f"Paused since {pause.since or 'an unknown time'}{reason}. `handoff resume` ends it."
