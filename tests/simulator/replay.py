"""Replays a recording against a running server and tells the differences."""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import re
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from PIL import Image, ImageChops
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.servers.simulator import Simulator
from tests.simulator.normalising import (
    MINTED_ID,
    Normaliser,
    all_but_statuses,
    compare,
    sort_unordered,
    statuses,
    without_middle_progress,
    without_sizes,
)

RECORDINGS = Path(__file__).with_name("recordings")

# Independent nodes run in an order that changes from start to start of the recorded server.
REORDERED = frozenset({"12", "16", "20"})
# Prompts are posted while another starts: `status` comes before or after its messages.
CONCURRENT = frozenset({"57", "61"})
# Largest difference of a colour, where pictures were scaled, blended or decoded with floats.
TOLERANCE = {"20": 1, "24": 3, "25": 1}

_POLLED = "polled every 20 ms"


def load(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(gzip.decompress((RECORDINGS / name).read_bytes()))
    return case


def names() -> list[str]:
    return sorted(path.name for path in RECORDINGS.glob("*.json.gz"))


@dataclass
class _Socket:
    connection: ClientConnection
    received: list[dict[str, Any]] = field(default_factory=list)

    def read_forever(self) -> None:
        try:
            for message in self.connection:
                self.received.append(_describe_message(message))
        except ConnectionClosed:
            pass


def _describe_message(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, str):
        return {"json": json.loads(message)}
    kind = int.from_bytes(message[:4], "big")
    if kind == 4:
        length = int.from_bytes(message[4:8], "big")
        metadata = json.loads(message[8 : 8 + length])
        return {"binary_head": {"type": 4, "metadata": metadata, "image_head_hex": message[8 + length :][:8].hex()}}
    image_format = int.from_bytes(message[4:8], "big")
    return {"binary_head": {"type": kind, "format": image_format, "image_head_hex": message[8:16].hex()}}


class Replay:
    """One case, against a server that is idle and empty."""

    def __init__(self, simulator: Simulator, name: str, case: dict[str, Any]) -> None:
        self._simulator = simulator
        self._number = name[:2]
        self._case = case
        self._normalise = Normaliser(simulator.base)
        self._session = requests.Session()
        self._session.trust_env = False
        self._open = contextlib.ExitStack()
        self._sockets: dict[str, _Socket] = {}
        self._minted: dict[str, str] = {}
        self._etags: dict[str, str] = {}
        self._keeps_time = bool(case.get("probe_nodes"))
        self.differences: list[str] = []

    def run(self) -> list[str]:
        """Each difference as one line: where, what was recorded, what came."""
        start = time.monotonic()
        with self._open, self._session:
            for event in self._events():
                # Only while something runs does it matter when the next step comes.
                while self._keeps_time and time.monotonic() < start + event["t_ms"] / 1000 and not self._is_idle():
                    time.sleep(0.005)
                self._do(event)
            self._compare_sockets()
        for key, folder in (("files", "output"), ("temp_files", "temp"), ("input_files", "input")):
            self._compare_files(folder, self._case.get(key, []))
        return self.differences

    def _events(self) -> list[dict[str, Any]]:
        sockets = [
            event for event in self._case.get("websocket", []) if event["direction"] in ("open", "client", "close")
        ]
        return sorted([*self._case["steps"], *sockets], key=lambda event: float(event["t_ms"]))

    def _do(self, event: dict[str, Any]) -> None:
        if "action" in event:
            self._act(event["action"])
        elif "direction" in event:
            self._do_on_socket(event)
        else:
            self._step(event)

    def _act(self, action: str) -> None:
        output = self._simulator.output_dir
        if removed := re.fullmatch(r"output/(\S+) removed from disk", action):
            (output / removed[1]).unlink()
        elif action.startswith("files "):
            for file in self._case["files"]:
                if "image" not in file:
                    (output / file["path"]).write_bytes(base64.b64decode(file["base64"]))
        elif held := re.match(r"output/ holds (\S+?)(;|$)", action):
            expected = [] if held[1] == "nothing" else [held[1]]
            self._compare("files in output/", expected, [path.name for path in output.iterdir()])
        else:
            raise AssertionError(f"the recording does something unknown: {action}")

    def _do_on_socket(self, event: dict[str, Any]) -> None:
        name = event["socket"]
        if event["direction"] == "open":
            address = self._simulator.url.replace("http", "ws", 1) + event["path"]
            socket = _Socket(self._open.enter_context(connect(address, max_size=None)))
            threading.Thread(target=socket.read_forever, daemon=True).start()
            self._sockets[name] = socket
            self._wait_until(lambda: socket.received)
        elif event["direction"] == "client":
            self._sockets[name].connection.send(event["text"] if "text" in event else json.dumps(event["json"]))
        else:
            open_before = self._simulator.control()["websockets_open"]
            self._sockets[name].connection.close()
            self._wait_until(lambda: self._simulator.control()["websockets_open"] < open_before)

    def _step(self, step: dict[str, Any]) -> None:
        request, recorded, polled = step["request"], step["response"], step.get("note", "").startswith(_POLLED)
        is_submission = request["method"] == "POST" and request["path"].endswith("/prompt")
        if polled and recorded["json"].get("status") in ("pending", "in_progress"):
            return  # present or missing by chance
        is_whole_history = request["path"] == "/history"
        if (not self._keeps_time and not is_submission) or is_whole_history:
            self._wait_until(self._is_idle)
        answer = self._send(request)
        deadline = time.monotonic() + 10
        # A slow machine may need longer than the recorded one.
        while _is_over(recorded) and not _is_over({"json": answer.json()}) and time.monotonic() < deadline:
            time.sleep(0.01)
            answer = self._send(request)
        self._compare_answer(f"{request['method']} {request['path']}", recorded, answer)

    def _is_idle(self) -> bool:
        return bool(self._session.get(f"{self._simulator.url}/prompt").json()["exec_info"]["queue_remaining"] == 0)

    def _wait_until(self, condition: Any) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "waited for 10 s"
            time.sleep(0.005)

    def _send(self, request: dict[str, Any]) -> requests.Response:
        path, here = request["path"], self._simulator.url.removeprefix("http://")
        for recorded, own in self._minted.items():
            path = path.replace(recorded, own)
        path = re.sub(r"ComfyUI_temp_[a-z]{5}_00001_\.png", lambda _: self._first_temp_file(), path)
        headers = {
            key: value.replace("127.0.0.1:8190", here).replace("localhost:8190", f"localhost:{here.split(':')[1]}")
            for key, value in request.get("headers", {}).items()
        }
        if "If-None-Match" in headers:
            headers["If-None-Match"] = self._etags["Etag"]
        if "If-Modified-Since" in headers:
            headers["If-Modified-Since"] = self._etags["Last-Modified"]
        body = request.get("body")
        if body is not None and "body_padded_with_spaces_to_bytes" in request:
            body = body.ljust(request["body_padded_with_spaces_to_bytes"])
        files = {part["name"]: _make_part(part) for part in request["multipart"]} if "multipart" in request else None
        prepared = requests.Request(
            request["method"],
            "http://placeholder",
            headers=headers,
            data=body.encode() if body is not None else None,
            json=request.get("json"),
            files=files,
        ).prepare()
        prepared.url = self._simulator.url + path  # not through requests' own tidying of paths
        return self._session.send(prepared, timeout=60)

    def _first_temp_file(self) -> str:
        return min(path.name for path in (self._simulator.base / "temp").iterdir())

    def _compare_answer(self, where: str, recorded: dict[str, Any], answer: requests.Response) -> None:
        self._compare(f"{where}: status", recorded["status"], answer.status_code)
        self._compare(f"{where}: content type", recorded["content_type"], answer.headers.get("Content-Type"))
        for name, value in recorded.get("headers", {}).items():
            came = answer.headers.get(name)
            if name in ("Etag", "Last-Modified", "Content-Length"):
                self._compare(f"{where}: has {name}", True, came is not None)
                if name == "Etag" and answer.status_code == 200:
                    self._etags = {key: answer.headers[key] for key in ("Etag", "Last-Modified")}
            else:
                self._compare(f"{where}: {name}", re.sub(r"/\d+$", "/N", value), re.sub(r"/\d+$", "/N", came or ""))
        if "json" in recorded and answer.headers.get("Content-Type", "").startswith("application/json"):
            if isinstance(recorded["json"], dict) and MINTED_ID.fullmatch(str(recorded["json"].get("prompt_id", ""))):
                self._minted[recorded["json"]["prompt_id"]] = answer.json()["prompt_id"]
            expected, came = self._normalise.value(recorded["json"]), self._normalise.value(answer.json())
            if "sort_by=execution_duration" in where:  # how long nodes take is a machine's own
                for listed in (expected, came):
                    listed["jobs"].sort(key=lambda job: job["id"])
            self._compare(where, expected, came)
        elif "text" in recorded:
            self._compare(f"{where}: text", recorded["text"], answer.text)
        elif recorded.get("bytes") == 0:
            self._compare(f"{where}: bytes", 0, len(answer.content))

    def _compare_sockets(self) -> None:
        for name, socket in self._sockets.items():
            recorded = [
                self._normalise.value(without_sizes(event))
                for event in self._case["websocket"]
                if event["socket"] == name and event["direction"] == "server"
            ]
            expected = without_middle_progress(recorded)

            def came(socket: _Socket = socket) -> list[Any]:
                return without_middle_progress([self._normalise.value(message) for message in socket.received])

            deadline = time.monotonic() + 3
            while len(came()) < len(expected) and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.05)
            if self._number in REORDERED:
                self._compare(f"socket {name}", sort_unordered(expected), sort_unordered(came()))
            elif self._number in CONCURRENT:
                for select in (statuses, all_but_statuses):
                    self._compare(f"socket {name}", select(expected), select(came()))
            else:
                self._compare(f"socket {name}", expected, came())

    def _compare_files(self, folder: str, recorded: list[dict[str, Any]]) -> None:
        root = self._simulator.base / folder
        came = {self._normalise.value(str(p.relative_to(root))): p for p in sorted(root.rglob("*")) if p.is_file()}
        expected = {self._normalise.value(file["path"]): file for file in recorded}
        self._compare(f"files in {folder}/", sorted(expected), sorted(came))
        for path in expected.keys() & came.keys():
            if (image := expected[path].get("image")) and "error" not in image:
                self._compare_picture(f"{folder}/{path}", expected[path], image, came[path])

    def _compare_picture(self, where: str, recorded: dict[str, Any], image: dict[str, Any], path: Path) -> None:
        with Image.open(path) as picture:
            self._compare(f"{where}: format", image["format"], picture.format)
            if "size" in image:
                self._compare(f"{where}: size", image["size"], list(picture.size))
            chunks = {
                key: json.loads(text) for key, text in picture.info.items() if key in image.get("text_chunks", {})
            }
            wanted = self._normalise.value(image.get("text_chunks", {}))
            self._compare(f"{where}: text chunks", wanted, self._normalise.value(chunks))
            if image.get("pixels_sha256") in (None, hashlib.sha256(picture.tobytes()).hexdigest()):
                return
            if "base64" not in recorded:
                self._compare(f"{where}: pixels", image["pixels_sha256"], hashlib.sha256(picture.tobytes()).hexdigest())
                return
            with Image.open(io.BytesIO(base64.b64decode(recorded["base64"]))) as original:
                difference = ImageChops.difference(original.convert("RGB"), picture.convert("RGB"))
                largest = max(high for _, high in difference.getextrema())  # type: ignore[misc]  # three bands
                if largest > TOLERANCE.get(self._number, 0):
                    self.differences.append(f"{where}: pixels differ by up to {largest} of 255")

    def _compare(self, where: str, recorded: Any, came: Any) -> None:
        self.differences += [f"{where}{line}" for line in compare(recorded, came)]


def _is_over(response: dict[str, Any]) -> bool:
    """Whether this answer tells the end of a job, or of all of them."""
    body = response.get("json")
    if not isinstance(body, dict):
        return False
    ended = body.get("status") in ("completed", "failed", "cancelled")
    return ended or any(isinstance(entry, dict) and "outputs" in entry for entry in body.values())


def _make_part(part: dict[str, Any]) -> tuple[str | None, bytes | str, str] | tuple[None, str]:
    if "value" in part:
        return None, part["value"]
    return part["filename"], base64.b64decode(part["content_base64"]), part["content_type"]


def empty_folders(simulator: Simulator) -> None:
    """Before a case: no files, no queue, no history; checkpoints, loras and the like are empty as where it was recorded."""
    for folder in (simulator.input_dir, simulator.output_dir, simulator.base / "models"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for models in ("checkpoints", "loras", "vae", "text_encoders", "diffusion_models", "controlnet", "upscale_models"):
        (simulator.base / "models" / models).mkdir()
