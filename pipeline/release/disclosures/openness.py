"""The release by the Model Openness Framework of LF AI & Data: which of its components are here, and where.

`mof.yml` is at the root of the release, because its paths are those of the release. A component that the release does
not have is not listed.
"""

import json
from typing import Any

from pipeline.base.paths import RECIPES, RESULTS, RUNS, TOKENS
from pipeline.formats.manifests import Code, path_of
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.words import Disclosures

CODE_LICENSE = "Apache-2.0"
"""Licence of the code that `manifests/code.json` lists, which is Everystep's."""
LISTED = "SHA-256 of each file of this code, and the Software Heritage identifier of all"
LAWS, NOTICES = "LICENSE", "NOTICE"


def write_openness(evidence: Evidence) -> bytes:
    """`mof.yml`, by schema/mof_schema.json of lfai/model_openness_tool."""
    release = evidence.release
    words = release.disclosures or Disclosures()
    tree = {
        "framework": {"name": "Model Openness Framework", "version": "1.0", "date": "2024-12-15"},
        "release": {
            "name": release.name,
            "version": release.version,
            **({"date": words.published} if words.published else {}),
            "license": {
                "distribution": {"name": release.license, "path": LAWS},
                "code": {"name": CODE_LICENSE, "path": LAWS},
                "data": {"name": _data_license(evidence), "path": NOTICES},
                "document": {"name": release.license, "path": LAWS},
            },
            "type": "language",
            "architecture": "transformer decoder",
            "treatment": "pre-trained",
            "origin": evidence.ancestors[0].release if evidence.ancestors else "",
            "producer": release.publisher,
            "contact": words.contact or "",
            "components": _components(evidence),
        },
    }
    head = [
        "# Made from the manifests of the release; `everystep verify` renders it again.",
        f"# Words of {release.publisher}, from params.yaml: licences of documents and models, producer, contact, date.",
    ]
    return ("\n".join([*head, *_yaml(tree)]) + "\n").encode()


def _data_license(evidence: Evidence) -> str:
    return " AND ".join(
        sorted(row.license if " " not in row.license else f"({row.license})" for row in evidence.licenses)
    )


def _components(evidence: Evidence) -> list[dict[str, str]]:
    """What is there of the 17 components, each with its path in the release and its licence."""
    models, data = evidence.release.license, _data_license(evidence)
    last = [f"{RUNS}/{design.name}/{design.last}" for design in evidence.designs]
    code = path_of(Code).as_posix()
    remote = "trainer/remote/modeling_everystep_openelm.py"
    listed = [
        ("Model architecture", "Recipe of each model, from which its shapes follow", f"{RECIPES}", models, LAWS),
        ("Data preprocessing code", LISTED, code, CODE_LICENSE, LAWS),
        ("Training code", LISTED, code, CODE_LICENSE, LAWS),
        ("Inference code", "What transformers lacks; the other families are its own", remote, CODE_LICENSE, LAWS),
        ("Evaluation code", LISTED, code, CODE_LICENSE, LAWS),
        ("Supporting libraries and tools", "Exact versions of what built it", "constraints.txt", CODE_LICENSE, LAWS),
        ("Model parameters (Final)", f"Last checkpoint of each model: {', '.join(last)}", last[0], models, LAWS),
        ("Model parameters (Intermediate)", "Stored checkpoints, each with its digests", f"{RUNS}", models, LAWS),
        ("Datasets", "Rows of token ids, document index and order", TOKENS.as_posix(), data, NOTICES),
        ("Evaluation data", "Rows that are held out", f"{TOKENS.as_posix()}/validation", data, NOTICES),
        ("Model metadata", "Shapes, training, moments of the optimizer by digest", "manifests/models", models, LAWS),
        ("Model card", "What the models are, what they read, their limits", "README.md", models, LAWS),
        ("Data card", "The data as Croissant 1.1", "croissant.json", models, LAWS),
        ("Technical report", "The Code of Practice's form", "disclosures/model-documentation.md", models, LAWS),
        ("Evaluation results", "Losses of every checkpoint", f"{RESULTS}", models, LAWS),
    ]
    return [
        {"name": name, "description": what, "license": license, "license_path": terms, "component_path": path}
        for name, what, path, license, terms in listed
    ]


def _yaml(tree: dict[str, Any]) -> list[str]:
    """A tree of mappings, lists of mappings and texts as block YAML, every text in double quotes."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{key}:", *(f"  {line}" for line in _yaml(value))]
        elif isinstance(value, list):
            lines.append(f"{key}:")
            for item in value:
                first, *rest = _yaml(item)
                lines += [f"  - {first}", *(f"    {line}" for line in rest)]
        else:
            lines.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")
    return lines
