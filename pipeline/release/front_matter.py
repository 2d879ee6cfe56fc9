"""The front matter of a card: what the Hub reads of it. A function of the facts, so that `verify` can make it again."""

import json
from typing import Any

from pipeline.release.facts import Facts

# SPDX identifiers that the Hub knows in small letters (https://huggingface.co/docs/hub/repositories-licenses).
KNOWN_TO_HUB = """
    AFL-3.0 Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear BSL-1.0 CC0-1.0 CC-BY-2.0 CC-BY-2.5
    CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-BY-NC-2.0 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-ND-4.0 CC-BY-NC-ND-3.0
    CC-BY-NC-ND-4.0 CC-BY-NC-SA-2.0 CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0 CDLA-Permissive-1.0 CDLA-Permissive-2.0
    CDLA-Sharing-1.0 ECL-2.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 ISC MIT MPL-2.0 MS-PL NCSA OFL-1.1 OSL-3.0 PostgreSQL
    Unlicense WTFPL Zlib
""".split()  # noqa: SIM905
OTHERWISE_KNOWN = {"AGPL-3.0-only": "agpl-3.0", "GPL-2.0-only": "gpl-2.0", "GPL-3.0-only": "gpl-3.0"}
HUB_LICENSES = {name: name.lower() for name in KNOWN_TO_HUB} | OTHERWISE_KNOWN


def front_matter(facts: Facts) -> str:
    """What the Hub reads of a card. It names no library: nothing can load the folder as a whole.

    Every text is quoted, because readers differ in what they take a bare word for: `no` is false in YAML 1.1, `0o10` is
    eight in YAML 1.2.
    """
    license = facts.release.license
    tag = HUB_LICENSES.get(license)
    datasets = sorted({source.repository for source in facts.sources if source.repository})
    metadata: dict[str, Any] = {"license": tag} if tag else {"license": "other", "license_name": license}
    metadata |= {"language": facts.languages} | ({"datasets": datasets} if datasets else {})
    metadata |= base_model(facts.release.base_model)
    lines = []
    for key, value in (metadata | {"tags": ["everystep", "reproducible"]}).items():
        lines += [f"{key}:", *(f"- {_in_quotes(item)}" for item in value)] if isinstance(value, list) else []
        lines += [f"{key}: {_in_quotes(value)}"] if isinstance(value, str) else []
    return "\n".join(["---", *lines, "---", ""])


def base_model(repository: str | None) -> dict[str, str]:
    """What the Hub reads of a model that was trained on from another. Of the relations that it knows, a training that
    goes on is a `finetune` (https://huggingface.co/docs/hub/model-cards#specifying-a-base-model)."""
    return {"base_model": repository, "base_model_relation": "finetune"} if repository else {}


def _in_quotes(text: str) -> str:
    """A text in the double quotes of YAML, which are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
