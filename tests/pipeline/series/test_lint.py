"""Series of others, in the shapes of what was wrong with them, on a hub of this machine."""

import json
import subprocess
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.series.findings import Finding
from pipeline.series.lint import Linted, lint
from tests.pipeline.series import published
from tests.pipeline.series.published import PYTHIA, Branches
from tests.releases import everystep
from tests.servers.hub import OWNER, Hub, Manners

NAME = f"{OWNER}/pythia"
ADDRESS = f"hf://{NAME}"


def linted(hub: Hub, branches: Branches) -> Linted:
    hub.put_branches("models", NAME, branches)
    return lint(ADDRESS)


def kinds(found: Linted) -> list[str]:
    return [finding.kind for finding in found.findings]


def of_kind(found: Linted, kind: str) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.kind == kind]
    return finding


def test_exactly_the_86_of_154_branches_of_pythia_205_are_named(hub: Hub) -> None:
    found = linted(hub, published.issue_205())
    assert kinds(found) == ["same as main", "same weights"]
    assert list(found.findings[0].steps) == sorted(published.ISSUE_205_MAIN)
    assert list(found.findings[1].steps) == sorted(published.ISSUE_205_SECOND)
    assert (len(found.findings[0].revisions), len(found.findings[1].revisions), len(found.named)) == (76, 10, 86)
    blobs = hub.repositories["models", NAME].at("main").files["model.safetensors"].sha256
    assert found.findings[0].evidence[0].digest == f"sha256:{blobs}"


def test_154_revisions_move_less_than_a_megabyte_in_one_request_a_revision(hub: Hub) -> None:
    for branches in (published.clean(), published.issue_205()):
        hub.put_branches("models", NAME, branches)
        hub.counted.clear()
        lint(ADDRESS)
        assert hub.counted.sent() < 1_000_000
        assert hub.counted.by_kind()["tree"] == 155
        assert len(hub.counted.of()) < 165


def test_nothing_is_found_on_a_clean_series(hub: Hub) -> None:
    assert linted(hub, published.clean()).findings == ()
    assert linted(hub, published.sharded(PYTHIA[:30])).findings == ()


def test_two_branches_with_the_first_shard_of_the_last_step_are_named(hub: Hub) -> None:
    """pythia#206."""
    found = linted(hub, published.issue_206())
    assert kinds(found) == ["shared shard"]
    assert found.named == ("step50000", "step58000")
    (evidence,) = found.findings[0].evidence
    assert evidence.path == "pytorch_model-00001-of-00003.bin"
    assert set(evidence.revisions) == {"main", "step50000", "step58000", "step143000"}


def test_three_missing_checkpoints_are_named_whether_branch_or_weights_are_missing(hub: Hub) -> None:
    """pythia#202."""
    missing = (40_000, 88_000, 111_000)
    found = linted(hub, published.clean([step for step in PYTHIA if step not in missing]))
    assert kinds(found) == ["missing step"] and found.findings[0].steps == missing
    branches = published.clean()
    for step in missing:
        del branches[f"step{step}"]["model.safetensors"]
    found = linted(hub, branches)
    assert kinds(found) == ["missing file"] and found.findings[0].steps == missing
    assert "lacks model.safetensors" in found.findings[0].what


def test_first_steps_without_an_update_between_them_are_named(hub: Hub) -> None:
    """pythia#198: of all models, steps 0, 1 and 2."""
    branches = published.clean(PYTHIA[:30])
    for step in (1, 2):
        branches[f"step{step}"] = dict(branches["step0"])
    found = linted(hub, branches)
    assert kinds(found) == ["no update"] and found.named == ("step0", "step1", "step2")


def test_first_steps_whose_records_say_that_nothing_was_applied_are_as_they_should_be(hub: Hub) -> None:
    branches = published.clean(PYTHIA[:12])
    for step in (0, 1, 2):
        branches[f"step{step}"] = {**branches["step0"], "record.json": b'{"applied_updates": 0}'}
    for step in PYTHIA[3:12]:
        branches[f"step{step}"]["record.json"] = b'{"applied_updates": %d}' % step
    assert linted(hub, branches).findings == ()
    branches["step2"]["record.json"] = b'{"applied_updates": 1}'
    assert kinds(linted(hub, branches)) == ["no update"]


def test_a_step_that_serves_another_steps_weights_is_named_with_it(hub: Hub) -> None:
    """OLMo#915."""
    branches = published.clean(PYTHIA[:30])
    branches["step7000"]["model.safetensors"] = branches["step9000"]["model.safetensors"]
    branches["step3000"]["model.safetensors"] = branches["main"]["model.safetensors"]
    found = linted(hub, branches)
    assert of_kind(found, "same as main").revisions == ("step3000",)
    assert of_kind(found, "same weights").revisions == ("step7000", "step9000")


def test_missing_shards_are_found_by_their_names_and_by_the_list_of_shards(hub: Hub) -> None:
    branches = published.sharded(PYTHIA[:20])
    del branches["step4"]["pytorch_model-00002-of-00003.bin"]
    index = {"weight_map": {"a": "pytorch_model-00001-of-00003.bin", "b": "extra.bin"}}
    branches["step8"]["pytorch_model.bin.index.json"] = json.dumps(index).encode()
    found = linted(hub, branches)
    assert [(finding.kind, finding.revisions) for finding in found.findings] == [
        ("missing file", ("step4",)),
        ("missing file", ("step8",)),
    ]
    assert "extra.bin" in found.findings[1].what


def test_configs_and_tokenizers_that_change_along_the_series_are_named_with_the_keys(hub: Hub) -> None:
    branches = published.clean(PYTHIA[:30])
    config = json.loads(published.CONFIG)
    branches["step4"]["config.json"] = json.dumps(config | {"num_hidden_layers": 40}).encode()
    branches["step8"]["config.json"] = json.dumps(config | {"transformers_version": "5.0.0"}).encode()
    branches["step16"]["tokenizer.json"] = b'{"model": {"type": "Unigram"}}'
    branches["step32"]["tokenizer_config.json"] = b'{"tokenizer_class": "LlamaTokenizer"}'
    found = linted(hub, branches)
    said = {finding.kind: finding for finding in found.findings if finding.revisions != ("step32",)}
    assert said["config"].revisions == ("step4",)
    assert "num_hidden_layers is 40, in 30 others 32" in said["config"].what
    assert said["tokenizer"].revisions == ("step16",)
    assert set(found.named) == {"step4", "step16", "step32"}


def test_a_label_that_differs_in_every_config_is_no_finding(hub: Hub) -> None:
    """Amber's configs name their checkpoint."""
    branches = published.clean(PYTHIA[:30])
    for name, files in branches.items():
        files["config.json"] = json.dumps(json.loads(published.CONFIG) | {"revision": name}).encode()
    assert linted(hub, branches).findings == ()


def test_dtypes_and_shapes_that_change_are_named_from_a_header_of_each_size(hub: Hub) -> None:
    branches = published.clean(PYTHIA[:40])
    branches["step4"]["model.safetensors"] = published.weights(4, dtype="BF16")
    branches["step8"]["model.safetensors"] = published.weights(8, layers=31)
    hub.put_branches("models", NAME, branches)
    found = lint(ADDRESS)
    assert [finding.revisions for finding in found.findings if finding.kind == "tensors"] == [("step4",), ("step8",)]
    assert "embed_out.weight is BF16 [2, 2], in most revisions F16 [2, 2]" in found.findings[0].what
    assert hub.counted.by_kind()["download"] == 6


def test_a_private_part_is_said_and_the_rest_is_looked_at(hub: Hub, manners: Manners) -> None:
    branches = published.clean(PYTHIA[:40])
    branches["step7000"]["model.safetensors"] = branches["step9000"]["model.safetensors"]
    hub.put_branches("models", NAME, branches)
    commits = hub.repositories["models", NAME].branches
    manners.busy = {f"tree/{commits['step4']}": [403] * 9, f"tree/{commits['step8']}": [404] * 9}
    found = lint(ADDRESS)
    assert of_kind(found, "not readable").revisions == ("step4",)
    assert of_kind(found, "dead link").revisions == ("step8",)
    assert of_kind(found, "same weights").revisions == ("step7000", "step9000")
    assert "HF_TOKEN" in of_kind(found, "not readable").what


def test_what_could_not_be_read_is_not_cleared(hub: Hub, manners: Manners) -> None:
    hub.put_branches("models", NAME, published.clean(PYTHIA[:40]))
    manners.busy = {f"tree/{hub.repositories['models', NAME].branches['step4']}": [403] * 9}
    done = everystep("lint", ADDRESS)
    assert done.code == 1
    assert "1 name not read" in done.out


def test_a_repository_that_is_private_or_absent_is_one_error(hub: Hub) -> None:
    hub.put_branches("models", NAME, published.clean([0, 1]))
    hub.repositories["models", NAME].is_private = True
    for address in (ADDRESS, f"hf://{OWNER}/nothing"):
        with pytest.raises(EverystepError, match="private, gated or not there"):
            lint(address)


def test_weights_that_are_listed_and_answer_404_are_a_dead_link(hub: Hub) -> None:
    hub.put_branches("models", NAME, published.clean(PYTHIA[:20]))
    for commit in hub.repositories["models", NAME].commits.values():
        hub.store.object(commit.files["model.safetensors"].sha256).unlink(missing_ok=True)
    found = lint(ADDRESS)
    assert kinds(found) == ["dead link"]


def test_with_links_every_file_of_weights_is_asked_for_a_byte(hub: Hub) -> None:
    hub.put_branches("models", NAME, published.clean(PYTHIA[:20]))
    repository = hub.repositories["models", NAME]
    gone = repository.at("step512").files["model.safetensors"].sha256
    hub.store.object(gone).unlink()
    assert lint(ADDRESS).findings == ()
    hub.counted.clear()
    (finding,) = lint(ADDRESS, links=True).findings
    assert (finding.kind, finding.revisions) == ("dead link", ("step512/model.safetensors",))
    assert hub.counted.sent("download") < 100_000


def test_a_busy_hub_is_asked_again(hub: Hub, manners: Manners) -> None:
    manners.every = 5
    assert linted(hub, published.clean(PYTHIA[:30])).findings == ()


def test_revisions_of_several_stages_are_several_series(hub: Hub) -> None:
    """OLMo's names; two branches of one stage count less tokens than the one before."""
    branches: Branches = {"main": dict(published.SMALL)}
    for number, (stage, step, tokens) in enumerate(
        [("stage1", 1000, "5B"), ("stage1", 2000, "9B"), ("stage1", 3000, "8B"), ("stage2-ingredient1", 1000, "5B")]
    ):
        branches[f"{stage}-step{step}-tokens{tokens}"] = {
            **published.SMALL,
            "model.safetensors": published.weights(number),
        }
    branches["main"]["model.safetensors"] = published.weights(99)
    found = linted(hub, branches)
    titles = [series.title for series in found.collection.series]
    assert titles == ["stage1-step#-tokens#", "stage2-ingredient1-step#-tokens#"]
    assert of_kind(found, "order").revisions == ("stage1-step2000-tokens9B", "stage1-step3000-tokens8B")


def test_the_command_prints_a_table_json_or_a_report_whose_commands_show_the_digest(hub: Hub) -> None:
    hub.put_branches("models", NAME, published.issue_205())
    table, as_json, report = (everystep("lint", ADDRESS, *more) for more in ([], ["--json"], ["--report"]))
    assert (table.code, as_json.code, report.code) == (1, 1, 1)
    assert table.out.startswith(f"{ADDRESS}: 2 findings: 86 of 154 checkpoints named\n")
    said: Any = json.loads(as_json.out)
    assert len(said["named"]) == 86 and len(said["findings"][0]["revisions"]) == 76
    commands = [line for line in report.out.splitlines() if line.startswith("curl ")]
    assert len(commands) == 7
    shown = {subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout for line in commands[:4]}
    (pointer,) = shown
    assert said["findings"][0]["evidence"][0]["digest"] in pointer


def test_misuse_is_exit_code_2(hub: Hub) -> None:
    assert everystep("lint", "--json", "--report", ADDRESS).code == 2
    assert everystep("lint", "hf://nobody").code == 2
    hub.put_branches("models", NAME, {"main": dict(published.SMALL)})
    done = everystep("lint", ADDRESS)
    assert done.code == 2 and "no checkpoint there" in done.err
