"""The section `tokenize` of `params.yaml`."""

from pipeline.base.params import Positive, Seed, Share
from pipeline.base.yaml import Section


class FillInTheMiddle(Section):
    """Share of training documents whose middle is moved to their end, and share of these with the suffix first."""

    share: Share
    suffix_first_share: Share


class TokenizeParams(Section):
    """Rows of `context + 1` ids; the seed of the order in which training reads them; how many documents of each source
    and split are compared with the reference, beside the longest."""

    context: Positive
    seed: Seed
    checked_documents: Positive
    fill_in_the_middle: FillInTheMiddle | None = None
