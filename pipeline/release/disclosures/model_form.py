"""The Model Documentation Form of the EU's Code of Practice for general-purpose AI, Transparency chapter (2025-07-10).

One form for the suite: where the models differ, an answer has a line for each.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.formats.manifests import Trained, path_of
from pipeline.release.disclosures.evidence import DesignFacts, Evidence
from pipeline.release.disclosures.pages import PREFACE
from pipeline.release.disclosures.sentences import cleaning, personal_data
from pipeline.release.disclosures.word import Word, mark, told
from pipeline.release.markdown import escaped
from pipeline.release.words import Disclosures

Answer = Any
Part = tuple[str, list[tuple[str, Answer]]]
SIZES = (
    *((500 * 10**6, "1 to 500 million"), (5 * 10**9, "500 million to 5 billion"), (15 * 10**9, "5 to 15 billion")),
    *((50 * 10**9, "15 to 50 billion"), (100 * 10**9, "50 to 100 billion"), (500 * 10**9, "100 to 500 billion")),
    *((10**12, "500 billion to 1 trillion"), (None, "over 1 trillion")),
)
"""Ranges of parameters of the form."""


def write_model_form(evidence: Evidence) -> bytes:
    """The form, filled from manifests and words."""
    release = evidence.release
    words, whose = release.disclosures or Disclosures(), release.publisher
    blocks = [
        "# Model Documentation Form",
        "of the Code of Practice for General-Purpose AI Models, Transparency chapter, Measure 1.1",
        PREFACE.format(mark=mark(whose)),
        f"Last update of this document: {told(Word(words.updated), whose)}. Version: {escaped(release.version)}.",
    ]
    for heading, answers in [
        *_identity(evidence, words),
        *_properties(evidence, words),
        *_distribution(evidence, words),
        *_training(evidence, words),
        *_data(evidence, words),
        *_resources(evidence, words),
    ]:
        blocks.append(f"## {heading}")
        blocks += [line for field, answer in answers for line in _told(field, answer, whose)]
    return ("\n\n".join(blocks) + "\n").encode()


def _told(field: str, answer: Answer, whose: str) -> Iterator[str]:
    if isinstance(answer, list):
        yield f"**{field}:**"
        yield "\n".join(f"- {told(one, whose)}" for one in answer)
    else:
        yield f"**{field}:** {told(answer, whose)}"


def _each(evidence: Evidence, said: Callable[[DesignFacts], str]) -> list[str]:
    return [f"{design.name}: {said(design)}" for design in evidence.designs]


def _identity(evidence: Evidence, words: Disclosures) -> list[Part]:
    release = evidence.release
    ancestors = [
        f"{state.release} {state.version} {state.model} at step {state.step:,}, state {state.state_digest}"
        for state in evidence.ancestors
    ]
    return [
        (
            "General information",
            [
                ("Legal name for the model provider", Word(release.publisher)),
                ("Contact", Word(words.contact)),
                ("Model name", [f"{release.name} {release.version} {design.name}" for design in evidence.designs]),
                (
                    "Model authenticity",
                    [
                        *_each(evidence, lambda design: f"weights of {design.last}: {design.weights_digest}"),
                        "Every file: SHA-256 of its content in release.json, of its bytes in SHA256SUMS.",
                    ],
                ),
                ("Release date", Word(words.published)),
                ("Union market release date", Word(words.union_market)),
                ("Model dependencies", ancestors or "N/A: every training began with randomly initialized weights."),
            ],
        )
    ]


def _properties(evidence: Evidence, words: Disclosures) -> list[Part]:
    sizes = {model.name: model.parameters for model in evidence.models}
    tokens = f"{evidence.context:,} tokens"
    return [
        (
            "Model properties",
            [
                ("Model architecture", _each(evidence, _architecture)),
                (
                    "Design specifications of the model",
                    _each(
                        evidence, lambda design: f"initialization, shapes and rates in {path_of(Trained, design.name)}"
                    ),
                ),
                ("Rationale of the design", Word(words.rationale)),
                ("Input modalities, maximum size", f"Text: {tokens}. Images, audio, video, other: none."),
                (
                    "Output modalities, maximum size",
                    f"Text: {tokens} with the input. Images, audio, video, other: none.",
                ),
                ("Total model size", _each(evidence, lambda design: f"{sizes[design.name]:,} parameters")),
                ("Range of the size", _each(evidence, lambda design: _range(sizes[design.name]))),
            ],
        )
    ]


def _architecture(design: DesignFacts) -> str:
    stored = "" if design.stored_layers == design.layers else f" ({design.stored_layers} stored)"
    heads, widths = _span(design.query_heads), _span(design.ffn_widths)
    return (
        f"decoder-only transformer, {design.layers} layers{stored}, width {design.width}, {heads} query heads a layer, "
        f"FFN {widths} wide with {' and '.join(design.activations)}, {' and '.join(design.norms)} norm, rotary "
        f"positions, embedding {'tied' if design.tied_embedding else 'not tied'} to the output"
    )


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"


def _range(parameters: int) -> str:
    return next(name for limit, name in SIZES if limit is None or parameters < limit)


def _distribution(evidence: Evidence, words: Disclosures) -> list[Part]:
    license = evidence.release.license
    data = ", ".join(row.license for row in evidence.licenses)
    return [
        (
            "Methods of distribution and licenses",
            [
                ("Distribution channels", Word(words.distribution)),
                ("License of the models", Word(f"{license}; its text is LICENSE")),
                (
                    "Assets, access and licenses",
                    [
                        Word(f"Training data as rows of token ids: data/tokens in the release; {data}; NOTICE"),
                        "Code of data, training and evaluation: listed by digest in manifests/code.json; Apache-2.0",
                        f"Checkpoints: {sum(len(model.checkpoints) for model in evidence.models)} stored in runs/",
                    ],
                ),
            ],
        ),
        (
            "Use",
            [
                ("Acceptable Use Policy", Word(words.policy)),
                ("Intended or restricted uses", Word(words.uses)),
                ("Known limits", Word(evidence.release.limits)),
                ("Type and nature of AI systems in which the model can be integrated", Word(words.integration)),
                (
                    "Technical means for model integration",
                    "everystep pull writes a checkpoint for transformers, everystep export gguf one for llama.cpp.",
                ),
                ("Required hardware", "None in particular: a processor that torch runs on."),
                ("Required software", f"Python 3.11 or newer; versions in constraints.txt; {_torches(evidence)}"),
            ],
        ),
    ]


def _torches(evidence: Evidence) -> str:
    return f"torch {', '.join(sorted({design.torch for design in evidence.designs}))}"


def _training(evidence: Evidence, words: Disclosures) -> list[Part]:
    batches = {model.name: model.global_batch for model in evidence.models}
    tokens = {model.name: model.tokens for model in evidence.models}
    return [
        (
            "Training process",
            [
                (
                    "Design specifications of the training process",
                    _each(
                        evidence,
                        lambda design: (
                            f"next-token prediction, one stage, {design.steps:,} steps of {batches[design.name]} rows "
                            f"({tokens[design.name]:,} tokens), AdamW with {_settings(design)}, rate {design.schedule} "
                            f"with peak {design.peak:g}, computed in {design.dtype}"
                        ),
                    ),
                ),
                ("Decision rationale", Word(words.rationale)),
            ],
        )
    ]


def _settings(design: DesignFacts) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(design.optimizer.items()))


def _data(evidence: Evidence, words: Disclosures) -> list[Part]:
    origins = [
        ("Web crawling", words.crawled),
        ("Private non-publicly available datasets from third parties", words.private),
        ("Commercially licensed datasets", words.licensed),
        ("User data", words.prompts if words.prompts is not False else words.services),
        ("Non-public synthetic data", words.synthetic),
        ("Other means", words.other),
    ]
    return [
        (
            "Information on the data used for training, testing, and validation",
            [
                ("Data type/modality", "Text"),
                ("Data provenance: publicly available datasets", "Yes"),
                *((f"Data provenance: {name[0].lower()}{name[1:]}", Word(answer)) for name, answer in origins),
                (
                    "How data was obtained and selected",
                    [
                        *(f"{one.source}: {one.identifier}, fetched from {one.link}" for one in evidence.artefacts),
                        "Selection is in disclosures/training-content.md, section 2.1.",
                    ],
                ),
                ("Number of data points", f"Training {evidence.documents:,} documents, {evidence.tokens:,} tokens, "
                 f"{evidence.bytes:,} bytes; held out {evidence.held_out:,} documents"),
                ("Scope and main characteristics", Word(words.content)),
                ("Characteristics by nation, region or group", Word(words.characteristics)),
                ("Data curation methodologies", cleaning(evidence)),
                ("Personal data", personal_data(evidence)),
                ("Measures to detect unsuitability of data sources", Word(words.unsuitable_data)),
                ("Measures against illegal content", Word(words.illegal_content)),
                ("Measures to detect identifiable biases", Word(words.biases)),
            ],
        )
    ]  # fmt: skip


def _resources(evidence: Evidence, words: Disclosures) -> list[Part]:
    method = (
        "counted from the shapes: two operations for each weight of a matrix product, four for each pair of position "
        "and query dimension at full context (Chowdhery et al. 2022, appendix B)"
    )
    return [
        (
            "Computational resources (during training)",
            [
                ("Training time", Word(words.training_time)),
                (
                    "Amount of computation used for training",
                    _each(evidence, lambda design: f"{design.training_flops:.2e} FLOP"),
                ),
                ("Measurement methodology", f"{method}, three times for forward and backward, times the tokens."),
            ],
        ),
        (
            "Energy consumption (during training and inference)",
            [
                ("Amount of energy used for training", Word(words.energy)),
                (
                    "Amount of computation used for inference",
                    _each(evidence, lambda design: f"{design.inference_flops:.2e} FLOP a token"),
                ),
                ("Measurement methodology", f"{method}."),
                ("Benchmark of inference", Word(words.inference)),
            ],
        ),
    ]
