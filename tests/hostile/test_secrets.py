"""What a job or an operator keeps secret reaches ComfyUI, where it is needed, and nothing that others read.

The private record in `input/.handoff/` holds what is needed to run the job, and the bytes of a rejected file stay as they were.
"""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import graph
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.hostile.liar import lying
from tests.servers.simulator import Simulator
from tests.servers.watcher import ROOT
from tests.test_fetch import reply, serving

NAMED = (
    "api_key", "apiKey", "API-KEY", "token", "access_token", "auth_token_comfy_org", "api_key_comfy_org", "password",
    "passwd", "secret", "client_secret", "private_key", "Authorization", "authorization", "bearer", "cookie",
    "credentials", "aws_secret_access_key", "openai_api_key", "hf_token", "webhook_secret", "x-api-key", "passphrase",
    "session_token", "refreshToken", "AUTH_KEY", "accesskey", "sas_token", "pwd",
)  # fmt: skip
"""Inputs of nodes that hold secrets."""


def canary(name: str) -> str:
    return f"canary{''.join(letter for letter in name if letter.isalnum())}canary"


URLS = {
    "amazon": "https://b.s3.test/x.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={}",
    "azure": "https://a.blob.test/x.png?sv=2024&sig={}",
    "plain": "http://files.test/x.png?token={}",
    "user": "https://{}:x@files.test/x.png",
    "password": "https://me:{}@files.test/x.png",
    "fragment": "https://files.test/x.png#access_token={}",
    "websocket": "wss://files.test/x?key={}",
    "in-text": "see https://files.test/x?key={} for more",
    "in-json": '{{"url": "https://files.test/x?key={}"}}',
    "postgres": "postgresql://me:{}@db.test/x",
}


def secretive() -> dict[str, Any]:
    nodes = graph()
    inputs = nodes["1"]["inputs"]
    for name in NAMED:
        inputs[name] = canary(name)
    for name, url in URLS.items():
        inputs[f"url_{name}"] = url.format(canary(f"url{name}"))
    inputs["settings"] = {
        "headers": {"Authorization": f"Bearer {canary('nested')}"},
        "tokens": [{"token": canary("listed")}],
    }
    inputs["token_list"] = [canary("inlist"), canary("inlist2"), canary("inlist3")]
    return nodes


ALL = {
    *map(canary, NAMED), *(canary(f"url{name}") for name in URLS), *map(canary, ("nested", "listed", "inlist", "inlist2", "inlist3")),
}  # fmt: skip
"""Every secret of `secretive`."""


def leaks(volume: Volume, watcher_log: Path) -> dict[str, set[str]]:
    """By place, the canaries that can be read there. What ComfyUI writes into its own pictures is looked at elsewhere."""
    places = [
        watcher_log,
        *(path for folder in ("output", "bucket") for path in (volume.root / folder).rglob("*.json")),
    ]
    places += (volume.input / "rejected").glob("*.reason.json")
    places += [path for name in ("lease", "server.json") for path in volume.spool.glob(f"w-*/{name}")]
    places += volume.output.glob(".handoff/w-*/*")
    found = {}
    for path in places:
        if path.is_file():
            words = path.read_bytes().decode(errors="replace").split("canary")
            if len(words) > 1:
                found[str(path.relative_to(volume.root))] = set(words[1::2])
    return found


def test_secrets_of_a_graph_reach_comfyui_and_nobody_else(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    with lying(simulator.url) as liar:
        liar.jobs["blurts-out"] = lambda document: {**document, "status": "failed", **blurted()}
        liar.jobs["saves-nothing"] = lambda document: {**document, "outputs": {}}
        watcher = watch(liar.url, settle_s=0.2)
        for id in ("succeeds", "blurts-out", "saves-nothing"):
            volume.drop(f"{id}.json", {"graph": secretive(), "id": id})
        refused = secretive()
        refused["1"]["inputs"]["width"] = {"token": canary("password")}
        volume.drop("is-refused.json", {"graph": refused, "id": "is-refused"})
        extra = {"api_key_comfy_org": canary("extra"), "auth_token_comfy_org": canary("extra2")}
        volume.drop(
            "saved.json", {"prompt": graph(), "extra_data": extra, "client_id": canary("client"), "id": "saved"}
        )
        volume.drop("rejected.json", {"graph": secretive(), "set": {"1.api_keys": canary("set")}})
        volume.drop(
            "circle.json",
            {"graph": {**secretive(), "8": {"class_type": "X", "inputs": {"x": ["8", 0], "token": canary("token")}}}},
        )
        ids = ("succeeds", "blurts-out", "saves-nothing", "is-refused", "saved")
        eventually(lambda: all((status := volume.status(id)) and status["done"] for id in ids), "all end")
        eventually(lambda: len(list((volume.input / "rejected").glob("*.reason.json"))) == 2, "two are rejected")
        assert watcher.terminate() == 0
        ends = {id: (volume.status(id) or {}).get("status") for id in ids}
        assert ends == dict(zip(ids, ("succeeded", "failed", "failed", "failed", "succeeded"), strict=True))
        sent = repr(liar.received["succeeds"])
        assert [line for line in (volume.status("succeeds") or {})["warnings"] if "--disable-metadata" in line]
        assert not [line for line in (volume.status("saved") or {})["warnings"] if "--disable-metadata" in line]
    found = leaks(volume, watcher.stderr)
    note(secrets=len(ALL), sent_to_comfyui=sum(secret in sent for secret in ALL), places_that_leak=len(found))
    assert {secret for secret in ALL if secret not in sent} == set()
    assert found == {}


def blurted() -> dict[str, Any]:
    """As ComfyUI tells of a node that raised: its inputs, and whatever the node itself says."""
    inputs = {name: [value] for name, value in secretive()["1"]["inputs"].items()}
    said = {
        "prompt_id": "x", "node_id": "1", "node_type": "EmptyImage", "executed": [], "timestamp": 1,
        "exception_type": "requests.HTTPError", "exception_message": f"401 Unauthorized: {canary('api_key')} is no valid key for {URLS['amazon'].format(canary('urlamazon'))}",
        "traceback": [repr(inputs)], "current_inputs": inputs, "current_outputs": [canary("token")],
    }  # fmt: skip
    return {
        "execution_error": said,
        "execution_status": {"status_str": "error", "completed": False, "messages": [["execution_error", said]]},
    }


def test_a_signed_picture_url_is_fetched_and_not_kept(
    volume: Volume, simulator: Simulator, watch: StartWatcher
) -> None:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(data, "PNG")
    with serving(reply(data.getvalue())) as server:
        watcher = watch(simulator, url_allow=server.origin)
        query = f"?X-Amz-Signature={canary('signature')}&sig={canary('sig')}#{canary('fragment')}"
        volume.drop("fetched.json", {"workflow": "invert", "params": {"image": f"{server.origin}/x.png{query}"}})
        closed = f"http://me:{canary('password')}@elsewhere.test/x.png{query}"
        volume.drop("closed.json", {"workflow": "invert", "params": {"image": closed}})
        volume.drop(
            "gone.json",
            {
                "workflow": "invert",
                "params": {"image": f"{server.origin.replace('127.0.0.1', 'localhost')}/x.png{query}"},
            },
        )
        volume.succeed("fetched.json")
        assert volume.reason("closed.json")["reason"] == "forbidden_url"
        assert volume.reason("gone.json")["reason"] == "forbidden_url"
        assert canary("signature") in server.requests[0]
    assert watcher.terminate() == 0
    assert leaks(volume, watcher.stderr) == {}


SETTINGS = {
    "AWS_ACCESS_KEY_ID": canary("accesskeyid"),
    "AWS_SECRET_ACCESS_KEY": canary("secretaccesskey"),
    "AWS_SESSION_TOKEN": canary("sessiontoken"),
    "HANDOFF_BUCKET": "bucket",
    "HANDOFF_S3_ENDPOINT_URL": f"http://me:{canary('endpoint')}@127.0.0.1:9",
    "HANDOFF_S3_PUBLIC_ENDPOINT_URL": f"https://me:{canary('public')}@127.0.0.1:9",
    "HANDOFF_COMFYUI_URL": f"http://me:{canary('comfyui')}@127.0.0.1:9",
    "HANDOFF_COMFYUI_RESTART": f"curl -H 'Authorization: Bearer {canary('restart')}' http://x",
    "HANDOFF_URL_ALLOW": "example.com",
    "HTTP_PROXY": f"http://me:{canary('proxy')}@127.0.0.1:9",
    "HTTPS_PROXY": f"http://me:{canary('proxy')}@127.0.0.1:9",
}


@pytest.mark.parametrize(
    "command",
    [["config"], ["config", "--json"], ["doctor"], ["doctor", "--json"], ["list"], ["submit", "txt2img", "-p", "x=y"]],
    ids=" ".join,
)
def test_no_command_shows_a_secret_of_the_settings(command: list[str], tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HANDOFF_", "AWS_"))}
    shown = subprocess.run(
        [sys.executable, "-m", "handoff_cli", *command], cwd=tmp_path, capture_output=True, text=True, timeout=100,
        env={**clean, **SETTINGS, "PYTHONPATH": str(ROOT), "COLUMNS": "400"},
    )  # fmt: skip
    assert shown.stdout + shown.stderr
    assert "canary" not in shown.stdout + shown.stderr


def test_a_watcher_whose_peers_are_away_logs_no_secret(volume: Volume, watch: StartWatcher) -> None:
    plain = dict.fromkeys(("HANDOFF_S3_ENDPOINT_URL", "HANDOFF_S3_PUBLIC_ENDPOINT_URL"), "http://127.0.0.1:9")
    watcher = watch("http://127.0.0.1:9", **{**SETTINGS, **plain})  # an address with a password is refused at the start
    volume.drop("waits.json", {"graph": secretive()})
    watcher.wait_for("comfyui_down")
    eventually(lambda: list(volume.spool.glob("ids/*")), "the job is taken in")
    watcher.terminate()
    assert leaks(volume, watcher.stderr) == {}


def test_the_ears_are_open(volume: Volume) -> None:
    """The control: a leak is found."""
    (volume.output / "x").mkdir()
    (volume.output / "x" / "job.json").write_text(f'"key": "{canary("x")}"')
    assert leaks(volume, volume.root / "log") == {"output/x/job.json": {"x"}}
