"""What ComfyUI's answers about a prompt mean: why it failed, and what waits."""

from typing import Any

import pytest

from handoff.failures import Failure, Reason
from tests.watcher.recorded import CASES
from watcher.prompts import JobAnswer, Prompt, PromptState, QueueAnswer, RunError, failure_of


def recorded_failure(case: str) -> Failure:
    steps = CASES[case]["steps"]
    answers = [step["response"]["json"] for step in steps if step["request"]["path"].startswith("/api/jobs/")]
    answer = next(answer for answer in answers if answer["status"] == "failed")
    prompt = JobAnswer.model_validate(answer).to_prompt(answer["id"])
    return failure_of(prompt, steps[0]["request"]["json"]["prompt"])


def test_a_failed_node_is_named_and_nothing_of_its_inputs() -> None:
    failure = recorded_failure("51")
    assert failure.reason is Reason.NODE_ERROR
    assert failure.details == {"problem": "probe error T"}
    assert failure.node is not None
    assert (failure.node.id, failure.node.class_type) == ("2", "ProbeRaise")


def test_out_of_memory_has_a_reason_of_its_own() -> None:
    failure = recorded_failure("52")
    assert failure.reason is Reason.OUT_OF_MEMORY
    assert failure.details == {"problem": "Probe: out of memory"}


@pytest.mark.parametrize(
    ("status", "said", "state", "problem"),
    [
        ("failed", {"messages": [["execution_start", {}]]}, PromptState.FAILED, "the job's"),
        ("failed", {"messages": [["execution_start", {}]], "status_str": "error"}, PromptState.FAILED, "the job's"),
        ("failed", {"messages": []}, PromptState.FAILED, "the job's"),
        ("failed", {"messages": [["execution_error", {"exception_message": "the message's"}]]}, PromptState.FAILED, "the message's"),
        ("failed", {"messages": [["execution_error"]]}, PromptState.FAILED, "no reason was given"),
        ("failed", {"messages": [["execution_interrupted", {}]]}, PromptState.INTERRUPTED, None),
        ("cancelled", {"messages": [["execution_interrupted"]], "status_str": "error"}, PromptState.INTERRUPTED, None),
        ("cancelled", {"messages": [None], "status_str": "error"}, PromptState.INTERRUPTED, None),
        ("completed", {"messages": [["execution_success", {}]], "status_str": "success"}, PromptState.SUCCEEDED, None),
        ("completed", {"messages": [], "status_str": "error"}, PromptState.FAILED, "the job's"),
        ("failed", None, PromptState.FAILED, "the job's"),
    ],
)  # fmt: skip
def test_messages_decide_and_else_the_job(
    status: str, said: dict[str, Any] | None, state: PromptState, problem: str | None
) -> None:
    answer = {
        "status": status,
        "execution_status": said,
        "execution_error": {"exception_message": "the job's"},
        "execution_start_time": 1,
        "execution_end_time": 2,
    }
    prompt = JobAnswer.model_validate(answer).to_prompt("p")
    assert prompt.state is state
    assert (prompt.started_ms, prompt.ended_ms) == (1, 2)
    if problem is None:
        assert prompt.error is None
    else:
        assert failure_of(prompt, {}).details["problem"] == problem


@pytest.mark.parametrize(
    ("kind", "message", "reason"),
    [
        ("torch.cuda.OutOfMemoryError", "x", Reason.OUT_OF_MEMORY),
        ("RuntimeError", "CUDA error: out of memory", Reason.OUT_OF_MEMORY),
        ("RuntimeError", "CUDA out of memory. Tried to allocate 2 GiB", Reason.OUT_OF_MEMORY),
        ("RuntimeError", "MPS backend out of memory (used: 3 GB)", Reason.OUT_OF_MEMORY),
        ("RuntimeError", "Allocation on device 0 would exceed allowed memory.", Reason.OUT_OF_MEMORY),
        ("ValueError", "we are out of memory cards", Reason.NODE_ERROR),
        ("ValueError", "", Reason.NODE_ERROR),
    ],
)
def test_which_errors_are_out_of_memory(kind: str, message: str, reason: Reason) -> None:
    error = RunError(node_id="1", node_type="X", exception_type=kind, exception_message=message)
    failure = failure_of(Prompt(id="p", state=PromptState.FAILED, outputs={}, error=error), {})
    assert failure.reason is reason
    assert failure.details["problem"]


def test_an_errors_message_is_cut_and_masked() -> None:
    error = RunError(
        node_id="1", exception_message="\n\nGET https://me:hunter2@host/x?key=hunter2 " + "x" * 10_000 + "\nhunter2"
    )
    problem = str(failure_of(Prompt(id="p", state=PromptState.FAILED, outputs={}, error=error), {}).details["problem"])
    assert "hunter2" not in problem
    assert len(problem) <= 300


def test_waiting_prompts_come_in_the_order_in_which_they_run() -> None:
    entries: list[list[Any]] = [
        [5, "e", {}, {}, []],
        [-1.0, "z", {}, {"handoff": "forged"}, []],
        [2, "b", {}, {}, []],
        [2, "a", {}, {}, []],
    ]
    found = QueueAnswer.model_validate({"queue_running": [], "queue_pending": entries}).to_queue()
    assert found.waiting == ("z", "a", "b", "e")
    assert found.tags == {}
