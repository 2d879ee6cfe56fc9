"""The data of a release as Croissant 1.1, with the terms for responsible AI and where the data were derived from.

`croissant.json` is at the root of the release, so its paths are those of the release and `mlcroissant` compares the
SHA-256 of each file that it reads. It reads the tables: documents, removals, replaced personal data, checkpoints. Rows
are listed with their digests and have no record set, because mlcroissant 1.1.1 does not unpack zstd.
"""

from typing import Any

import pyarrow as pa

from pipeline.formats.canonical import pretty
from pipeline.formats.release import REVISIONS
from pipeline.formats.tables import DOCUMENT_INDEX, REMOVALS, REPLACED
from pipeline.release.disclosures.evidence import ArtefactFacts, Evidence, TableFacts
from pipeline.release.disclosures.sentences import cleaning, personal_data
from pipeline.release.disclosures.word import NOT_DECLARED
from pipeline.release.markdown import percent
from pipeline.release.words import Disclosures

Tree = dict[str, Any]
VERSION = "http://mlcommons.org/croissant/1.1"
TERMS = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator"),
    *("source", "subField", "transform"),
)
CONTEXT: Tree = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in TERMS},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
"""The context of the specification, with the namespaces of RAI and PROV-O."""
FORMATS = {".parquet": "application/x-parquet", ".zst": "application/zstd", ".jsonl": "application/jsonlines"}
CHECKPOINTS = ("model", "revision", "step", "tokens", "weights_digest", "state_digest")
NUMBERS = ("step", "tokens")


def write_croissant(evidence: Evidence) -> bytes:
    """The description of rows, documents, removals and checkpoints."""
    release = evidence.release
    words = release.disclosures or Disclosures()
    tree = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": release.name,
        "version": release.version,
        "conformsTo": VERSION,
        "description": f"{_word(release.title, evidence)}. {_description(evidence)}",
        "license": sorted({_address(row.license) for row in evidence.licenses}),
        "url": words.address or "./",
        "creator": {"@type": "sc:Organization", "name": release.publisher},
        "publisher": {"@type": "sc:Organization", "name": release.publisher},
        "inLanguage": evidence.languages,
        "isLiveDataset": False,
        "citeAs": f"{release.publisher}. {release.name} {release.version}. {evidence.swhid}",
        **({"datePublished": words.published} if words.published else {}),
        **_responsible(evidence, words),
        **_provenance(evidence),
        "distribution": [*map(_file, evidence.tables), *(_set(name, evidence) for name in ("removals", "replaced"))],
        "recordSet": _records(),
    }
    return pretty(tree)


def _description(evidence: Evidence) -> str:
    return (
        f"{evidence.documents:,} training documents as {evidence.rows.train:,} rows of {evidence.context + 1} token "
        f"ids ({evidence.tokens:,} tokens), {evidence.held_out:,} documents held out, with the document index, the "
        f"order of training and every removal. The models read {evidence.rows.read:,} rows. Sentences that end with "
        f"'(word of {evidence.release.publisher})', titles, licences, dates and addresses are declared; everything "
        "else is computed from the manifests, and rendered again by `everystep verify`."
    )


def _word(value: str | bool | None, evidence: Evidence) -> str:
    """A sentence that is not computed, with the name of who said it."""
    if value is None:
        return NOT_DECLARED
    said = {True: "Yes", False: "No"}[value] if isinstance(value, bool) else " ".join(value.split())
    return f"{said} (word of {evidence.release.publisher})"


def _address(license: str) -> str:
    """Where SPDX keeps a licence; an expression of several, or a name of our own, is written as it is."""
    is_one = " " not in license and not license.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{license}.html" if is_one else license


def _responsible(evidence: Evidence, words: Disclosures) -> Tree:
    """The terms of Croissant RAI: counts where there are some, else words."""
    removed = [
        f"{stage} removed {number:,} documents for {reason}"
        for stage, reasons in evidence.removed.items()
        for reason, number in reasons.items()
    ]
    sources = [
        f"{source.name}: {source.documents:,} documents, {percent(source.tokens / evidence.tokens)} of the tokens"
        for source in evidence.sources
    ]
    return {
        "rai:dataCollection": (
            f"{len(evidence.artefacts)} published artefacts were fetched, each pinned by the SHA-256 of its bytes; "
            f"their documents are {'; '.join(sources)}."
        ),
        "rai:dataCollectionType": ["Secondary Data Analysis"],
        "rai:dataCollectionRawData": "; ".join(
            f"{artefact.source}: {artefact.identifier}, {artefact.link}, SHA-256 {file.sha256}"
            for artefact in evidence.artefacts
            for file in artefact.files
        ),
        "rai:dataCollectionMissingData": "; ".join(removed) + "." if removed else "No document was removed.",
        "rai:dataPreprocessingProtocol": [cleaning(evidence)],
        "rai:dataManipulationProtocol": (
            f"Texts are encoded by a byte-level BPE of {evidence.vocabulary:,} tokens and cut into rows of "
            f"{evidence.context + 1} ids. No training document shares a passage with the evaluation sets "
            f"{', '.join(evidence.evaluation_sets)}, as far as the step contamination compares them."
        ),
        "rai:personalSensitiveInformation": [personal_data(evidence), _word(words.personal_information, evidence)],
        "rai:dataBiases": [_word(words.biases, evidence), _word(words.characteristics, evidence)],
        "rai:dataLimitations": [_word(evidence.release.limits, evidence)],
        "rai:dataUseCases": [_word(words.purpose, evidence)],
        "rai:dataReleaseMaintenancePlan": _word(words.versions, evidence),
    }


def _provenance(evidence: Evidence) -> Tree:
    """PROV-O: the artefacts, the build and who answers for it."""
    return {
        "prov:wasDerivedFrom": [_entity(artefact) for artefact in evidence.artefacts],
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"dvc repro, with the code {evidence.swhid}; every stage has a manifest in manifests/",
        },
        "prov:wasAttributedTo": {"@type": "prov:Agent", "prov:label": evidence.release.publisher},
    }


def _entity(artefact: ArtefactFacts) -> Tree:
    digests = ", ".join(file.sha256 for file in artefact.files)
    return {
        "@type": "prov:Entity",
        "@id": artefact.link,
        "prov:label": f"{artefact.source}: {artefact.identifier}, SHA-256 {digests}",
    }


def _file(table: TableFacts) -> Tree:
    suffix = table.path[table.path.rindex(".") :]
    records = "" if table.records is None else f", {table.records:,} records"
    return {
        "@type": "cr:FileObject",
        "@id": table.path,
        "name": table.path,
        "description": f"{table.path}{records}",
        "contentUrl": table.path,
        "encodingFormat": FORMATS.get(suffix, "application/json"),
        "sha256": table.sha256,
    }


def _set(name: str, evidence: Evidence) -> Tree:
    """The tables of one kind, of several stages or sources."""
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": f"The tables {name}.parquet of all stages and sources.",
        "encodingFormat": FORMATS[".parquet"],
        "includes": [table.path for table in evidence.tables if table.path.endswith(f"/{name}.parquet")],
    }


def _records() -> list[Tree]:
    """What mlcroissant reads, a record for each row of a table."""
    return [
        _table(
            "documents", "Training documents in the order of the rows.", "data/tokens/train.parquet", DOCUMENT_INDEX
        ),
        _table("held_out", "Documents that are held out.", "data/tokens/validation.parquet", DOCUMENT_INDEX),
        _table("removed", "Documents that a stage removed, each with its reason.", "removals", REMOVALS, "fileSet"),
        _table("personal_data", "Replaced personal data by document and kind.", "replaced", REPLACED, "fileSet"),
        _record_set(
            "checkpoints",
            "Stored checkpoints with the digests of their weights and states.",
            [
                _field("checkpoints", name, "sc:Integer" if name in NUMBERS else "sc:Text", "fileObject", REVISIONS)
                for name in CHECKPOINTS
            ],
        ),
    ]


def _table(name: str, what: str, source: str, schema: pa.Schema, kind: str = "fileObject") -> Tree:
    return _record_set(name, what, [_field(name, column.name, _type(column), kind, source) for column in schema])


def _type(column: pa.Field) -> str:
    if pa.types.is_integer(column.type):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(column.type) else "sc:Text"


def _record_set(name: str, what: str, fields: list[Tree]) -> Tree:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": what, "field": fields}


def _field(record_set: str, name: str, kind: str, source_kind: str, source: str) -> Tree:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": f"Column {name}.",
        "dataType": kind,
        "source": {source_kind: {"@id": source}, "extract": {"column": name}},
    }
