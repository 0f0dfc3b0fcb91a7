"""What a power loss may take away: every call of one job's life is written down, and the order of flushes is audited."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from handoff import durable
from handoff.folders import Folders
from handoff.spool import publisher
from tests.spool.actors import Call, run, step
from tests.spool.world import Watcher, World, first_status, record_of, run_watcher

BODY = {"prompt": "a cat"}


@dataclass
class Auditor:
    """Reads the calls in their order. `dirty`: folders whose last change of a name is not flushed yet."""

    folders: Folders

    def audit(self, calls: list[Call]) -> list[str]:
        return list(self._violations(calls))

    def _violations(self, calls: list[Call]) -> Iterator[str]:
        flushed: set[int | None] = set()
        inodes = {os.stat(path).st_ino: path for path in (self.folders.ids, self.folders.inbox)}
        dirty: set[str] = set()
        journalled = False
        for call in calls:
            if call.name == "fsync":
                flushed.add(call.inode)
                if call.inode in inodes:
                    dirty.discard(inodes[call.inode])
                continue
            if call.name in ("link", "rename"):
                target = str(call.args[1])
                folder, name = os.path.split(target)
                if folder in (self.folders.ids, self.folders.inbox) and not name.startswith("."):
                    dirty.add(folder)
                    if call.inode not in flushed:
                        yield f"{call}: the file is not flushed"
                if name.startswith("r-") and "t-" in str(call.args[0]):
                    journalled = True
                    if call.inode not in flushed:
                        yield f"{call}: the journal is not flushed"
            if call.name == "POST":
                if not journalled:
                    yield f"{call}: not journalled"
                if self.folders.ids in dirty:
                    yield f"{call}: the reservation is not flushed"
                if not self._flushed_after(calls, call, "r-"):
                    yield f"{call}: the name of the journal is not flushed"
            if call.name == "PUT" and str(call.args[0]).endswith("status.json"):
                if self.folders.ids in dirty:
                    yield f"{call}: the reservation is not flushed"
                if not self._flushed_after(calls, call, "status.json"):
                    yield f"{call}: the decision is not flushed"
            if call.name == "PUT" and not self._folder_flushed_after(calls, call):
                yield f"{call}: the folder of the job is not flushed"
            if call.name == "unlink" and "/c-" in str(call.args[0]) and dirty:
                yield f"{call}: the job is not safely out: {dirty}"

    def _flushed_after(self, calls: list[Call], end: Call, name: str) -> bool:
        """Whether the folder of the last rename to `name…` before `end` was flushed after it."""
        before = calls[: calls.index(end)]
        last = max(
            (
                number
                for number, call in enumerate(before)
                if call.name == "rename" and os.path.basename(str(call.args[1])).startswith(name)
            ),
            default=None,
        )
        if last is None:
            return False
        folder = os.path.dirname(str(before[last].args[1]))
        return any(call.name == "fsync" and call.args == (folder,) for call in before[last:])

    def _folder_flushed_after(self, calls: list[Call], end: Call) -> bool:
        """Whether `output/` was flushed before `end` and after the job's folder was made: what is mirrored is `saving` for good."""
        folder = self.folders.job(str(end.args[0]).partition("/")[0])
        made, done = calls.index(Call("mkdir", (folder,))), calls.index(end)
        return Call("fsync", (self.folders.output,)) in calls[made:done]


@pytest.fixture
def named_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder flushes carry their path, since a watcher's own folder is gone when the audit reads its calls."""
    original = durable.sync_folder

    def sync_folder(path: str) -> None:
        original(path)
        step("fsync", path)

    for module in ("handoff.durable", "handoff.spool.takeover"):
        monkeypatch.setattr(f"{module}.sync_folder", sync_folder)


def drop_and_run(world: World) -> list[Call]:
    world.drop("a.json", BODY)
    actor = run(lambda: run_watcher(world))
    assert actor.error is None, actor.error
    return actor.calls


def publish_and_run(world: World) -> list[Call]:
    actor = run(lambda: publisher.publish(world.folders, record_of("p", BODY)))
    assert actor.error is None, actor.error
    watcher = run(lambda: run_watcher(world))
    return [*actor.calls, *watcher.calls]


@pytest.mark.usefixtures("named_folders")
@pytest.mark.parametrize("life", [drop_and_run, publish_and_run])
def test_the_order_of_flushes(new_world: Callable[[], World], life: Callable[[World], list[Call]]) -> None:
    world = new_world()
    calls = life(world)
    assert [call for call in calls if call.name == "POST"]
    assert Auditor(world.folders).audit(calls) == []


@pytest.mark.usefixtures("named_folders")
def test_a_cancelled_job_is_flushed_before_its_end(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.drop("a.json", {"id": "cat", **BODY})
    world.cancel("cat")
    actor = run(lambda: run_watcher(world))
    assert world.status("cat").status == "cancelled"
    assert Auditor(world.folders).audit(actor.calls) == []


@pytest.mark.usefixtures("named_folders")
def test_the_folder_of_a_job_is_flushed_once_and_again_when_it_was_made_anew(new_world: Callable[[], World]) -> None:
    world = new_world()
    watcher, record = Watcher(world), record_of("cat", BODY)

    def count_flushes(*, durable_write: bool = True) -> int:
        publish = watcher.journal.publish_status
        actor = run(lambda: publish(first_status(record), record.token, durable_write=durable_write))
        assert actor.error is None
        return actor.calls.count(Call("fsync", (world.folders.output,)))

    assert [count_flushes(durable_write=False), count_flushes(), count_flushes()] == [0, 1, 0]
    shutil.rmtree(world.folders.job("cat"))  # retention, or a person
    assert [count_flushes(), count_flushes()] == [1, 0]


@pytest.mark.usefixtures("named_folders")
def test_an_adapter_answers_when_everything_is_flushed(new_world: Callable[[], World]) -> None:
    world = new_world()
    for _ in ("new", "replay"):
        actor = run(lambda: publisher.publish(world.folders, record_of("p", BODY)))
        last_change = max(number for number, call in enumerate(actor.calls) if call.name in ("link", "rename"))
        after = {call.args[0] for call in actor.calls[last_change:] if call.name == "fsync"}
        assert {world.folders.ids, world.folders.inbox} <= after


@pytest.mark.usefixtures("named_folders")
@pytest.mark.parametrize(
    ("function", "found"),
    [
        (
            "sync_folder",
            {"the reservation", "the name of the journal", "the folder of the job", "the decision", "the job"},
        ),
        ("write_file", {"the file", "the journal"}),
    ],
)
def test_control_without_flushes_the_audit_fails(
    new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch, function: str, found: set[str]
) -> None:
    write_file = durable.write_file
    without: dict[str, Callable[..., None]] = {
        "sync_folder": lambda _: None,
        "write_file": lambda path, data, **_: write_file(path, data, durable=False),
    }
    monkeypatch.setattr(durable, function, without[function])
    world = new_world()
    violations = Auditor(world.folders).audit(drop_and_run(world))
    assert {line.rpartition(": ")[2].partition(" is not")[0] for line in violations} >= {*found} - {"the job"}


def test_records_and_final_statuses_are_never_written_in_place(world: World) -> None:
    """A reader that opened one before keeps a whole old one."""
    publisher.publish(world.folders, record_of("p", BODY))
    watcher = Watcher(world)
    name = os.listdir(world.folders.inbox)[0]
    record = watcher.journal.claim(name, name[21:37])
    assert record is not None
    with open(watcher.seat.record_path(record.token), "rb") as before:
        watcher.send(record)
        assert before.read() == record.to_bytes()
    with open(world.folders.status("p"), "rb") as running:
        watcher.work_all()
        assert b'"running"' in running.read()
    assert world.status("p").done
    watcher.seat.leave()
