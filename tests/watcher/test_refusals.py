"""ComfyUI's refusals, as recorded, read as sentences."""

import pytest

from handoff.failures import Reason
from tests.watcher.recorded import refusals
from watcher.refusals import MAX_PROBLEM, PromptAnswer, read_refusal


@pytest.mark.parametrize(
    ("case", "number", "reason", "text"),
    [
        ("30", 0, Reason.WORKFLOW_UNAVAILABLE, "the node class NoSuchNode"),
        ("30", 3, Reason.WORKFLOW_UNAVAILABLE, "the node class NoSuchNode"),
        ("33", 0, Reason.VALIDATION_FAILED, "node 2 (SaveImage) lacks its input images"),
        ("33", 1, Reason.VALIDATION_FAILED, "node 1 (EmptyImage) lacks its input width"),
        ("34", 1, Reason.VALIDATION_FAILED, "batch_size of node 1 (EmptyImage) is 0, and the smallest allowed is 1"),
        ("35", 0, Reason.VALIDATION_FAILED, "and the largest allowed is 16384"),
        ("36", 0, Reason.VALIDATION_FAILED, "which is no INT"),
        ("37", 0, Reason.WORKFLOW_UNAVAILABLE, "the model model.safetensors (CheckpointLoaderSimple.ckpt_name)"),
        (
            "37",
            1,
            Reason.VALIDATION_FAILED,
            'sampler_name of node 3 (KSampler) is "nope", which is none of its choices; it has not got the model model.safetensors',
        ),
        (
            "38",
            0,
            Reason.VALIDATION_FAILED,
            'upscale_method of node 1 (ImageScale) is "nope", which is none of its choices; it takes area, bicubic,',
        ),
        ("39", 0, Reason.VALIDATION_FAILED, "node 1 (LoadImage): image - Invalid image file: nope.png"),
        ("40", 0, Reason.VALIDATION_FAILED, "is linked to an output of another type"),
        (
            "41",
            0,
            Reason.VALIDATION_FAILED,
            "images of node 2 (SaveImage) is ['1'], and a link is [node id, output number]",
        ),
        ("46", 0, Reason.VALIDATION_FAILED, "prompt_id must be a valid UUID"),
        (
            "48",
            0,
            Reason.VALIDATION_FAILED,
            'height of node 1 (EmptyImage) is "abc", which is no INT; node 3 (LoadImage)',
        ),
        ("48", 0, Reason.VALIDATION_FAILED, "and 2 more"),
    ],
)
def test_refusals_as_sentences(case: str, number: int, reason: Reason, text: str) -> None:
    graph, answer, status = refusals(case)[number]
    graph = {node: {"class_type": "", **content} for node, content in graph.items()}
    for node in graph.values():
        node["class_type"] = node["class_type"] or "X"
    failure = read_refusal(PromptAnswer.model_validate(answer), graph)
    assert status == 400
    assert failure.reason is reason
    said = str(failure.details["lacks" if reason is Reason.WORKFLOW_UNAVAILABLE else "problem"])
    assert text in said
    assert len(said) <= MAX_PROBLEM
