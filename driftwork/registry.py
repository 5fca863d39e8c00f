"""Registries of choices that a config makes by `name`: a config class for each choice, and its constructor.

A registry replaces a union of config classes that is discriminated by `name`, and unlike a union it can grow:
`Annotated[Named, REGISTRY]` is validated by the choices that exist when a config is read.
"""

from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from driftwork.config_base import Config
from driftwork.errors import DriftworkError

MadeT = TypeVar("MadeT")
ConfigT = TypeVar("ConfigT", bound="Named")


class Named(Config):
    """A config that is chosen by its name."""

    name: str
    """Name of the choice, which determines the other settings."""


class Registry(Generic[MadeT]):
    """The choices of one field, by name.

    Args:
        what: name of the choice for errors, as in "data set".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.makers: dict[str, Callable[..., MadeT]] = {}
        """Constructor of each choice by name; its first argument is the config."""
        self._configs: dict[str, type[Named]] = {}
        self._adapter: TypeAdapter[Any] | None = None

    def add(self, config: type[ConfigT], make: Callable[..., MadeT]) -> None:
        """Add a choice, which `make(config, ...)` constructs.

        Args:
            config: class of its config, whose field `name` is a `Literal` of one name or several.

        Raises:
            DriftworkError: `config` has no such name, or the name is taken.
        """
        annotation = config.model_fields["name"].annotation
        if get_origin(annotation) is not Literal:
            raise DriftworkError(f'{config.__name__}.name must be a Literal, as in name: Literal["mine"] = "mine"')
        for name in get_args(annotation):
            other = self._configs.get(name)
            if other is not None and source_of(other) != source_of(config):
                raise DriftworkError(
                    f"{self.what} '{name}' exists already, from {source_of(other)}; choose another name"
                )
            self._configs[name], self.makers[name] = config, make
        self._adapter = None

    def make(self, config: Named, *arguments: Any) -> MadeT:
        """Construct the choice that `config` describes."""
        return self.makers[config.name](config, *arguments)

    @property
    def configs(self) -> tuple[type[Named], ...]:
        """Return the config class of each choice."""
        return tuple(dict.fromkeys(self._configs.values()))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validated)

    def _validated(self, value: Any) -> Any:
        """Validate `value` as a union of all choices; errors are reported like those of any other field."""
        if self._adapter is None:
            choices: Any = Union[self.configs]  # noqa: UP007  # of classes that are known only now
            self._adapter = TypeAdapter(Annotated[choices, Field(discriminator="name")])
        return self._adapter.validate_python(value)


def source_of(thing: Any) -> str:
    """Return the full name of a class or function, which identifies it and stays the same if its module is imported
    again."""
    return f"{thing.__module__}.{thing.__qualname__}"
