"""Three nodes that no ComfyUI has, for tests: they sleep, sleep without listening, and raise."""

from comfyui_simulator import pictures
from comfyui_simulator.node_types import NodeContext, OutOfMemoryError, Output, node
from comfyui_simulator.pictures import Picture

_STEP_S = 0.05
_PREVIEW = pictures.fill(256, 256, 0x406080)


@node("ProbeSleep")
def sleep(context: NodeContext, *, images: list[Picture], seconds: float, preview: bool, tag: str) -> Output:
    del tag
    steps = max(1, int(seconds / _STEP_S))
    for step in range(1, steps + 1):
        context.wait(_STEP_S)
        context.report(step, steps, _PREVIEW if preview else None)
    return Output(values=(images,))


@node("ProbeBlockingSleep")
def sleep_blocking(context: NodeContext, *, images: list[Picture], seconds: float, preview: bool, tag: str) -> Output:
    del preview, tag
    context.sleep_deaf(seconds)
    return Output(values=(images,))


@node("ProbeRaise")
def fail(_: NodeContext, *, images: list[Picture], kind: str, tag: str) -> Output:
    del images
    if kind == "oom":
        raise OutOfMemoryError("Probe: out of memory")
    raise ValueError(f"probe error {tag}")
