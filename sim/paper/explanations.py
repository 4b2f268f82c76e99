"""Why verdicts on figures 1b, 10, 12, 13, 17 and the headline came out, each with the experiment that shows it.

By claim, then as `Claim.reasons`: by verdict, or by footing and verdict. A claim's own reasons go first. Numbers are
left to the tables that a reason names; the verdict decides whether it is shown.
"""

from collections.abc import Mapping

from sim.paper.claim import NOT_REPRODUCED, SAME_ORDER, Verdict

_PREFILL = (
    "A prefill executes nearly all experts of a layer, so every system moves nearly all of them, and six links serve "
    "all alike: in figure 10's table even Clairvoyant, which knows every demand, stays far from the paper's reduction "
    "against DeepSpeed on this footing"
)
_SERIAL_PREFILL = (
    "Serial loading brings TTFT near the paper's number, and nothing else that we tried does: Clairvoyant, which knows "
    "every demand, goes beyond it (figure 10's table). What separates FineMoE from that are experts of a prefill that "
    "its plan does not have: they come one after the other"
)
_TURNS = (
    "Their plans cover more of a prefill than FineMoE's (`hit_or_late_rate_prefill` of figure 10's runs; "
    "MoE-Infinity's nearly all of it), and prefetches run ahead over all links. What a plan lacks comes one after the "
    "other"
)
_WHOLE_LAYERS = (
    "DeepSpeed moves all experts of a layer for the few that run, so nearly all its time is waiting for copies (figure "
    "17). The paper's smaller reduction needs a time per layer that no policy changes, or a DeepSpeed that loads only "
    "what runs (implied_testbed.md)"
)
_GOOD_SPECULATION = (
    "Speculation learned from the history, as ProMoE's, predicts nearly as well as expert maps on this routing: with "
    "FineMoE's evictor for both, figure 14a has Speculate close to Map (T)"
)
_WAITS = (
    "It waits for its prefetches before a layer starts, so whatever it predicted right is a hit, bought with waiting "
    "(figure 17). Its form that does not wait has far fewer hits (docs/comparison.md, hit rates)"
)
_MORE_THAN_WAITING = (
    "The form that waits for its prefetches, as its paper has it, loses more. Against the form of its code, which does "
    "not wait, docs/comparison.md has a median of −20 %"
)
_ROOM = (
    "A rate can grow no further than to 1: +68 % needs a baseline below 60 %, but on Qwen the cache alone gives "
    "MoE-Infinity more (figure 10's table)"
)
_SWAPPED = (
    "MoE-Infinity comes behind ProMoE on every trace, as it waits for its prefetches (figure 17). The paper's own "
    "numbers of figure 12 have it there, too"
)

EXPLANATIONS: Mapping[str, Mapping[Verdict | tuple[str, Verdict], str]] = {
    "headline-latency": {
        ("even", SAME_ORDER): f"TTFT is half of this mean. {_PREFILL}",
        ("released", SAME_ORDER): f"TTFT against ProMoE and MoE-Infinity is part of this mean. {_TURNS}",
    },
    "headline-hit": {
        NOT_REPRODUCED: "Two of the three baselines wait for their prefetches, and have hits by that (figure 10)"
    },
    "1b-finemoe-origin": {
        SAME_ORDER: "On Qwen, ProMoE needs nearly as little memory: its learned predictor is as fast there (figure 12)"
    },
    "10-ttft-deepspeed": {("even", SAME_ORDER): _PREFILL, ("released", SAME_ORDER): _SERIAL_PREFILL},
    "10-ttft-mixtral-offloading": {("even", SAME_ORDER): _PREFILL, ("released", SAME_ORDER): _SERIAL_PREFILL},
    "10-ttft-promoe": {
        ("even", SAME_ORDER): _PREFILL,
        ("even", NOT_REPRODUCED): _PREFILL,
        ("released", NOT_REPRODUCED): _TURNS,
    },
    "10-ttft-moe-infinity": {("even", SAME_ORDER): _PREFILL, ("released", NOT_REPRODUCED): _TURNS},
    "10-ttft-order": {
        ("even", NOT_REPRODUCED): f"The systems lie close together. {_PREFILL}",
        ("released", NOT_REPRODUCED): f"ProMoE and MoE-Infinity come before FineMoE. {_TURNS}",
    },
    "10-tpot-deepspeed": {SAME_ORDER: _WHOLE_LAYERS},
    "10-tpot-promoe": {SAME_ORDER: _GOOD_SPECULATION},
    "10-tpot-moe-infinity": {SAME_ORDER: _MORE_THAN_WAITING},
    "10-tpot-order": {NOT_REPRODUCED: _SWAPPED},
    "10-hit-mixtral-offloading": {NOT_REPRODUCED: _WAITS},
    "10-hit-promoe": {SAME_ORDER: _GOOD_SPECULATION},
    "10-hit-moe-infinity": {
        ("even", NOT_REPRODUCED): _WAITS,
        ("even", SAME_ORDER): _WAITS,
        ("released", SAME_ORDER): _ROOM,
    },
    "10-hit-order": {NOT_REPRODUCED: f"Mixtral-Offloading stands first. {_WAITS}"},
    "10-deepspeed-worst": {
        ("even", SAME_ORDER): "A prefill executes nearly all experts of a layer, so moving whole layers wastes little: "
        "on Phi another system that waits is slower by TTFT (docs/comparison.md has the same order)"
    },
    "12-tpot-deepspeed": {SAME_ORDER: _WHOLE_LAYERS},
    "12-tpot-promoe": {SAME_ORDER: _GOOD_SPECULATION},
    "12-tpot-order": {
        ("even", SAME_ORDER): "On Qwen, ProMoE is as fast or faster (figure 12's table): its speculation "
        "predicts as well there"
    },
    "12-gaps": {
        ("even", NOT_REPRODUCED): "FineMoE's TPOT falls from the smallest cache on; that of systems that keep what ran "
        "last hardly does before nearly all experts fit, as layers run in turn (figure 12's table)"
    },
    "13-hit": {
        NOT_REPRODUCED: "The number of links does it, not their speed: one A100 with a link six times as fast has the "
        "same hit rates (figure 13's table). On six GPUs, links that no demand uses go on prefetching; on one, demands "
        "come first. Systems that wait for their prefetches hardly change"
    },
    "13-tpot-moe-infinity-mixtral": {
        NOT_REPRODUCED: "Our MoE-Infinity waits for its prefetches, as its paper has it. The form of its code does "
        "not, and FineMoE is behind that one (docs/comparison.md, Mixtral twin on A100, 12 GB)"
    },
    "13-gains": {
        (
            "released",
            NOT_REPRODUCED,
        ): "Serial loading costs FineMoE most on six GPUs, where TTFT is larger than ProMoE's "
        "and MoE-Infinity's; on one GPU serial and parallel loading are the same (docs/simulator.md)"
    },
    "17-overhead-share": {
        SAME_ORDER: "The time of searches is as small as the paper's limit asks for, but a prefill of Qwen takes "
        "little, too. 50 ms are 1 % of an iteration of 5 s, longer than any here (figure 17's table)",
        NOT_REPRODUCED: "The time of searches is as small as the paper's limit asks for, but iterations are shorter, "
        "too. 50 ms are 1 % of one of 5 s, longer than any here (figure 17's table)",
    },
}


def explanation(claim: str, footing: str, verdict: Verdict) -> str:
    """Why this verdict came out on this footing; "" if nothing here explains it."""
    reasons = EXPLANATIONS.get(claim, {})
    return reasons.get((footing, verdict), reasons.get(verdict, ""))
