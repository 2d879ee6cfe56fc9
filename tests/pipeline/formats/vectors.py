"""The test vectors in `docs/formats.md`."""

import json
import re
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[3] / "docs" / "formats.md"
BLOCK = re.compile(r"^```json vectors ([a-z-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Case = dict[str, Any]


def vectors() -> dict[str, list[Case]]:
    """Name of a block -> its cases."""
    found = BLOCK.findall(DOCUMENT.read_text("utf-8"))
    assert len({name for name, _ in found}) == len(found), "two blocks have one name"
    return {name: json.loads(body) for name, body in found}
