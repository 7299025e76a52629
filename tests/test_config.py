"""Settings come from YAML, options and -o overrides, and refuse what they do not know."""

import pytest

from eokit.config import Settings, load_settings
from eokit.errors import UsageError


class Inner(Settings):
    lr: float = 0.1


class Outer(Settings):
    steps: int = 5
    optim: Inner = Inner()


def test_overrides_win_over_options_and_options_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 1\noptim:\n  lr: 0.5\n")
    assert load_settings(Outer, file).steps == 1
    assert load_settings(Outer, file, given={"steps": 2}).steps == 2
    assert load_settings(Outer, file, ["steps=3", "optim.lr=1e-3"], {"steps": 2}) == Outer(
        steps=3, optim=Inner(lr=1e-3)
    )


def test_options_not_given_leave_the_file_alone(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 1\n")
    assert load_settings(Outer, file, given={"steps": None}).steps == 1


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.rate=1", "known keys: lr"),
        ("stepz=1", "known keys: steps, optim"),
        ("steps=many", "many"),
        ("steps", "key=value"),
        ("steps.x=1", "steps"),
        ("steps=[", r"-o 'steps=\[': its value is no YAML"),
        ("steps=2020-99-99", "its value is no YAML .month must be in 1..12"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(override, told):
    with pytest.raises(UsageError, match=told) as caught:
        load_settings(Outer, overrides=[override], given={"steps": 1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [1\n", "name: caf\xe9\n".encode("latin-1"), b"day: 2020-99-99\n", b"\x00"])
def test_a_file_that_is_not_yaml_is_named(tmp_path, content):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"run\.yaml"):
        load_settings(Outer, file)


@pytest.mark.parametrize("value", ["q", 1.5, True])
def test_a_model_value_of_the_wrong_type_is_told(value):
    from eokit.models.registry import build_encoder

    with pytest.raises(UsageError, match="depth") as caught:
        build_encoder("cropsts", "tiny", {"depth": value})
    assert repr(value) in str(caught.value)
