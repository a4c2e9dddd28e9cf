"""Pure: objects whose attributes are given once.

Frozen dataclasses compile their methods for each class at its import. That takes 1 to 3 ms for a
class here, and a cold start on AWS Lambda waits for it. Named tuples take 0.2 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> object:
        """Type checkers alone need it: they check the arguments of the class."""
        return lambda cls: cls


REQUIRED: Any = object()
"""In place of the default of an attribute that has none."""


def computed(*, init: bool) -> Any:
    """The value of an attribute that `Frozen.compute` sets. `init` is False, for type checkers."""
    return computed


@dataclass_transform(frozen_default=True, field_specifiers=(computed,))
class Frozen:
    """Its annotations are its attributes, in this order. Those with a value may be left out."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Every attribute that may be given, those of base classes first; and its default."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        defaults: dict[str, Any] = {}
        for base in cls.__bases__:
            defaults.update(getattr(base, "defaults", {}))
        for name in cls.__annotations__:
            value = cls.__dict__.get(name, REQUIRED)
            if value is computed:
                delattr(cls, name)
            else:
                defaults[name] = value
        cls.defaults = defaults

    def __init__(self, *first: Any, **given: Any) -> None:
        """Raises TypeError if an attribute is missing or unknown. Type checkers find the rest."""
        values = {**self.defaults, **dict(zip(self.defaults, first, strict=False)), **given}
        if len(values) != len(self.defaults) or REQUIRED in values.values():
            wrong = [name for name in given if name not in self.defaults]
            wrong += [name for name, value in values.items() if value is REQUIRED]
            raise TypeError(f"{type(self).__name__}: unknown or missing: {', '.join(wrong)}")
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for name, value in self.compute().items():
            object.__setattr__(self, name, value)

    def compute(self) -> Mapping[str, Any]:
        """Return the attributes that are made from the others."""
        return {}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")


T = TypeVar("T", bound=Frozen)


def replace(value: T, **changes: Any) -> T:
    """Return a copy of `value` with other attributes. Raises TypeError for unknown ones."""
    return type(value)(**{name: getattr(value, name) for name in value.defaults} | changes)
