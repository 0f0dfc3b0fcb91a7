"""What GET /docs shows: every call in a sentence. One page that loads nothing from elsewhere. Pure."""

from html import escape

CALLS = {
    "PUT /v1/jobs/{id}": "Submit under an id of your own. The same id and content again is the same job: 202 new, 200 known, 409 another content.",
    "POST /v1/jobs": "Submit; the id is made, or follows from the header Idempotency-Key.",
    "GET /v1/jobs/{id}": "The status document. With wait it is held until the job is over, or that many seconds.",
    "GET /v1/jobs": "Your jobs, newest first: status=, workflow=, limit=, cursor= (of the answer before).",
    "POST /v1/jobs/{id}/cancel": "Asks the job to stop. One that is over stays as it is.",
    "POST /v1/jobs/{id}/retry": "Runs a job again that did not succeed, as ID-r1, with the same parameters and seed.",
    "GET /v1/jobs/{id}/outputs/{name}": "An output by its name, or by its number, counted from 1.",
    "GET /p/{signature}/{id}/{name}": "The same by a signed link, without a key. The status document holds these links.",
    "POST /v1/uploads": "Stores an input picture and tells the name that a picture parameter takes.",
    "GET /v1/workflows": "The workflows, each with a JSON Schema of its parameters.",
    "GET /v1/workflows/{name}": "One of them.",
    "POST /v1/workflows/{name}": "Submit with the workflow's parameters as the body.",
    "POST /generate": "Waits for the picture and answers it as Base64: {&quot;image&quot;: …}.",
    "POST /prompt": "The body of ComfyUI's POST /prompt, or a text in the place of the graph.",
    "GET /": "The page for people who build flows in Dify.",
    "GET /dify/{file}": "A flow, or openapi.json, to be imported into Dify.",
    "GET /dify/{token}/{file}": "The same by a signed link.",
    "GET /livez": "Whether this process answers.",
    "GET /readyz": "Whether a job that comes now would be worked on; 503 and the reasons when not.",
    "GET /metrics": "Figures for Prometheus.",
    "GET /docs": "This page.",
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Handoff: the HTTP API</title></head><body>
<h1>Handoff: the HTTP API</h1>
<p>Send a key as <code>Authorization: Bearer KEY</code>, as <code>X-API-Key: KEY</code>, or as the password of Basic.
Bodies are JSON, <code>application/x-www-form-urlencoded</code> or <code>multipart/form-data</code>, with the same fields:
<code>workflow</code> and its parameters, or <code>graph</code>; and <code>id</code>, <code>set</code>, <code>priority</code>,
<code>queue_timeout_s</code>, <code>run_timeout_s</code>, <code>metadata</code>. An empty value was not given.</p>
<p>Every call takes <code>?lang=en|zh</code> and <code>?errors=200</code> (errors as status documents with 200, for Dify). Calls
that answer a job take <code>?wait=SECONDS</code> and <code>?format=json|text|markdown</code>. Errors are problem documents
(RFC 9457) with <code>reason</code>, <code>detail</code>, <code>hint</code> and a list <code>errors</code>.</p>
<table>
{rows}
</table>
</body></html>
"""


def render() -> str:
    rows = [f"<tr><td><code>{escape(call)}</code></td><td>{sentence}</td></tr>" for call, sentence in CALLS.items()]
    return _PAGE.format(rows="\n".join(rows))
