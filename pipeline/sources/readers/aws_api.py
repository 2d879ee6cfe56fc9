"""The reference of Amazon Web Services, from the service descriptions inside a botocore wheel.

Reads `botocore/data/SERVICE/DATE/service-2.json.gz`. A page is one operation with the members of its request and
response, one data type, or the overview of a service. Requests and responses get no pages of their own, which would
repeat them. Keys: `s3/2006-03-01/operations/PutObject`, `.../types/Bucket`, `.../overview`.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

from pipeline.base.errors import well_shaped
from pipeline.sources import archives
from pipeline.sources.declaration import Declared
from pipeline.sources.document import RawDocument, Rejected, joined, pages
from pipeline.sources.rows import column, parse_bounded

MAX_TITLE = 200  # characters, since every page repeats it
MEMBERS = "botocore/data/*/service-2.json.gz"
BLOCK = re.compile(r"</?(?:p|ul|ol|dl|dt|dd|note|important|br|tr|table|pre|h[1-6]|div|para)(?:\s[^<>]*)?/?>", re.I)
ITEM = re.compile(r"<li(?:\s[^<>]*)?>(?:\s*<p>)?", re.I)
CODE = re.compile(r"</?(?:code|filename|replaceable)>", re.I)
# Only tags that occur as tags; `<account-id>` and the like are placeholders and part of the text.
INLINE = re.compile(
    r"</?(?:a|b|i|u|em|strong|span|td|th|li|fullname|zonbook|xhtml|link|ulink|emphasis|script)(?:\s[^<>]*)?/?>", re.I
)


def parts(folder: Path, source: Declared) -> list[str]:
    """List one part per service and API date."""
    return archives.parts(folder, source.members or MEMBERS)


def read(folder: Path, part: str, source: Declared) -> Iterator[RawDocument | Rejected]:
    """Yield the pages of a service: overview, operations by name, data types by name."""
    for name, packed in archives.streams(folder, part, source.members or MEMBERS):
        with archives.decompressed(packed, name, 0) as stream:
            content = archives.whole(stream, name)
        prefix = "/".join(name.split("/")[-3:-1])
        with well_shaped(name):
            service = parse_bounded(content.decode(), name)
            about = service["metadata"]
            title = f"{about.get('serviceAbbreviation') or about['serviceFullName']}"[:MAX_TITLE]
            yield from pages(_pages(service, title), prefix, title, name, len(content))


def _pages(service: dict[str, Any], title: str) -> Iterator[tuple[str, str, Callable[[], str]]]:
    shapes, operations = service["shapes"], service["operations"]
    ends = [column(operation, f"{end}.shape") for operation in operations.values() for end in ("input", "output")]
    types = shapes.keys() - {end for end in ends if isinstance(end, str)}
    yield "overview", "overview", partial(_overview, service.get("documentation", ""), title)
    for name, operation in sorted(operations.items()):
        yield f"operations/{name}", name, partial(_operation_page, name, operation, shapes, title)
    for name in sorted(types):
        yield f"types/{name}", name, partial(_type_page, name, shapes[name], title)


def _overview(html: str, title: str) -> str:
    text = plain(html)
    return f"{title}\n\n{text}\n" if text else ""


def _operation_page(name: str, operation: dict[str, Any], shapes: dict[str, Any], title: str) -> str:
    http = operation.get("http", {})
    sections = [f"{name} ({title})", plain(operation.get("documentation", ""))]
    if http.get("requestUri", "/") != "/":
        sections.append(f"{http['method']} {http['requestUri']}")
    for heading, end in (("Request", "input"), ("Response", "output")):
        shape = shapes.get(operation.get(end, {}).get("shape"), {})
        sections += [f"{heading}:\n\n{lines}" for lines in [_members(shape)] if lines]
    errors = [shape["shape"] for shape in operation.get("errors", [])]
    lines = joined(_named(error, shapes.get(error, {}).get("documentation", "")) for error in errors)
    sections += [f"Errors:\n\n{lines}"] if lines else []
    return "\n\n".join(filter(None, sections)) + "\n"


def _type_page(name: str, shape: dict[str, Any], title: str) -> str:
    """Make the page of a data type; empty unless the type or one of its members is documented."""
    own, members = plain(shape.get("documentation", "")), _members(shape)
    if not own and not any(member.get("documentation") for member in shape.get("members", {}).values()):
        return ""
    values = "Valid values: " + ", ".join(shape["enum"]) if shape.get("enum") else ""
    return "\n\n".join(filter(None, [f"{name} ({title})", own, values, members])) + "\n"


def _members(shape: dict[str, Any]) -> str:
    required = set(shape.get("required", []))
    return joined(
        _named(f"{name} ({member['shape']}{', required' * (name in required)})", member.get("documentation", ""))
        for name, member in shape.get("members", {}).items()
    )


def _named(name: str, html: str) -> str:
    text = plain(html)
    return f"{name}: {text}" if text else name


def plain(html: str) -> str:
    """Convert the HTML of a description to text: a line per paragraph, `-` before list items, code in backticks."""
    text = re.sub(r"\s+", " ", html)
    text = CODE.sub("`", ITEM.sub("\n- ", text))
    text = unescape(INLINE.sub("", BLOCK.sub("\n", text)))
    return "\n".join(line for line in (line.strip() for line in text.split("\n")) if line not in ("", "-"))
