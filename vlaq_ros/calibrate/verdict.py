"""Whether switching precisions pays, and which one serves every chunk if it does not: judged by whole episodes.

One coarse chunk in an episode is nearly always survived, for later ones make up for it; an episode of coarse chunks
is another matter.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlaq_ros.calibrate.thresholds import Dispatch, Evidence, Proposal, Whole, static_thresholds
from vlaq_ros.config import AUTO
from vlaq_ros.evaluate.statistics import BoolArray, paired

TOLERATED_LOSS = 0.05  # of the success rate, against the finest precision's; its 95 % bound is held to it


def judge(proposal: Proposal, successes: Mapping[str, BoolArray]) -> Dispatch:
    """Switch where that pays; else let the coarsest precision that keeps up with the finest serve every chunk.

    It pays if S ranks with the sensitivity beyond doubt, the map that follows from it uses more than one precision,
    episodes under that map keep up, and those of no coarser precision alone do.

    Args:
        proposal: of the precisions, finest first.
        successes: of whole episodes [N] on the same seeds: of every precision, of `auto` where the proposal switches,
            and of what else is to be told of.
    """
    precisions = list(proposal.shares)
    finest = precisions[0]
    wholes = tuple(_whole(name, of, successes[finest]) for name, of in successes.items())
    kept = [whole.name for whole in wholes if whole.name == finest or whole.bound > -TOLERATED_LOSS]
    static = next(name for name in reversed(precisions) if name in kept)
    told = "; ".join(f"{whole.name} {whole.successes} of {whole.n}" + _bound(whole, finest) for whole in wholes)
    said = f"S rises with the sensitivity to errors ({_correlations(proposal.evidence)})"
    if proposal.switches and AUTO in kept and static == finest:
        parts = ", ".join(f"{name} at {share:.0%}" for name, share in proposal.shares.items())
        verdict = f"Switching pays: {said}, it asks for {parts} of the chunks, and whole episodes keep up ({told})."
        return Dispatch(proposal.thresholds, None, verdict, proposal.evidence, wholes)
    if not proposal.evidence.signal:
        why = (
            "S carries no signal of the sensitivity to errors for this policy and robot "
            f"({_correlations(proposal.evidence)})"
        )
    elif not proposal.switches:
        why = f"{said}, but by their error bound all chunks fall to one precision"
    elif static != finest:
        why = f"{said}, but episodes of {static} chunks alone keep up as well"
    else:
        why = f"{said}, but whole episodes that switch by it do not keep up"
    coarsest = "no coarser one is" if static == finest else "the coarsest that is"
    because = f"{coarsest} shown to lose less than {TOLERATED_LOSS:.0%} of whole episodes against {finest}"
    verdict = f"Switching does not pay: {why}. The plan is static: {static} serves every chunk, {because} ({told})."
    return Dispatch(static_thresholds(precisions, static), static, verdict, proposal.evidence, wholes)


def _whole(name: str, successes: BoolArray, finest: BoolArray) -> Whole:
    difference = paired(successes, finest)
    return Whole(name, int(successes.sum()), difference.n, difference.value, difference.bound)


def _bound(whole: Whole, finest: str) -> str:
    return "" if whole.name == finest else f", {whole.difference:+.1%} and at least {whole.bound:+.1%}"


def _correlations(evidence: Evidence) -> str:
    return (
        f"Spearman {evidence.spearman}; Pearson {evidence.pearson}; S and the deviation itself: Spearman "
        f"{evidence.deviation}; {evidence.injections} injected chunks in {evidence.episodes} episodes"
    )
