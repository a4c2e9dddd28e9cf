"""Objects whose attributes are given once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gunicorn_asgi.frozen import Frozen, computed, replace


class Size(Frozen):
    width: int
    height: int = 2


class Area(Size):
    unit: str = "m"
    area: int = computed(init=False)

    def compute(self) -> Mapping[str, Any]:
        return {"area": self.width * self.height}


def test_attributes_of_all_bases_are_given_in_their_order_or_by_name_or_have_their_defaults() -> (
    None
):
    assert vars(Area(3, unit="km")) == {"width": 3, "height": 2, "unit": "km", "area": 6}
    assert vars(Area(3, 4, "km")) == {"width": 3, "height": 4, "unit": "km", "area": 12}


@pytest.mark.parametrize(
    ("given", "wrong"),
    [({}, "width"), ({"width": 1, "depth": 1}, "depth"), ({"width": 1, "area": 1}, "area")],
)
def test_a_missing_an_unknown_and_a_computed_attribute_are_refused(
    given: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(TypeError, match=f"Area: unknown or missing: {wrong}$"):
        Area(**given)


def test_nothing_can_be_changed_or_deleted() -> None:
    size = Size(width=1)
    with pytest.raises(AttributeError, match=r"Size\.width cannot be changed"):
        size.width = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match=r"Size\.width cannot be deleted"):
        del size.width
    assert size.width == 1


def test_a_copy_has_the_changes_and_computes_anew() -> None:
    area = Area(width=3, unit="m")
    assert vars(replace(area, width=4)) == {"width": 4, "height": 2, "unit": "m", "area": 8}
    assert area.width == 3
    with pytest.raises(TypeError, match="depth"):
        replace(area, depth=1)
