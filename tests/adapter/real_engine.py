"""Runs a flow in Dify's own engine (the package graphon, which wants Python 3.12): a script for a Python of its own.

Standard input: {"flow", "id", "query", "inputs", "picture"}; the picture is Base64 and becomes the start variable `image`.
Standard output: {"outputs", "answers", "nodes", "error"}; a file stands there as [content type, bytes].
"""

import base64
import json
import sys
from importlib import import_module
from typing import Any


class Storage:
    """What Dify's application gives the engine for files; here they stay in memory."""

    multimodal_send_format = "url"

    def __init__(self) -> None:
        self.files: list[tuple[str, bytes]] = []
        self.models = import_module("graphon.file.models")
        self.enums = import_module("graphon.file.enums")

    def create_file_by_raw(self, *, file_binary: bytes, mimetype: str, filename: str | None = None) -> Any:
        del filename
        self.files.append((mimetype, file_binary))
        return type("Stored", (), {"id": str(len(self.files) - 1)})

    def build_from_mapping(self, *, mapping: dict[str, Any]) -> Any:
        number = mapping["tool_file_id"]
        kind, data = self.files[int(number)]
        return self.models.File(
            file_type=self.enums.FileType.IMAGE,
            transfer_method=mapping["transfer_method"],
            reference=number,
            filename=f"{number}.png",
            extension=".png",
            mime_type=kind,
            size=len(data),
        )

    def download(self, file: Any) -> bytes:
        return self.files[int(file.reference)][1]

    def load_file_bytes(self, *, file: Any) -> bytes:
        return self.download(file)

    def resolve_file_url(self, *, file: Any, for_external: bool = True) -> str:
        del for_external
        return f"/files/tools/{file.reference}.png?timestamp=0&nonce=0&sign=0"

    def describe(self, value: Any) -> Any:
        if isinstance(value, self.models.File):
            return self.files[int(value.reference)][0], value.size
        if isinstance(value, list | tuple):
            return [self.describe(entry) for entry in value]
        if isinstance(value, dict):
            return {key: self.describe(entry) for key, entry in value.items()}
        return value if isinstance(value, str | int | float | None) else str(value)


def run(asked: dict[str, Any]) -> dict[str, Any]:
    storage = Storage()
    factory = import_module("graphon.dsl.node_factory")
    for name in (
        "_TextOnlyHttpResponseFileManager",
        "_UnsupportedHttpRequestFileManager",
        "_UnsupportedHttpFileReferenceFactory",
    ):
        setattr(factory, name, lambda: storage)
    # the package's own importer has no files; Dify's application has
    vars(import_module("graphon.dsl.importer"))["_unsupported_http_request_reason"] = lambda data: None
    inputs = dict(asked.get("inputs") or {})
    if asked.get("picture"):
        stored = storage.create_file_by_raw(file_binary=base64.b64decode(asked["picture"]), mimetype="image/png")
        method = storage.enums.FileTransferMethod.TOOL_FILE
        inputs["image"] = storage.build_from_mapping(mapping={"tool_file_id": stored.id, "transfer_method": method})
    context = {"workflow_run_id": asked["id"], "query": asked.get("query")}
    dsl, runtime = import_module("graphon.dsl"), import_module("graphon.file.runtime")
    found: dict[str, Any] = {"outputs": {}, "answers": [], "nodes": [], "error": None}
    with runtime.use_workflow_file_runtime(storage):
        engine = dsl.loads(asked["flow"], run_context=context, start_inputs=inputs)
        for event in engine.run():
            name = type(event).__name__
            if name in {"NodeRunSucceededEvent", "NodeRunExceptionEvent"}:
                found["nodes"].append(event.node_id)
                if event.node_type == "answer":
                    found["answers"].append(event.node_run_result.outputs["answer"])
            elif name == "GraphRunFailedEvent":
                found["error"] = event.error
            elif name in {"GraphRunSucceededEvent", "GraphRunPartialSucceededEvent"}:
                found["outputs"] = storage.describe(event.outputs)
    return found


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
