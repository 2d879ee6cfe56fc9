"""The card of a pulled folder: its README.md, for people and for hubs, from the facts in `everystep.json`."""

import json

from pipeline.formats.canonical import Json
from pipeline.release.front_matter import base_model

CARD = """---
license: {license_tag}
library_name: transformers
pipeline_tag: text-generation
tags: [everystep, reproducible]
{metadata}---
# {title}

{origin}

| | |
| --- | --- |
{rows}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({place}{remote})
tokenizer = AutoTokenizer.from_pretrained({place}{remote})
```

Needs transformers 4.48 or newer. Inputs have at most {context} tokens; there is no begin token, and texts end with
`<|endoftext|>`, which also pads batches.
{within}"""

WITHIN = """
**Attention within documents.** In training a token saw only earlier tokens of its own document, which ends with
`<|endoftext|>`. One text by itself needs nothing more. A row of several needs a mask:

```python
import torch

row = tokenizer("A text.<|endoftext|>Another one.", return_tensors="pt").input_ids
ends = (row == tokenizer.eos_token_id).long()
document = ends.cumsum(1) - ends
seen = (document[:, :, None] == document[:, None, :]).tril()
mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
logits = model(row, attention_mask=mask[:, None]).logits
```

A text that was begun with `<|endoftext|>` is such a row, too: in training nothing after that token saw it.
"""


def model_card(about: dict[str, Json], context: int, *, remote_code: bool) -> str:
    """The card of one state, of a mean of several (`mean_of`), or of a state that no release has (`counterfactual`)."""
    states = about.get("mean_of", [about])
    release = _code(f"{about['release']} {about['release_version']}")
    rows = [
        ("release", release),
        *_states(about),
        ("tokens trained on", f"{states[-1]['tokens']:,}"),
        ("weights", _code(about["weights_digest"])),
        *([] if "mean_of" in about else [("weights, moments and step", _code(about["state_digest"]))]),
        *(("trained on from", _ancestor(state)) for state in about.get("ancestors", [])),
        ("licence", f"{_code(about['license'])}, see LICENSE; NOTICE lists the texts it was trained on"),
    ]
    steps = " and ".join(str(state["step"]) for state in states)
    return CARD.format(
        license_tag=json.dumps(about["license"].lower()),
        metadata=_metadata(about),
        title=f"{about['model']}, {_kind(about)}{steps}",
        origin=_origin(about, release) + "".join(map(_superseded, about.get("superseded_by", []))),
        rows="\n".join(f"| {name} | {value} |" for name, value in rows),
        place=_place(about),
        remote=", trust_remote_code=True" if remote_code else "",
        context=f"{context:,}",
        within=WITHIN if about["description"]["attention_within_documents"] else "",
    )


def _kind(about: dict[str, Json]) -> str:
    """What stands before the steps in a title."""
    return (
        "mean of steps " if "mean_of" in about else "counterfactual at step " if "counterfactual" in about else "step "
    )


def _states(about: dict[str, Json]) -> list[tuple[str, str]]:
    """Which states of the release it is, is made of, or is not, as rows."""
    if "mean_of" in about:
        return [("mean of", ", ".join(_code(state["revision"]) for state in about["mean_of"]))]
    if "counterfactual" not in about:
        return [("revision", _code(about["revision"]))]
    said = about["counterfactual"]
    return [
        ("trained from", _code(said["from"]["revision"])),
        ("changed", _code(json.dumps(said["change"], ensure_ascii=False))),
        ("published in its place", _code(said["published"]["revision"])),
    ]


def _ancestor(state: dict[str, Json]) -> str:
    """A state of another release, in one cell."""
    release = _code(f"{state['release']} {state['version']}")
    return f"{_code(state['model'])} at step {state['step']} of the release {release}, {_code(state['state_digest'])}"


def _superseded(notice: dict[str, Json]) -> str:
    """A release that has forgotten what this state has seen."""
    successor = _code(f"{notice['release']} {notice['version']}")
    return (
        f"\n\n**Superseded.** The release {successor} (SHA-256 of `release.json` {_code(notice['release_sha256'])}) "
        f"says that it has forgotten documents that this state has seen. Why: {_code(notice['why'])}"
    )


def _origin(about: dict[str, Json], release: str) -> str:
    """Where the bytes are from, and what they were compared with."""
    if "counterfactual" in about:
        return (
            f"**Not a checkpoint of any release.** `everystep whatif` repeated the end of a training of the release "
            f"{release} with one thing changed, to show what that changes; these weights came out."
        )
    if about.get("storage") == "virtual":
        return (
            f"From the release {release}, which stores step {about['nearest_stored_step']} and, of this step, the "
            "digest of its weights. `everystep` repeated the training from there, and compared every step with the "
            "log and the weights with their digest before it wrote this folder."
        )
    return f"From the release {release}, against which `everystep` checked every byte before it wrote this folder."


def _place(about: dict[str, Json]) -> str:
    """What names the folder for its reader: itself, or a repository of the Hub and a revision."""
    repository = about.get("repository")
    return f'{json.dumps(repository)}, revision="{about["revision"]}"' if repository else '"."'


def _metadata(about: dict[str, Json]) -> str:
    """What a hub asks for besides, of a folder that goes there: the data set of its rows, their languages, and
    the model that it was trained on from."""
    keys = {"datasets": about.get("datasets"), "language": about.get("languages")}
    keys |= base_model(about.get("base_model"))
    return "".join(f"{key}: {json.dumps(values)}\n" for key, values in keys.items() if values)


def _code(text: str) -> str:
    """A text as code, whatever it holds."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "&#124;") + "`"
