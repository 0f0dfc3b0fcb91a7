"""A ComfyUI that lists what it should not: names that lead elsewhere, links, pipes, things that are no names."""

import os
from pathlib import Path
from typing import Any

from PIL import Image

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, graph
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.hostile.canary import watched
from tests.hostile.liar import Lie, lying
from tests.servers.simulator import Simulator

OTHER = ".handoff/work/0123456789abcdef-1"


def files(filename: Any, subfolder: Any = "", type_: Any = "output") -> dict[str, Any]:
    return {"9": {"images": [{"filename": filename, "subfolder": subfolder, "type": type_}]}}


LISTINGS: dict[str, tuple[Any, str]] = {
    "parent": (files("../outside/secret.png"), "output_broken"),
    "parents": (files("../" * 30 + "etc/passwd"), "output_broken"),
    "parent-subfolder": (files("secret.png", "../outside"), "output_broken"),
    "parent-inside": (files("secret.png", "a/../../outside"), "output_broken"),
    "absolute": (files("/etc/passwd"), "output_broken"),
    "absolute-subfolder": (files("passwd", "/etc"), "output_broken"),
    "absolute-canary": (files("{outside}/secret.png"), "output_broken"),
    "dots": (files(".."), "output_broken"),
    "dot": (files("."), "output_broken"),
    "slashes": (files("///"), "output_broken"),
    "backslashes": (files("..\\..\\outside\\secret.png"), "output_missing"),
    "encoded": (files("%2e%2e/outside/secret.png"), "output_missing"),
    "nul": (files("a\0.png"), "output_broken"),
    "nul-in-subfolder": (files("a.png", "b\0"), "output_broken"),
    "newline": (files("a\nb.png"), "output_missing"),
    "half-character": (files("a\ud800.png"), "output_missing"),
    "right-to-left": (files("\u202egnp.a"), "output_missing"),
    "long": (files("n" * 5000), "output_broken"),
    "long-subfolder": (files("a.png", "s/" * 5000), "output_missing"),
    "deep": (files("a.png", "/".join("d" * 300)), "output_missing"),
    "other-job": (files("x.png", OTHER), "output_broken"),
    "pen": (files("feed", ".handoff/w-0123456789abcdef"), "output_broken"),
    "link": (files("link.png"), "output_broken"),
    "folder-link": (files("secret.png", "away"), "output_broken"),
    "link-to-itself": (files("circle.png"), "output_broken"),
    "pipe": (files("pipe.png"), "output_broken"),
    "folder": (files("folder.png"), "output_broken"),
    "old": (files("old.png"), "output_broken"),
    "device": (files("zero", "../../../dev"), "output_broken"),
    "annotated": (files("secret.png [output]", "../outside"), "output_broken"),
    "preview-parent": (files("../outside/secret.png", "", "temp"), "output_broken"),
    "preview-parent-subfolder": (files("secret.png", "../outside", "temp"), "output_broken"),
    "preview-missing": (files("x.png", "", "temp"), "output_missing"),
    "input-type": (files("planted.png", "", "input"), "no_outputs"),
    "unknown-type": (files("x.png", "", "secrets"), "no_outputs"),
    "list-type": (files("x.png", "", ["output"]), "no_outputs"),
    "empty-name": (files(""), "no_outputs"),
    "number-name": (files(5), "no_outputs"),
    "list-name": (files(["a.png"]), "no_outputs"),
    "number-subfolder": (files("a.png", 5), "no_outputs"),
    "text-for-files": ({"9": {"images": "../outside/secret.png"}}, "no_outputs"),
    "list-for-node": ({"9": [{"filename": "a.png"}]}, "no_outputs"),
    "nothing": ({}, "no_outputs"),
    "null": (None, "no_outputs"),
    "many-missing": ({"9": {"images": [{"filename": f"{n}.png", "subfolder": "", "type": "output"} for n in range(5000)]}}, "output_missing"),
    "node-named-like-a-path": ({"../../outside": {"images": [{"filename": "secret.png", "subfolder": "../outside"}]}}, "output_broken"),
    "text": ({"9": {"text": ["x" * 200_000, "{{7*7}}", "\0\u202e<script>"]}}, "succeeded"),
}  # fmt: skip


def fill_in(listing: Any, outside: Path) -> Any:
    if isinstance(listing, dict):
        return {name: fill_in(part, outside) for name, part in listing.items()}
    if isinstance(listing, list):
        return [fill_in(part, outside) for part in listing]
    return listing.replace("{outside}", str(outside)) if isinstance(listing, str) else listing


def list_instead(listing: Any) -> Lie:
    return lambda document: {**document, "outputs": listing}


def test_no_listing_leads_out_of_the_output_folder(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    outside = volume.root / "outside"
    outside.mkdir()
    for place in (outside / "secret.png", volume.output / "old.png", volume.input / "planted.png"):
        Image.new("RGB", (8, 8)).save(place)
        os.utime(place, (1, 1))
    (volume.output / "link.png").symlink_to(outside / "secret.png")
    (volume.output / "away").symlink_to(outside)
    (volume.output / "circle.png").symlink_to("circle.png")
    os.mkfifo(volume.output / "pipe.png")
    (volume.output / "folder.png").mkdir()
    with lying(simulator.url) as liar, watched(outside) as canary:
        for name, (listing, _) in LISTINGS.items():
            liar.jobs[name] = list_instead(fill_in(listing, outside))
        watcher = watch(liar.url, settle_s=0.2)
        for name in LISTINGS:
            volume.drop(f"{name}.json", {"graph": graph(), "id": name})
        volume.drop("honest.json", canvas(id="honest"))
        ids = [*LISTINGS, "honest"]
        eventually(lambda: all((status := volume.status(id)) and status["done"] for id in ids), "all end")
        assert watcher.terminate() == 0
    ends = {id: volume.status(id) or {} for id in ids}
    found = {id: end["error"]["reason"] if end["error"] else end["status"] for id, end in ends.items()}
    note(listings=len(LISTINGS), touched_outside=len(canary.touched))
    assert found == {name: outcome for name, (_, outcome) in LISTINGS.items()} | {"honest": "succeeded"}
    assert canary.touched == set()
    assert [line for line in watcher.log if line["event"] == "bug"] == []
    kept = [path for id in ids for path in (volume.output / id).iterdir() if path.suffix != ".json"]
    assert {path.parent.name for path in kept} == {"honest"}
