"""Train the tokenizer: a byte-level BPE on training documents only.

Its special tokens are the end of a text and, if `tokenize` asks for fill-in-the-middle, the three sentinels for it.

Reads `data/deduplicated`; writes `data/tokenizer/tokenizer.json` and `manifests/tokenizer.json`. The sample
is the first whole documents of the shuffle, up to `sample_bytes`, so every source has its share of it. The
first document is always taken: a sample is never empty.
"""

import os
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from pipeline.base.console import progress
from pipeline.base.files import fresh_folder, sha256_file, write_bytes
from pipeline.base.params import Positive, load_section
from pipeline.base.paths import DEDUPLICATED, TOKENIZER
from pipeline.base.yaml import Section
from pipeline.formats.current import read_current, take_basis, write_manifest
from pipeline.formats.documents import read_documents
from pipeline.formats.lines import check_shard
from pipeline.formats.manifests import Deduplicated, TokenizerTrained
from pipeline.formats.stages import manifest_path
from pipeline.formats.vocabulary import END_OF_TEXT, FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX, token_bytes
from pipeline.stages.tokenize.params import TokenizeParams


class TokenizerParams(Section):
    """Size of a byte-level BPE, and of the sample of shuffled documents that it is trained on."""

    vocabulary: Annotated[int, Field(gt=257)]
    sample_bytes: Positive


def tokenizer() -> None:
    """Train and write the tokenizer of the release."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    params = load_section(TokenizerParams, "tokenizer")
    basis = take_basis([manifest_path("dedup")], ["tokenizer", "tokenize"])
    filled = load_section(TokenizeParams, "tokenize").fill_in_the_middle
    fresh_folder(TOKENIZER.parent)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=params.vocabulary,
        special_tokens=[END_OF_TEXT, *((FILL_PREFIX, FILL_SUFFIX, FILL_MIDDLE) if filled else ())],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    manifest = read_current(Deduplicated)
    with progress("tokenizer: sample", min(params.sample_bytes, manifest.bytes), "bytes") as advance:

        def sample() -> Iterator[str]:
            taken = 0
            for shard in manifest.shards("train"):
                check_shard(DEDUPLICATED, shard)  # before its texts are used: the sample may end inside it
                for document in read_documents(DEDUPLICATED / shard.path):
                    size = len(document.text.encode())
                    if taken and taken + size > params.sample_bytes:
                        return
                    taken += size
                    advance(size)
                    yield document.text

        trained.train_from_iterator(sample(), trainer)
    write_bytes(TOKENIZER, trained.to_str(pretty=True).encode() + b"\n")
    write_manifest(
        TokenizerTrained,
        None,
        basis,
        parameters=params.model_dump(),
        outputs={},
        files=[{"path": TOKENIZER.name, "sha256": sha256_file(TOKENIZER)}],
        vocabulary=len(token_bytes(TOKENIZER)),
    )
