"""The log: one JSON object a line, and no secret in any of them."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from handoff import log


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    said = json.loads(line)
    assert isinstance(said, dict)
    return said


def test_a_line_is_a_json_object_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(terminal=False)
    log.get().info("job", id="cat", file="海报.json", run_s=1.5)
    said = last_line(capsys)
    assert said.pop("timestamp")
    assert said == {"event": "job", "level": "info", "id": "cat", "file": "海报.json", "run_s": 1.5}


def test_details_for_developers_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(terminal=False)
    log.get().debug("nothing")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["api_key", "token", "s3_secret", "password", "Authorization", "credentials"])
def test_secrets_are_masked_by_their_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    log.configure(terminal=False)
    log.get().info("x", **{name: "hunter2"})
    assert last_line(capsys)[name] == "***"


@pytest.mark.parametrize("terminal", [True, False])
def test_no_url_with_a_signature_or_a_password(capsys: pytest.CaptureFixture[str], *, terminal: bool) -> None:
    log.configure(terminal=terminal)
    url = "https://user:hunter2@host:9000/a/b.png?X-Amz-Signature=5ec2e7#part"
    try:
        raise ValueError(f"cannot open {url}")
    except ValueError as error:
        log.get().error("not_fetched", error=f"cannot open '{url}' now", url=url, exc_info=error)
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "5ec2e7" not in said
    assert "host:9000/a/b.png" in said
    assert "ValueError" in said


def test_the_terminal_gets_readable_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(terminal=True)
    log.get().warning("polling", why="no events")
    said = capsys.readouterr().err
    assert "polling" in said
    assert "no events" in said
    assert not said.startswith("{")


def test_other_libraries_do_not_write_into_it(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(terminal=False)
    logging.getLogger("watchdog").debug("noise")
    assert capsys.readouterr().err == ""
