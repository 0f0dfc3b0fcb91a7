"""What every command has in common: help, examples that work, exit statuses, and no traceback for a user's mistake."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from handoff.failures import Failure, Permanent, Reason, Unavailable
from handoff.settings import SettingsError
from handoff.spool.seat import SecondWatcher, UnfitVolume
from handoff_cli.exits import Exit, Stopped
from handoff_cli.main import explain
from tests.cli.conftest import LIMIT_S, House, Place, eventually
from tests.servers.simulator import ROOT

pytestmark = pytest.mark.xdist_group("cli-commands")  # one house for all

COMMANDS = (
    "watch", "submit", "status", "show", "list", "cancel", "retry", "pause", "resume", "health",
    "workflows list", "workflows check", "simulator", "config", "doctor", "demo", "serve", "keys new", "dify export",
)  # fmt: skip
ID = "poster-20261124-083015-k7q"
LONG_RUNNING = {"watch": "watching", "serve": "serving", "simulator": "ComfyUI simulator:"}
"""What tells that it works."""


def read_examples(place: Place, command: str) -> list[str]:
    text = place.call(*command.split(), "--help").expect(0).out
    examples: list[str] = re.findall(r"^(?:Example:)? +((?:HANDOFF_\S+ )*handoff .+)$", text, re.MULTILINE)
    return examples


def test_help_names_every_command_and_every_exit_status(place: Place) -> None:
    text = place.run("--help").expect(0).out
    listed = re.findall(r"^  (\w+)  +", text.partition("Commands:")[2], re.MULTILINE)
    assert sorted(listed) == sorted({command.partition(" ")[0] for command in COMMANDS})
    for status in Exit:
        assert re.search(rf"\b{status.value} \w", text)
    assert "..." not in text.partition("Commands:")[2], "a first sentence is too long for its line"


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, handoff_cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert "typer" in loaded
    assert not {"pydantic", "rich", "requests", "PIL", "structlog", "boto3", "handoff", "watcher"} & set(loaded)


class TestExamples:
    def run(self, house: House, line: str) -> int:
        """As typed into a shell."""
        shell = f'handoff() {{ "{sys.executable}" -m handoff_cli "$@"; }}; {line}'
        ran = subprocess.run(
            ["sh", "-c", shell],
            cwd=house.root,
            env=house.environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.returncode

    def test_on_a_job_in_this_order(self, house: House) -> None:
        def run(command: str) -> int:
            (example,) = read_examples(house, command)
            return self.run(house, example)

        assert run("pause") == 0
        eventually(lambda: house.health().get("paused") is True, "the pause")
        house.call("submit", "txt2img", "-p", "prompt=x", "--id", ID).expect(0)
        assert run("cancel") == 0
        assert run("resume") == 0
        assert run("status") == 1
        assert run("show") == 0
        assert run("retry") == 0
        assert run("list") == 0
        assert house.call("status", f"{ID}-r1", "--json").expect(0).json["status"] == "succeeded"

    @pytest.mark.parametrize(
        "command", ["health", "workflows list", "workflows check", "config", "keys new", "dify export"]
    )
    def test_on_its_own(self, house: House, command: str) -> None:
        (example,) = read_examples(house, command)
        assert self.run(house, example) == 0

    def test_submit(self, house: House) -> None:
        Image.new("RGB", (16, 16)).save(house.root / "cat.png")
        graph = {
            "3": {"class_type": "KSampler", "inputs": {
                "seed": 1, "steps": 2, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
                "model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0]}},
            "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "simulated.safetensors"}},
            "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["4", 1]}},
            "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
            "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}},
        }  # fmt: skip
        (house.root / "workflow_api.json").write_text(json.dumps(graph))
        examples = read_examples(house, "submit")
        assert len(examples) == 3
        for example in examples:
            assert self.run(house, example.replace(" --wait", "") + " --wait") == 0

    def test_doctor(self, house: House) -> None:
        (example,) = read_examples(house, "doctor")
        assert self.run(house, example) in (0, 2, 3)  # machines differ; tests/cli/test_doctor.py knows more

    @pytest.mark.parametrize("command", LONG_RUNNING)
    def test_what_runs_on_until_it_is_told_to_stop(self, place: Place, command: str) -> None:
        (example,) = read_examples(place, command)
        for name in ("input", "output"):
            (place.root / name).mkdir()
        (place.root / "keys.txt").write_text(place.call("keys", "new", "shop").expect(0).out)
        example = (
            example.replace("/comfyui/", f"{place.root}/").replace("--port 8188", "--port 0").replace(":8080", ":0")
        )
        log = place.root / "log"
        shell = f'handoff() {{ exec "{sys.executable}" -m handoff_cli "$@"; }}; {example}'
        with log.open("w") as output:
            process = subprocess.Popen(
                ["sh", "-c", shell], cwd=place.root, env=place.environment(), stdout=output, stderr=output
            )
        try:
            eventually(lambda: LONG_RUNNING[command] in log.read_text() or process.poll() is not None, command)
            assert process.poll() is None, log.read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            process.wait(LIMIT_S)
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Stopped(Exit.WAIT_OVER, "x"), 5),
        (SettingsError("HANDOFF_X: wrong"), 2),
        (UnfitVolume("no links"), 2),
        (SecondWatcher("another"), 2),
        (Failure(Reason.ID_TAKEN, id="poster"), 2),
        (Unavailable("away"), 3),
        (Permanent("forbidden"), 3),
        (PermissionError(13, "Permission denied", "/a/file"), 3),
    ],
)
def test_what_a_user_can_mend_is_explained(error: Exception, status: int) -> None:
    explained = explain(error)
    assert explained is not None
    assert explained[0] == status
    assert explained[1]


def test_a_bug_stays_a_bug() -> None:
    assert explain(ValueError("oops")) is None
    assert explain(FileNotFoundError(2, "No such file", "/a/file")) is None


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["submit", "--nonsense"], ["status"], ["list", "--limit", "0"], ["status", "x", "--wait-s", "-1"]],
)
def test_a_wrong_command_line(place: Place, arguments: list[str]) -> None:
    assert place.call(*arguments).expect(2).err.startswith("Usage:")


@pytest.mark.parametrize("command", ["status x", "show x", "list", "cancel x", "retry x", "pause", "resume", "health"])
def test_the_wrong_folder_is_told_and_nothing_is_made(place: Place, command: str) -> None:
    assert "HANDOFF_INPUT_DIR" in place.call(*command.split()).expect(2).err
    assert os.listdir(place.root) == []


def test_an_unknown_setting(place: Place) -> None:
    assert "HANDOFF_WINDOW" in place.call("config", windov=3).expect(2).err


def test_messages_in_the_readers_language(place: Place) -> None:
    assert "没有名为 nope 的工作流" in place.call("workflows", "list", "nope", language="zh").expect(2).err


def test_a_volume_that_cannot_be_read(place: Place) -> None:
    Path(place.folders.input).mkdir(parents=True)
    Path(place.folders.spool).write_text("no folder")
    place.run("list", "--json").expect(0)
    assert place.folders.spool in place.run("pause").expect(2).err
