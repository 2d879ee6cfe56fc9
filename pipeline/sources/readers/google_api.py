"""The reference of Google's web services, from the discovery documents inside a google-api-python-client wheel.

Reads `googleapiclient/discovery_cache/documents/API.VERSION.json`. A page is one method with its parameters, or
one schema with its properties, nested ones indented. The version is in the metadata and not in the text, so that
pages that versions of an API share are duplicates. Keys: `drive.v3/methods/files.copy`, `drive.v3/schemas/File`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.base.errors import EverystepError, well_shaped
from pipeline.sources import archives
from pipeline.sources.declaration import Declared
from pipeline.sources.document import MAX_KEY, RawDocument, Rejected, joined, pages
from pipeline.sources.rows import parse_bounded

MAX_TITLE = 200  # characters, since every page repeats it
MEMBERS = "googleapiclient/discovery_cache/documents/*.json"


def parts(folder: Path, source: Declared) -> list[str]:
    """List one part per API and version."""
    return archives.parts(folder, source.members or MEMBERS)


def read(folder: Path, part: str, source: Declared) -> Iterator[RawDocument | Rejected]:
    """Yield the pages of an API: methods by name, then schemas by name. A file that describes no API has none."""
    for name, stream in archives.streams(folder, part, source.members or MEMBERS):
        content = archives.whole(stream, name)
        with well_shaped(name):
            api = parse_bounded(content.decode(), name)
            if api.get("kind") != "discovery#restDescription":
                continue
            title = f"{api.get('title') or api['name']}"[:MAX_TITLE]
            prefix, version = PurePosixPath(name).stem, f"{title} {api['version']}"
            yield from pages(_pages(api, title), prefix, version, name, len(content))


def _pages(api: dict[str, Any], title: str) -> Iterator[tuple[str, str, Callable[[], str]]]:
    for name, method in sorted(_methods(api, ""), key=itemgetter(0)):
        yield f"methods/{name}", name, partial(_method_page, name, method, title)
    for name, schema in sorted(api.get("schemas", {}).items()):
        yield f"schemas/{name}", name, partial(_schema_page, name, schema, title)


def _schema_page(name: str, schema: dict[str, Any], title: str) -> str:
    lines = chain([f"{name} ({title})", "", *_described(schema)], _properties(schema, ""))
    return joined(lines) + "\n"


def _methods(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if len(prefix) > MAX_KEY:
        raise EverystepError(f"{prefix[:MAX_KEY]!r}: longer than the name of a method may be")
    for name, method in node.get("methods", {}).items():
        yield prefix + name, method
    for name, resource in node.get("resources", {}).items():
        yield from _methods(resource, f"{prefix}{name}.")


def _method_page(name: str, method: dict[str, Any], title: str) -> str:
    lines = [f"{name} ({title})", "", *_described(method)]
    lines.append(f"{method['httpMethod']} {method.get('flatPath', method['path'])}")
    parameters = method.get("parameters", {})
    lines += ["", "Parameters:"] * bool(parameters)
    for key, parameter in parameters.items():
        lines += _property(key, parameter, "")
    for heading, end in (("Request body", "request"), ("Response body", "response")):
        lines += [f"\n{heading}: {method[end]['$ref']}"] if method.get(end, {}).get("$ref") else []
    return joined(lines) + "\n"


def _described(node: dict[str, Any]) -> list[str]:
    return [node["description"].strip(), ""] if node.get("description") else []


def _properties(schema: dict[str, Any], indent: str) -> Iterator[str]:
    """Yield lines for the properties of an object, of an array's items or of a map's values."""
    for key, value in schema.get("properties", {}).items():
        yield from _property(key, value, indent)
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from _properties(inner, indent)


def _property(name: str, node: dict[str, Any], indent: str) -> Iterator[str]:
    required = ", required" * bool(node.get("required") is True)
    described = f": {node['description'].strip()}" if node.get("description") else ""
    yield f"{indent}- {name} ({_type(node)}{required}){described}"
    for value, meaning in zip(node.get("enum", []), node.get("enumDescriptions", []), strict=False):
        yield f"{indent}  - {value}: {meaning.strip()}" if meaning.strip() else f"{indent}  - {value}"
    yield from _properties(node, indent + "  ")


def _type(node: dict[str, Any]) -> str:
    if isinstance(node.get("items"), dict):
        return f"list of {_type(node['items'])}"
    if isinstance(node.get("additionalProperties"), dict):
        return f"map of {_type(node['additionalProperties'])}"
    return str(node.get("$ref") or node.get("type", "any"))
