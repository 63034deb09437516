import dataclasses
import enum

from riffusion_train.config.compose import config_keys, is_text
from riffusion_train.config.reference import key_rows


class Kind(enum.Enum):
    """What it is."""

    one = "one"
    """The first."""


@dataclasses.dataclass
class Base:
    """Keys that several commands share."""

    seed: int = 0
    """The seed."""
    title: str = "a"
    """The title of the base."""


@dataclasses.dataclass
class Root(Base):
    """The keys of one command."""

    title: str = "b"
    """The title."""
    kind: Kind = Kind.one
    """The kind."""


def test_the_keys_of_a_base_class_are_documented_after_its_own_and_may_be_overridden():
    assert key_rows(Root) == [
        ("title", "b", "The title."), ("kind", "one", "The kind. `one`: The first"), ("seed", "0", "The seed."),
    ]  # fmt: skip


def test_the_keys_of_a_base_class_are_keys_of_the_command():
    assert list(config_keys(Root)) == ["seed", "title", "kind"]
    assert is_text(Root, "title")
    assert not is_text(Root, "seed")
