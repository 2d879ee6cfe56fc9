"""What `make reproduce` compares: every difference is named by stage and key."""

from pipeline.reproduce import compare

LOCK = {"train@a": {"cmd": "train a", "outs": [{"path": "runs/a", "md5": "1", "size": 3}]}}


def state(lock: object, **manifests: bytes) -> dict[str, object]:
    return {"dvc.lock": lock} | manifests


def test_equal_states_have_no_difference_whatever_the_order_of_stages() -> None:
    forward, backward = {"a": {"cmd": "1"}, "b": {"cmd": "2"}}, {"b": {"cmd": "2"}, "a": {"cmd": "1"}}
    assert list(compare(state(forward, m=b"x"), state(backward, m=b"x"))) == []


def test_difference_in_the_lock_names_stage_path_and_key() -> None:
    other = {"train@a": {"cmd": "train a", "outs": [{"path": "runs/a", "md5": "2", "size": 3}]}}
    (line,) = compare(state(LOCK), state(other))
    assert line == "dvc.lock: train@a: outs: runs/a: md5: committed '1', rebuilt '2'"


def test_missing_extra_and_changed_manifests_are_named() -> None:
    lines = list(compare(state(LOCK, a=b"1", b=b"1"), state(LOCK, b=b"2", c=b"1")))
    assert lines == ["a: only committed", "b: its bytes differ", "c: only rebuilt"]


def test_causes_stand_before_their_effects() -> None:
    old = {name: {"cmd": "1"} for name in ("dedup", "train@a", "fetch@z", "evaluate@a")}
    new = {name: {"cmd": "2"} for name in old}
    stages = [line.split(": ")[1] for line in compare(state(old), state(new))]
    assert stages == ["fetch@z", "dedup", "train@a", "evaluate@a"]
