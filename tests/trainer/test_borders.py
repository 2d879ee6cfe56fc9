"""Attention within documents: a document computes what it computes alone, whatever else is in its row."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import load_yaml
from pipeline.cli.common import how_to_load
from pipeline.formats.canonical import pretty
from pipeline.formats.families import build_spec
from pipeline.formats.model import ModelSpec
from pipeline.formats.rows import DocumentIndex
from pipeline.formats.tasks import Prompt
from tests.pipeline.formats.test_rows import write_index
from tests.project import recipe, run
from tests.trainer.corpora import WIDTH, load, numbered, write_ours, write_plain, write_recipe
from tests.trainer.dispute.test_dispute import found_by, require_named
from tests.trainer.exports import read_spec, write_pulled
from tests.trainer.runs import make_run, result, train
from tests.trainer.test_model import SPECS, build
from tests.trainer.test_oracles import KIN, fill, llama_tensors, weights
from tests.trainer.test_oracles import LLAMA as OF_LLAMA
from tests.trainer.test_oracles import build as gain_one
from tests.trainer.tiny import KEYS, tiny_spec
from trainer.likelihoods import score_batch, texts_of
from trainer.matmul import use_portable
from trainer.model import SHORT_DOCUMENT, Cache, Decoder, document_lengths, dump_tensors, load_tensors
from trainer.sample import continuation

END = 3
CUT: dict[str, Any] = {"attention_within_documents": True, "end_token": END}
OF_EACH_KIND = {name: replace(spec, **CUT) for name, spec in SPECS.items()}
each_spec = pytest.mark.parametrize("spec", OF_EACH_KIND.values(), ids=OF_EACH_KIND.keys())
TWO = ("layers applied twice", "growing layers")
two_specs = pytest.mark.parametrize("spec", [OF_EACH_KIND[name] for name in TWO], ids=TWO)
ROWS = torch.from_numpy(np.random.default_rng(7).integers(0, 50, (3, 151)))
"""Documents of 50 tokens on average; none begins with its row."""
SHORT = torch.from_numpy(np.random.default_rng(7).integers(0, 10, (3, 151)))
"""Documents of 10, so many that they are attended to under a mask."""


@pytest.fixture(params=[False, True], ids=["native", "portable"])
def numerics(request: pytest.FixtureRequest) -> Iterator[None]:
    use_portable(request.param)
    yield
    use_portable(False)


def alone(row_T: torch.Tensor) -> list[torch.Tensor]:
    """The documents of a row, by the rule as it is written: each ends with its end token."""
    found: list[list[int]] = [[]]
    for token in row_T.tolist():
        found[-1].append(token)
        if token == END:
            found.append([])
    return [torch.tensor([document]) for document in found if document]


@pytest.mark.usefixtures("numerics")
@pytest.mark.parametrize("rows", [ROWS, SHORT], ids=["documents of 50", "documents of 10"])
@two_specs
def test_each_document_has_the_logits_that_it_has_alone_in_a_row(spec: ModelSpec, rows: torch.Tensor) -> None:
    model = build(spec)
    with torch.no_grad():
        found = model(rows)
        expected = torch.stack([torch.cat([model(one)[0] for one in alone(row)]) for row in rows])
        plain = build(replace(spec, attention_within_documents=False, end_token=None))(rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    assert (found - plain).abs().max() > 1


@pytest.mark.usefixtures("numerics")
@two_specs
def test_the_loss_of_a_row_is_the_mean_over_its_documents(spec: ModelSpec) -> None:
    """And its gradients are. A document's targets are its next tokens, and after its end the next document's first."""
    model, again = build(spec), build(spec)
    row = ROWS[:1]
    model.loss(row).backward()  # type: ignore[no-untyped-call]
    inputs = alone(row[0, :-1])
    starts = np.cumsum([0, *(len(one[0]) for one in inputs)])
    losses = [again.loss(row[:, start : stop + 1]) * (stop - start) / 150 for start, stop in pairwise(starts.tolist())]
    total = sum(losses)
    assert isinstance(total, torch.Tensor)
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(model.loss(row), total, rtol=1e-6, atol=1e-6)
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=lambda told, name=name: name + told)


@pytest.mark.parametrize("family", ["llama3", "smollm3"])
def test_logits_and_gradients_are_those_of_transformers_under_a_mask(family: str) -> None:
    """With the positions of the row, and with those that begin again in each document: only differences count."""
    more, kind, config = KIN[family]
    ours = gain_one(build_spec(OF_LLAMA | {"family": family, "tied_embedding": True} | more | CUT, "a test"))
    theirs = kind(config)
    fill(theirs, llama_tensors(ours.spec, weights(ours)))
    row = torch.from_numpy(np.random.default_rng(5).integers(0, 16, (2, 128)))
    ends = (row == END).long()
    document = ends.cumsum(1) - ends
    seen = (document[:, :, None] == document[:, None, :]).tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    restarting = seen.sum(-1) - 1
    with torch.no_grad():
        for more in ({}, {"position_ids": restarting}):
            expected = theirs.eval()(row, attention_mask=mask, **more).logits
            torch.testing.assert_close(ours(row), expected, rtol=1e-5, atol=2e-5)
    theirs.train()(row, attention_mask=mask, labels=row).loss.backward()
    ours.loss(row).backward()  # type: ignore[no-untyped-call]
    found = llama_tensors(ours.spec, {name: it.grad for name, it in ours.named_parameters() if it.grad is not None})
    for name, tensor in theirs.named_parameters():
        told = f"{name}: "
        torch.testing.assert_close(found[name], tensor.grad, rtol=1e-4, atol=1e-6, msg=lambda it, told=told: told + it)


@pytest.mark.parametrize("name", ["mobilellm", "openelm", "pythia"])
def test_what_the_card_says_gives_our_logits_in_transformers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(read_spec(name), attention_within_documents=True, end_token=0)
    model = gain_one(spec)
    write_pulled(model, tmp_path / name, tmp_path)
    monkeypatch.chdir(tmp_path / name)
    told: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.S):
        exec(example, told)
    assert (told["row"] == 0).sum() == 1
    with torch.no_grad():
        torch.testing.assert_close(told["logits"], model(told["row"]), rtol=1e-5, atol=5e-5)
        assert (told["model"](told["row"]).logits - told["logits"]).abs().max() > 0.01
    assert "README.md has the mask" in how_to_load(tmp_path / name)


@each_spec
def test_documents_one_by_one_and_under_a_mask_are_the_same_function(spec: ModelSpec) -> None:
    """A compiled model and a GPU have the mask."""
    one_by_one, masked = build(spec), build(spec)
    assert len(document_lengths(ROWS[:, :-1], END)) * SHORT_DOCUMENT < ROWS[:, :-1].numel()
    masked.is_compiled = True
    for model in (one_by_one, masked):
        model.loss(ROWS).backward()  # type: ignore[no-untyped-call]
    for (name, one), other in zip(one_by_one.named_parameters(), masked.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=lambda told, name=name: name + told)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_borders_by_the_end_token_are_those_of_the_document_index(lengths: list[int]) -> None:
    """Lengths are those of documents with their end token; the stream is cut into rows of 33 ids."""
    stream = np.concatenate([[5] * (length - 1) + [END] for length in lengths])
    num_rows = len(stream) // WIDTH
    rows = stream[: num_rows * WIDTH].reshape(num_rows, WIDTH)
    starts = np.cumsum([0, *lengths[:-1]])
    places = [
        {"first_row": int(start) // WIDTH, "offset": int(start) % WIDTH, "num_tokens": length}
        for start, length in zip(starts, lengths, strict=True)
    ]
    with TemporaryDirectory() as folder:
        write_index(Path(folder) / "train.parquet", places)
        index = DocumentIndex(Path(folder) / "train.parquet", WIDTH, num_rows)
        for number, row in enumerate(rows):
            spans = index.documents_of_row(number)
            of_inputs = [min(span.stop, WIDTH - 1) - span.start for span in spans if span.start < WIDTH - 1]
            assert document_lengths(torch.from_numpy(row[None, :-1]), END) == of_inputs


@pytest.mark.usefixtures("numerics")
@two_specs
def test_cached_decoding_gives_the_logits_of_the_full_forward(spec: ModelSpec) -> None:
    model, tokens = build(spec), ROWS[:, :-1]
    cache = Cache()
    with torch.no_grad():
        full = model(tokens)
        parts = [
            model(tokens[:, start:stop], cache)
            for start, stop in [(0, 5), (5, 6), (6, 140), *((t, t + 1) for t in range(140, 150))]
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=1e-5, atol=2e-5)


def test_what_follows_an_end_token_does_not_depend_on_what_was_before_it() -> None:
    """The first token of a document is written by what ended; from the second on only the document counts."""
    model = build(replace(SPECS["plain"], **CUT))

    def written(prompt: list[int]) -> list[np.ndarray[Any, Any]]:
        seen: list[np.ndarray[Any, Any]] = []

        def choose(logits: np.ndarray[Any, Any], position: int) -> int:
            seen.append(logits)
            return 11 + len(seen)

        tokens = continuation(model, prompt, 96, choose)
        for _ in range(4):
            next(tokens)
        return seen

    short, long = written([END]), written([8, 9, 7, END])
    assert np.abs(short[0] - long[0]).max() > 1
    for one, other in zip(short[1:], long[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


@pytest.mark.usefixtures("numerics")
def test_a_continuation_is_scored_as_its_row_is() -> None:
    """Also where the context holds an end token, and where the continuation does."""
    model = build(replace(SPECS["plain"], **CUT))
    items = [[Prompt([7, 8, END, 9], [10, 11, 12]), Prompt([7, 8, END, 9], [10, END, 5, 6])], [Prompt([END], [4, 5])]]
    for text in texts_of(items):
        for number, log_likelihood, _ in score_batch(model, [text]):
            prompt = [prompt for item in items for prompt in item][number]
            row = torch.tensor([[*prompt.context, *prompt.continuation]])
            expected = -float(model.losses(row)[0, len(prompt.context) - 1 :].sum())
            assert log_likelihood == pytest.approx(expected, rel=1e-5)


@two_specs
def test_computing_layers_again_in_backward_changes_no_bit(spec: ModelSpec) -> None:
    kept, again = build(spec), Decoder(spec, recompute=True)
    load_tensors(again, dump_tensors(kept))
    for model in (kept, again):
        model.loss(ROWS).backward()  # type: ignore[no-untyped-call]
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_forgotten_documents_leave_the_borders_of_the_others() -> None:
    """Their ids become end tokens, so each is a document of its own that nothing else sees."""
    model = build(replace(SPECS["plain"], **CUT))
    row = torch.tensor([[4, 5, END, 6, 7, 8, END, 9, 10, 11]])
    filled = row.clone()
    filled[0, 3:7] = END
    with torch.no_grad():
        found, expected = model(filled)[0], model(row)[0]
    assert document_lengths(filled, END) == [3, 1, 1, 1, 1, 3]
    torch.testing.assert_close(found[[0, 1, 2, 7, 8, 9]], expected[[0, 1, 2, 7, 8, 9]], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("family", KEYS)
def test_every_family_takes_the_two_keys(family: str) -> None:
    spec = tiny_spec(family, **CUT)
    assert (spec.attention_within_documents, spec.end_token) == (True, END)
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert replace(spec, attention_within_documents=False, end_token=None) == tiny_spec(family)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"attention_within_documents": True}, "end_token must be the id that ends each document, 0..319"),
        ({"attention_within_documents": True, "end_token": 320}, "end_token must be .* got 320"),
        ({"end_token": 0}, "read only where attention_within_documents is true; remove end_token: 0"),
    ],
)
def test_an_end_token_goes_with_the_cut(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(EverystepError, match=f"a test: model: .*{message}"):
        tiny_spec(**keys)


def test_another_end_token_than_the_tokenizers_is_refused(tmp_path: Path) -> None:
    write_ours(tmp_path, numbered(40))
    write_recipe(tmp_path, "everystep")
    cut(tmp_path / "recipes" / "everystep.yaml", 5)
    with pytest.raises(EverystepError, match=r"model\.end_token: 5 is declared; the tokenizer's is 0"):
        load(tmp_path, "everystep")


@pytest.mark.parametrize(("end", "warned"), [(7, False), (319, True)])
def test_published_rows_without_the_declared_end_are_told(
    tmp_path: Path, end: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plain(tmp_path / "data" / "llm360" / "train_000.jsonl", numbered(40))
    write_recipe(tmp_path, "llm360")
    cut(tmp_path / "recipes" / "llm360.yaml", end)
    load(tmp_path, "llm360")
    assert (f"no row of the first step has the id {end}" in capsys.readouterr().err) == warned


@pytest.mark.long
@pytest.mark.parametrize(("name", "compiled"), [("portable", False), ("native", False), ("native", True)])
def test_one_two_and_four_processes_train_and_replay_the_same(name: str, compiled: bool, tmp_path: Path) -> None:
    model = recipe("mobilellm")["model"] | {"attention_within_documents": True, "end_token": 0}
    about = {"numerics": name, "compiled": compiled, "model": model}
    one, *others = (make_run(tmp_path / str(processes), **about) for processes in (1, 2, 4))
    train(one)
    for processes, other in zip((2, 4), others, strict=True):
        train(other, processes)
        assert result(other) == result(one)
    done = run(tmp_path, "everystep", "replay", "1", "--model", "mobilellm", "--from", "4", "--to", "12", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("same: mobilellm, steps 4 to 12")
    plain = make_run(tmp_path / "plain", **about | {"model": recipe("mobilellm")["model"]})
    train(plain)
    assert (plain / "runs/mobilellm/log.csv").read_text() != (one / "runs/mobilellm/log.csv").read_text()


@pytest.mark.long
@pytest.mark.parametrize("ids", [60, 11], ids=["one by one", "under a mask"])
def test_the_operator_of_a_seeded_fault_is_named(ids: int, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write_ours(project, [[(7919 * (n + 1) * (i + 3)) % ids for i in range(WIDTH)] for n in range(60)])
    write_recipe(project, "everystep", global_batch=4)
    cut(project / "recipes" / "everystep.yaml", 0)
    require_named(found_by(tmp_path, range(1, 13)))


def cut(path: Path, end: int) -> None:
    tree = load_yaml(path)
    tree["model"] |= {"attention_within_documents": True, "end_token": end}
    path.write_bytes(pretty(tree))
