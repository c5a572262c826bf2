"""Recipes: no two are one, and each asks for exactly what its widths need."""

from __future__ import annotations

from itertools import combinations

import pytest

from vlaq_ros.calibrate.layout import Layout
from vlaq_ros.calibrate.recipes import DEFAULT, RECIPES, Estimator, Feedback, Recipe, Smoothing, Widths


def test_the_default_is_a_recipe_and_no_two_are_the_same() -> None:
    assert DEFAULT in RECIPES
    assert [(one, other) for one, other in combinations(RECIPES, 2) if RECIPES[one] == RECIPES[other]] == []


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_sensitivities_are_estimated_where_widths_are_chosen_by_them(recipe: Recipe) -> None:
    by_sensitivity = recipe.widths in {Widths.LAYERWISE, Widths.STAGED, Widths.QUEUE}
    assert (recipe.estimator is not Estimator.NONE) == by_sensitivity
    assert by_sensitivity or not recipe.in_bits


def test_the_papers_methods_are_as_the_papers_have_them() -> None:
    assert RECIPES["rtn"] == Recipe()
    for name in ("rtn", "smoothquant", "awq", "quantvla", "eaqvla", "qvla", "qvla-release"):
        assert RECIPES[name].feedback is Feedback.NONE  # all of them round to nearest
    assert RECIPES["smoothquant"].smoothing is Smoothing.SMOOTHQUANT
    assert RECIPES["awq"].smoothing is Smoothing.AWQ
    assert RECIPES["quantvla+vision"].layout is Layout.SELECTIVE_VISION
    assert (RECIPES["quantvla"].layout, RECIPES["quantvla"].matching) == (Layout.SELECTIVE, True)
    assert [RECIPES[name].estimator for name in ("qvla", "qvla-release")] == [Estimator.JACOBIAN, Estimator.HESSIAN]
    assert [RECIPES[name].widths for name in ("qvla", "qvla-release")] == [Widths.STAGED, Widths.QUEUE]
