"""The plan of the study: every name that it uses is a cell's."""

from __future__ import annotations

import pytest

from vlaq_ros.errors import NoCellError
from vlaq_ros.study.cells import FULL_CELL, SHARES, Rule, plan
from vlaq_ros.study.variants import Calibrated, Emulated, Full, Variant

PLAN = plan(Emulated(4, 3))
NAMES = [cell.name for cell in PLAN.cells]


def test_names_are_different_and_what_is_referred_to_is_there() -> None:
    assert len(set(NAMES)) == len(NAMES)
    used = {cell.against for cell in PLAN.cells if cell.against}
    used |= {name for claim in PLAN.claims for name in (claim.cell, claim.than)}
    used |= {name for pair in PLAN.pairs for name in (pair.fine_cell, pair.coarse_cell, pair.between_cell)}
    assert used <= set(NAMES)


def test_the_ends_of_a_pair_are_its_variants_alone() -> None:
    cells = {cell.name: cell for cell in PLAN.cells}
    for pair in PLAN.pairs:
        assert cells[pair.fine_cell].variants == (pair.fine,)
        assert cells[pair.coarse_cell].variants == (pair.coarse,)
        switched = [cell for cell in PLAN.cells if cell.variants == pair.variants]
        assert len(switched) == len(SHARES) * len(Rule)
        assert all(cell.switch is not None for cell in switched)


def test_a_variant_is_named_by_what_it_is() -> None:
    assert len({variant.name for cell in PLAN.cells for variant in cell.variants}) == len(
        {variant for cell in PLAN.cells for variant in cell.variants}
    )
    assert Variant(Calibrated("rtn", 0.305), 2).name == "rtn_0.305 fine, 2 steps"
    assert Variant(Full()).real
    assert not Variant(Emulated(4, 3)).real


def test_cells_are_chosen_by_patterns_in_the_order_of_the_plan() -> None:
    chosen = [cell.name for cell in PLAN.matching(["width/w4a[38]", FULL_CELL])]
    assert chosen == [FULL_CELL, "width/w4a8", "width/w4a3"]


def test_a_pattern_without_a_cell_is_told() -> None:
    with pytest.raises(NoCellError, match=r"no cell of the study is named 'widths/\*'; `vlaq study --list` names"):
        PLAN.matching([FULL_CELL, "widths/*"])


def test_claims_are_in_words() -> None:
    texts = [claim.text for claim in PLAN.claims]
    assert "methods/guided is not worse by 2 points than full, from episode 200 on" in texts
    assert "switching/steps/dyq-50 is better than switching/steps/random-50" in texts
    assert "switching/activations/dyq-50 is better than width/w4a4" in texts
    assert "switching/steps/dyq-50 is better than steps/fine-4" in texts


@pytest.mark.parametrize(
    ("coarse", "between"), [((4, 3), "w4a4"), ((4, 4), "w4a4"), ((4, 2), "w4a4"), ((3, 8), "w3a8"), ((2, 4), "w3a4")]
)
def test_a_static_plan_between_two_costs_no_more_than_half_of_both(coarse: tuple[int, int], between: str) -> None:
    assert plan(Emulated(*coarse)).pairs[0].between_cell == f"width/{between}"
