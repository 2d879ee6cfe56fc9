from pipeline.base.errors import Differs, EverystepError


def test_bad_input_ends_with_2_and_other_bytes_than_promised_with_1() -> None:
    assert EverystepError("x").exit_code == 2
    assert Differs("x").exit_code == 1
    assert issubclass(Differs, EverystepError)
