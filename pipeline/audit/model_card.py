"""The card of a pulled folder: its README.md, for people and for hubs, from the facts in `everystep.json`."""

import json

from pipeline.formats.canonical import Json
from pipeline.release.card import base_model

CARD = """---
license: {license_tag}
library_name: transformers
pipeline_tag: text-generation
tags: [everystep, reproducible]
{base_model}---
# {title}

{origin}

| | |
| --- | --- |
{rows}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("."{remote})
tokenizer = AutoTokenizer.from_pretrained("."{remote})
```

Needs transformers 4.48 or newer. Inputs have at most {context} tokens; there is no begin token, and texts end with
`<|endoftext|>`, which also pads batches.
"""


def model_card(about: dict[str, Json], context: int, *, remote_code: bool) -> str:
    """The card of one state, or of a mean of several (`mean_of`)."""
    states = about.get("mean_of", [about])
    release = _code(f"{about['release']} {about['release_version']}")
    revisions = ", ".join(_code(state["revision"]) for state in states)
    rows = [
        ("release", release),
        ("mean of" if "mean_of" in about else "revision", revisions),
        ("tokens trained on", f"{states[-1]['tokens']:,}"),
        ("weights", _code(about["weights_digest"])),
        *([] if "mean_of" in about else [("weights, moments and step", _code(about["state_digest"]))]),
        *(("trained on from", _ancestor(state)) for state in about.get("ancestors", [])),
        ("licence", f"{_code(about['license'])}, see LICENSE; NOTICE lists the texts it was trained on"),
    ]
    steps = " and ".join(str(state["step"]) for state in states)
    return CARD.format(
        license_tag=json.dumps(about["license"].lower()),
        base_model="".join(
            f"{key}: {json.dumps(value)}\n" for key, value in base_model(about.get("base_model")).items()
        ),
        title=f"{about['model']}, " + (f"mean of steps {steps}" if "mean_of" in about else f"step {steps}"),
        origin=f"From the release {release}, against which `everystep` checked every byte before it wrote this folder.",
        rows="\n".join(f"| {name} | {value} |" for name, value in rows),
        remote=", trust_remote_code=True" if remote_code else "",
        context=f"{context:,}",
    )


def _ancestor(state: dict[str, Json]) -> str:
    """A state of another release, in one cell."""
    release = _code(f"{state['release']} {state['version']}")
    return f"{_code(state['model'])} at step {state['step']} of the release {release}, {_code(state['state_digest'])}"


def _code(text: str) -> str:
    """A text as code, whatever it holds."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "&#124;") + "`"
