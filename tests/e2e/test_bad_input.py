"""Bad input harms only itself: it lies in rejected/ with its bytes untouched beside a reason, and nobody waits for it."""

import json
import os
import shutil
import stat
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.e2e.conftest import PICTURE_WAIT_S, SETTLE_S, House, StartWatcher, run_simulator
from tests.e2e.jobs import canvas, encode, graph
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually


def nested(depth: int) -> bytes:
    return b'{"workflow":"canvas","params":{},"metadata":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


def with_params(**params: Any) -> dict[str, Any]:
    return {"workflow": "canvas", "params": params}


def with_node(node: Any) -> dict[str, Any]:
    """A graph that would run, and one more node beside it."""
    return {**graph(), "77": node}


def cyclic() -> dict[str, Any]:
    nodes = graph()
    nodes["6"] = {"class_type": "ImageInvert", "inputs": {"image": ["7", 0]}}
    nodes["7"] = {"class_type": "ImageInvert", "inputs": {"image": ["6", 0]}}
    nodes["9"]["inputs"]["images"] = ["7", 0]
    return nodes


BAD: dict[str, tuple[Any, str, str]] = {
    # the file itself: name → (content, reason, words that help)
    "not-json": (b'{"prompt": "a cat",, }', "not_json", "line 1"),
    "text": (b"please draw a cat", "not_json", "JSON"),
    "a-picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "bad_encoding", "UTF-8"),
    "latin1": ('{"prompt": "Größe"}'.encode("latin-1"), "bad_encoding", "UTF-8"),
    "utf16-bare": ('{"prompt": "a"}'.encode("utf-16-le"), "bad_encoding", "byte-order"),
    "truncated": (encode(canvas())[:-20], "truncated", "3"),
    "empty": (b"", "truncated", "0 bytes"),
    "list": (b"[1, 2, 3]", "not_a_job", "object"),
    "number": (b"42", "not_a_job", "object"),
    "too-big": (b'{"prompt": "' + b"x" * (4 << 20) + b'"}', "too_large", "4194304"),
    "too-deep": (nested(300), "too_deep", "limit"),
    "bomb": (b"[" * 200_000, "too_deep", "limit"),
    "nan": (b'{"workflow":"canvas","params":{"width":NaN}}', "bad_number", "NaN"),
    "infinite": (b'{"workflow":"canvas","params":{"width":1e999}}', "bad_number", "1e999"),
    "long-number": (b'{"workflow":"canvas","params":{"width":' + b"1" * 5000 + b"}}", "bad_number", "digits"),
    "twice": (b'{"prompt":"a","prompt":"b"}', "duplicate_key", "prompt"),
    "trailing": (encode(canvas()) + b"}", "not_json", "line"),
    # what it asks for
    "no-form": ({"hello": "world"}, "not_a_job", "workflow"),
    "empty-object": ({}, "not_a_job", "empty"),
    "unknown-field": (canvas(priorty=5), "unknown_field", "priority"),
    "unknown-workflow": ({"workflow": "txt2imgg", "params": {}}, "unknown_workflow", "txt2img"),
    "workflow-outside": ({"workflow": "../../etc/passwd", "params": {}}, "unknown_workflow", "canvas"),
    "unknown-parameter": (with_params(widht=5), "unknown_parameter", "width"),
    "too-small": (with_params(width=0), "bad_parameter", "width"),
    "too-wide": (with_params(width=1_000_000), "bad_parameter", "8192"),
    "wrong-type": (with_params(width="big"), "bad_parameter", "width"),
    "a-boolean": (with_params(width=True), "bad_parameter", "width"),
    "no-prompt": ({"workflow": "txt2img", "params": {}}, "missing_parameter", "prompt"),
    "bad-id": (canvas(id="../escape"), "bad_field", "id"),
    "upper-id": (canvas(id="Poster"), "bad_field", "poster"),
    "bad-priority": (canvas(priority=1000), "bad_field", "priority"),
    "bad-timeout": (canvas(run_timeout_s=-1), "bad_field", "run_timeout_s"),
    "big-metadata": (canvas(metadata={"a": "x" * 20_000}), "bad_field", "metadata"),
    "bad-set": ({"graph": graph(), "set": {"1.widht": 5}}, "bad_override", "1.widht"),
    "ui-format": ({"last_node_id": 9, "nodes": [{"id": 1}], "links": [], "version": 0.4}, "ui_format", "Export (API)"),
    # graphs that would harm the server
    "node-without-inputs": (with_node({"class_type": "ImageInvert"}), "bad_graph", "77"),
    "node-without-class": (with_node({"inputs": {}}), "bad_graph", "77"),
    "node-is-a-list": ({"graph": with_node([])}, "bad_graph", "77"),
    "inputs-are-a-list": (with_node({"class_type": "ImageInvert", "inputs": []}), "bad_graph", "77"),
    "a-circle": ({"graph": cyclic()}, "bad_graph", "circle"),
    "dangling": (with_node({"class_type": "ImageInvert", "inputs": {"image": ["404", 0]}}), "bad_graph", "404"),
    "negative-slot": (with_node({"class_type": "ImageInvert", "inputs": {"image": ["1", -1]}}), "bad_graph", "slot"),
    "empty-graph": ({"graph": {}}, "bad_graph", "no nodes"),
    # pictures
    "forbidden-url": ({"workflow": "invert", "params": {"image": "http://127.0.0.1:9/a.png?key=hunter2"}}, "forbidden_url", "HANDOFF_URL_ALLOW"),
    "metadata-url": ({"workflow": "invert", "params": {"image": "http://169.254.169.254/latest/"}}, "forbidden_url", "HANDOFF_URL_ALLOW"),
    "forbidden-s3": ({"workflow": "invert", "params": {"image": "s3://secrets/a.png"}}, "forbidden_url", "HANDOFF_S3_INPUT_PREFIXES"),
    "missing-picture": ({"workflow": "invert", "params": {"image": "nothing.png"}}, "missing_picture", "nothing.png"),
}  # fmt: skip


def test_each_is_rejected_with_a_reason_and_nobody_waits(house: House) -> None:
    volume = house.volume
    for name, (content, _, _) in BAD.items():
        volume.drop(f"{name}.json", content)
    volume.drop("good-behind.json", canvas())
    (good,) = volume.succeed("good-behind.json")
    assert picked_up_after_s(volume, "good-behind.json", good) < 2
    seen = {}
    for name, (_, _, words) in BAD.items():
        reason = volume.reason(f"{name}.json")
        text = f"{reason['message']} {reason['hint']}"
        seen[name] = (reason["reason"], words if words in text else text)
        assert reason["file"] == f"{name}.json"
        assert house.watcher.wait_for("rejected", file=f"{name}.json")["reason"] == reason["reason"]
    assert seen == {name: (reason, words) for name, (_, reason, words) in BAD.items()}
    house.check()
    everything = house.watcher.stderr.read_text() + "".join(
        path.read_text() for path in (volume.input / "rejected").glob("*.reason.json")
    )
    assert "hunter2" not in everything


def picked_up_after_s(volume: Volume, name: str, status: dict[str, Any]) -> float:
    return datetime.fromisoformat(status["created_at"]).timestamp() - volume.drops[name].at


def test_a_graph_that_comfyui_refuses_fails_with_its_words(house: House) -> None:
    nodes = graph()
    nodes["1"]["inputs"]["width"] = -5
    house.volume.drop("refused.json", {"graph": nodes})
    (status,) = house.volume.finish("refused.json")
    assert (status["status"], status["error"]["reason"]) == ("failed", "validation_failed")
    assert "width" in status["error"]["message"]
    assert status["error"]["node"]["id"] == "1"
    house.check()


def test_a_graph_with_a_class_that_nobody_has_fails_and_says_so(house: House) -> None:
    nodes = graph()
    nodes["1"]["class_type"] = "EmptyImagePlusPlus"
    house.volume.drop("no-such-class.json", {"graph": nodes})
    (status,) = house.volume.finish("no-such-class.json")
    assert (status["status"], status["error"]["reason"]) == ("failed", "workflow_unavailable")
    assert "EmptyImagePlusPlus" in status["error"]["message"]
    house.check()


def test_a_graph_without_an_output_node_fails(house: House) -> None:
    nodes = graph()
    del nodes["9"]
    house.volume.drop("saves-nothing.json", {"graph": nodes})
    (status,) = house.volume.finish("saves-nothing.json")
    assert status["status"] == "failed"
    assert status["error"]["reason"] in ("validation_failed", "no_outputs")
    house.check()


def test_a_picture_may_come_after_its_job(house: House) -> None:
    volume = house.volume
    volume.left.add("late.png")
    volume.drop("needs-late.json", {"workflow": "invert", "params": {"image": "late.png"}})
    volume.drop("good-meanwhile.json", canvas())
    (good,) = volume.succeed("good-meanwhile.json")
    assert picked_up_after_s(volume, "good-meanwhile.json", good) < 2
    staged = volume.root / "staging" / "late.png"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(staged)
    shutil.copy(staged, volume.input / "late.png")
    (status,) = volume.succeed("needs-late.json")
    assert [(output["width"], output["height"]) for output in status["outputs"]] == [(40, 30)]
    job = json.loads((volume.output / status["id"] / "job.json").read_bytes())
    assert any(str(node["inputs"].get("image", "")).startswith("uploads/") for node in job["graph"].values())
    with Image.open(volume.output / status["id"] / status["outputs"][0]["name"]) as picture:
        pixel = picture.convert("RGB").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    assert [abs(value - wanted) <= 1 for value, wanted in zip(pixel, (55, 245, 245), strict=True)] == [True] * 3
    house.check()


def test_a_broken_picture_is_named(house: House) -> None:
    (house.volume.input / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    house.volume.left.add("torn.png")
    house.volume.drop("needs-torn.json", {"workflow": "invert", "params": {"image": "torn.png"}})
    reason = house.volume.reason("needs-torn.json")
    assert reason["reason"] == "bad_picture"
    assert "torn.png" in reason["message"]
    house.check()


@pytest.mark.parametrize("target", ["../secret.png", "/etc/hostname", "..%2fsecret.png", "uploads/../../secret.png"])
def test_a_picture_outside_the_folder_is_never_read(house: House, target: str) -> None:
    Image.new("RGB", (8, 8)).save(house.volume.root / "secret.png")
    name = f"escape-{abs(hash(target))}.json"
    house.volume.drop(name, {"workflow": "invert", "params": {"image": target}})
    reason = house.volume.reason(name)
    assert reason["reason"] in ("bad_picture", "missing_picture", "bad_parameter")
    house.check()


# --- what is not a file, or has a name nobody can use ---


def test_a_symbolic_link_is_not_followed(house: House) -> None:
    volume = house.volume
    target = volume.root / "staging" / "target.json"
    target.write_bytes(encode(canvas()))
    (volume.root / "staging" / "link").symlink_to(target)
    os.rename(volume.root / "staging" / "link", volume.input / "link.json")
    volume.note("link.json", b"")
    reason = volume.reason("link.json")
    assert (reason["reason"], "symbolic link" in reason["message"]) == ("not_a_file", True)
    assert os.readlink(volume.input / "rejected" / "link.json") == os.fspath(target)
    house.check()


def test_a_pipe_is_not_opened(house: House) -> None:
    volume = house.volume
    os.mkfifo(volume.input / "pipe.json")
    volume.note("pipe.json", b"")
    volume.drop("behind-the-pipe.json", canvas())
    (good,) = volume.succeed("behind-the-pipe.json")
    assert picked_up_after_s(volume, "behind-the-pipe.json", good) < 2
    assert volume.reason("pipe.json")["reason"] == "not_a_file"
    assert stat.S_ISFIFO(os.lstat(volume.input / "rejected" / "pipe.json").st_mode)
    house.check()


def test_a_folder_is_moved_whole(house: House) -> None:
    volume = house.volume
    staged = volume.root / "staging" / "folder"
    staged.mkdir()
    (staged / "inner.json").write_bytes(encode(canvas()))
    staged.rename(volume.input / "folder.json")
    volume.note("folder.json", b"")
    assert volume.reason("folder.json")["reason"] == "not_a_file"
    assert (volume.input / "rejected" / "folder.json" / "inner.json").is_file()
    house.check()


def test_a_device_is_not_opened(house: House) -> None:
    volume = house.volume
    try:
        os.mknod(volume.input / "device.json", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: endless
    except PermissionError:
        pytest.skip("only root makes device nodes")
    volume.note("device.json", b"")
    assert volume.reason("device.json")["reason"] == "not_a_file"
    house.check()


def test_a_name_that_is_not_utf8(house: House) -> None:
    volume = house.volume
    name = os.fsdecode(b"caf\xe9.json")
    volume.drop(name, canvas())
    reason = volume.reason(name)
    assert reason["reason"] == "bad_name"
    assert reason["file"] == "caf\\xe9.json"
    house.check()


def test_a_name_that_is_too_long(house: House) -> None:
    volume = house.volume
    name = "n" * 250 + ".json"
    drop = volume.drop(name, canvas())

    def look() -> str | None:
        names = os.listdir(volume.input / "rejected")
        return next((kept for kept in names if kept.startswith("nnn") and not kept.endswith(".reason.json")), None)

    kept = eventually(look, "it is rejected")
    assert kept.endswith(".json")
    del volume.drops[name]  # it could not keep its name
    volume.note(kept, drop.data)
    assert volume.reason(kept)["reason"] == "bad_name"
    house.check()


def test_two_bad_files_of_one_name_are_both_kept(house: House) -> None:
    volume = house.volume
    first, second = b'{"hello": 1}', b'{"hello": 2}'
    volume.drop("same.json", first)
    assert volume.reason("same.json")["reason"] == "not_a_job"
    volume.drop("same.json", second)
    volume.note("same-2.json", second)
    volume.note("same.json", first)
    assert volume.reason("same-2.json")["reason"] == "not_a_job"
    house.check()


def test_droppings_are_ignored_and_strangers_named_once(house: House) -> None:
    volume = house.volume
    droppings = {".DS_Store", "x.json~", ".x.json.swp", "x.part", "._x.json", "x.json.crdownload", "Thumbs.db"}
    strangers = {"readme.docx", "job.yaml"}
    for name in droppings | strangers:
        (volume.input / name).write_bytes(encode(canvas()))
    volume.left |= droppings | strangers
    for name in strangers:
        house.watcher.wait_for("stranger", file=name)
    time.sleep(1)
    volume.drop("beside-droppings.json", canvas())
    volume.succeed("beside-droppings.json")
    for name in strangers:
        assert len(house.watcher.find("stranger", file=name)) == 1
    named = {line["file"] for line in house.watcher.log if "file" in line}
    assert not named & droppings
    assert set(os.listdir(volume.input)) >= droppings | strangers
    house.check()


def test_a_file_that_the_watchers_user_may_not_read(volume: Volume, watch: StartWatcher) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to run a watcher as another user")
    if not _others_may_run_python():
        pytest.skip("this Python is closed to other users")
    for path in (volume.root.parent, volume.root, *volume.root.iterdir()):
        path.chmod(0o777)
    with run_simulator(volume) as simulator:
        watcher = watch(
            simulator, wrap=("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"), settle_s=0.3
        )
        watcher.wait_for("comfyui_up")
        data = encode(canvas())
        staged = volume.root / "staging" / "closed.json"
        staged.write_bytes(data)
        staged.chmod(0)
        os.rename(staged, volume.input / "closed.json")
        volume.note("closed.json", data)
        volume.drop("open.json", canvas())
        eventually(lambda: watcher.find("accepted", file="open.json"), "the good one is accepted")
        reason = volume.reason("closed.json", limit_s=10)
        assert reason["reason"] == "unreadable"
        assert "chmod" in reason["hint"]
        volume.succeed("open.json")
        check_promises(volume, simulator, watchers=(watcher,))


def _others_may_run_python() -> bool:
    import subprocess
    import sys

    done = subprocess.run(
        [
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            sys.executable,
            "-c",
            "import handoff.log",
        ],
        cwd="/",
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
    )
    return done.returncode == 0


assert PICTURE_WAIT_S > SETTLE_S
