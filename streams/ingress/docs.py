"""openapi.yaml -> the page at /docs: every operation, with examples to copy. Plain HTML: nothing is loaded and nothing runs."""

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 14px/1.4 ui-monospace, monospace }
pre { padding: .75rem; overflow-x: auto; border: 1px solid #8886; border-radius: 6px }
h2 { margin-top: 3rem; border-bottom: 1px solid #8886 }
h2 b { font-family: ui-monospace, monospace }
table { border-collapse: collapse } td { padding: .25rem .75rem .25rem 0; vertical-align: top }
summary { cursor: pointer } nav li { list-style: none } nav ul { padding: 0 }
"""

Document = Mapping[str, Any]


def render(document: Document) -> str:
    """The whole page."""
    info = document["info"]
    operations = [(path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()]
    index = "".join(
        f'<li><a href="#{escape(o["operationId"])}"><code>{method.upper()} {escape(path)}</code></a> {escape(o["summary"])}</li>'
        for path, method, o in operations
    )
    body = "".join(_operation(document, *operation) for operation in operations)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])}</title><style>{STYLE}</style></head><body><h1>{escape(info['title'])}</h1>"
        f"{_text(info['description'])}<p>As a file: <a href=\"/v1/openapi.yaml\">YAML</a>, <a href=\"/v1/openapi.json\">JSON</a>.</p>"
        f"<nav><ul>{index}</ul></nav>{body}</body></html>"
    )


def _operation(document: Document, path: str, method: str, operation: Document) -> str:
    parameters = [_resolve(document, one) for one in operation.get("parameters", ())]
    rows = "".join(
        f"<tr><td><code>{escape(p['name'])}</code><td>{escape(p['in'])}{', required' if p.get('required') else ''}"
        f"<td>{_text(p.get('description', ''))}"
        for p in parameters
    )
    answers = "".join(
        f"<tr><td><code>{status}</code><td>{_text(_resolve(document, answer)['description'])}"
        for status, answer in operation["responses"].items()
    )
    examples = "".join(
        f"<details><summary>{escape(summary)}</summary><pre>{escape(command)}</pre></details>"
        for summary, command in _commands(path, method, operation)
    )
    return (
        f'<h2 id="{escape(operation["operationId"])}"><b>{method.upper()}</b> <code>{escape(path)}</code></h2>'
        f"<p>{escape(operation['summary'])}</p>{_text(operation.get('description', ''))}"
        f"{f'<h3>Parameters</h3><table>{rows}</table>' if rows else ''}"
        f"{f'<h3>Examples</h3>{examples}' if examples else ''}<h3>Answers</h3><table>{answers}</table>"
    )


def _commands(path: str, method: str, operation: Document) -> Iterator[tuple[str, str]]:
    """(summary, shell command) per example. $URL and $TOKEN are the reader's."""
    token = ' -H "Authorization: Bearer $TOKEN"' if "security" not in operation else ""
    if method == "get":
        shown = path.replace("{member_id}", "M-000123") + ("?program=grand" if "{member_id}" in path else "")
        yield operation["summary"], f'curl{token} "$URL{shown}"'
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        for example in content["examples"].values():
            body = json.dumps(example["value"], indent=1, ensure_ascii=False).replace("'", "'\\''")
            if "{source}" in path:  # Its proof is computed over the body, so there is no command to copy.
                yield example["summary"], f"Content-Type: {media_type}\n\n{body}"
            else:
                verb = "" if method == "post" else f" -X {method.upper()}"
                wait = " -H 'Prefer: wait=5'" if "commands" in operation["tags"] else ""
                yield example["summary"], f"curl{verb} \"$URL{path}\"{token} -H 'Content-Type: {media_type}'{wait} -d '{body}'"


def _resolve(document: Document, value: Any) -> Any:
    while "$ref" in value:
        node: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        value = node
    return value


def _text(markdown: str) -> str:
    """The little of Markdown that the document uses: paragraphs, lists, code, strong."""
    blocks = []
    for block in re.split(r"\n\s*\n", markdown.strip()):
        html = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", re.sub(r"`(.+?)`", r"<code>\1</code>", escape(block)))
        if html.startswith("* "):
            blocks.append("<ul>" + "".join(f"<li>{item}</li>" for item in re.split(r"(?:^|\n)\* ", html)[1:]) + "</ul>")
        elif html:
            blocks.append(f"<p>{html}</p>")
    return "".join(blocks)
