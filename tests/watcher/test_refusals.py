"""ComfyUI's refusals, as recorded, read as sentences."""

import pytest

from handoff.failures import Reason
from tests.watcher.recorded import refusals
from watcher.refusals import MAX_PROBLEM, PromptAnswer, read_refusal, read_unknown_refusal


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


def test_a_refusal_in_other_words_is_shown_without_what_inputs_hold() -> None:
    said = {"error": {"type": 5, "password": "hunter2"}, "node_errors": {"1": "hunter2"}, "why": "x" * 1000}
    failure = read_unknown_refusal(said)
    assert failure.reason is Reason.VALIDATION_FAILED
    problem = str(failure.details["problem"])
    assert problem.startswith("it answered {'error': {'type': 5, 'password': '***'}, 'why': 'xxx")
    assert len(problem) == MAX_PROBLEM


def test_an_older_comfyui_says_in_other_words_that_a_class_is_missing() -> None:
    """As ComfyUI 0.3.64 answered."""
    error = {
        "type": "invalid_prompt",
        "message": "Cannot execute because node Nope does not exist.",
        "details": "Node ID '#1'",
        "extra_info": {},
    }
    answer = PromptAnswer.model_validate({"error": error, "node_errors": {}})
    failure = read_refusal(answer, {"1": {"class_type": "Nope", "inputs": {}}})
    assert failure.reason is Reason.WORKFLOW_UNAVAILABLE
    assert failure.details == {"lacks": "the node class Nope"}
    assert failure.node is not None
    assert failure.node.id == "1"
