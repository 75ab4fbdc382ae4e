"""The learning rate of each domain is chosen on the others, and never on itself."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costsim.report.study_table import footnote
from costsim.studies.methods.analysis import analyse
from costsim.studies.methods.tuning import tuned

RATES = (0.001, 0.003, 0.01)
DOMAINS = ("signs", "letters", "flowers")
BLANK = dict.fromkeys(
    ("peak_bytes", "arena_bytes", "paper_bytes", "tiny_training_bytes", "autograd_bytes",
     "backward_macs", "task_s", "task_low_s", "task_high_s", "task_j", "task_low_j",
     "task_high_j", "selection_here_s", "training_here_s"),
)  # fmt: skip


def row(domain, seed, rate, accuracy, method="Sparse", status="done"):
    return {
        **BLANK, "model": "net", "device": "board", "method": method, "domain": domain,
        "seed": seed, "task": f"{domain}-{seed}", "learning_rate": rate, "accuracy": accuracy,
        "status": status, "reason": "", "exceeds": "", "note": None,
    }  # fmt: skip


def rows(accuracies):
    """`accuracies[domain][rate]` is what every one of two tasks reaches."""
    return [
        row(domain, seed, rate, accuracy)
        for domain, by_rate in accuracies.items()
        for rate, accuracy in by_rate.items()
        for seed in (0, 1)
    ]


accuracies = st.fixed_dictionaries(
    {
        domain: st.fixed_dictionaries(
            {rate: st.integers(0, 20).map(lambda n: n / 20) for rate in RATES}
        )
        for domain in DOMAINS
    }
)


@given(accuracies)
def test_each_domain_takes_the_rate_that_is_best_on_the_others(drawn):
    left, chosen = tuned(rows(drawn))
    for domain in DOMAINS:
        others = {
            rate: fmean(drawn[other][rate] for other in DOMAINS if other != domain)
            for rate in RATES
        }
        assert others[chosen[domain]] == pytest.approx(max(others.values()))
        assert {r["learning_rate"] for r in left if r["domain"] == domain} == {chosen[domain]}
        assert sum(r["domain"] == domain for r in left) == 2


@given(accuracies, st.sampled_from(DOMAINS), st.sampled_from(RATES))
def test_what_a_domain_reaches_does_not_change_its_own_rate(drawn, domain, rate):
    better = {**drawn, domain: {**drawn[domain], rate: 1.0}}
    assert tuned(rows(better))[1][domain] == tuned(rows(drawn))[1][domain]


def test_rates_are_compared_on_the_tasks_that_all_of_them_have():
    some = rows({"signs": {0.001: 0.5, 0.01: 0.6}, "letters": {0.001: 0.5, 0.01: 0.4}})
    # One more task of letters, an easy one, at one rate alone.
    some.append(row("letters", 2, 0.01, 1.0))
    assert tuned(some)[1] == {"signs": 0.001, "letters": 0.01}


def test_a_single_rate_is_left_alone_and_refusals_stay():
    some = [row("signs", 0, 0.001, 0.5), row("signs", 1, None, None, status="refused")]
    assert tuned(some) == (tuple(some), {})
    both = [*some, row("signs", 0, 0.01, 0.7)]
    assert tuned(both) == ((some[0], some[1]), {"signs": 0.001})


def test_the_table_has_the_rows_of_the_chosen_rates_and_says_which():
    drawn = {"signs": {0.001: 0.5, 0.01: 0.7}, "letters": {0.001: 0.6, 0.01: 0.4}}
    reference = [row(d, s, 0.0, 0.3, method="None") for d in drawn for s in (0, 1)]
    findings = analyse([*reference, *rows(drawn)], 10)
    line = findings.lines[1]
    # Signs takes what is best on letters, and the other way round.
    assert line.learning_rates == {"signs": 0.001, "letters": 0.01}
    assert (line.accuracy["signs"].value, line.accuracy["letters"].value) == (0.5, 0.4)
    assert line.over_reference["signs"].value == pytest.approx(0.2)
    assert line.tasks == 4
    assert "Sparse: 0.001 on signs; 0.01 on letters." in footnote(findings, "paper")
    assert len(findings.rows) == len(reference) + 8


def test_a_rate_that_is_best_everywhere_is_told_once():
    drawn = {domain: {0.001: 0.5, 0.01: 0.7} for domain in DOMAINS}
    assert "Sparse: 0.01 on all." in footnote(analyse(rows(drawn), 12), "paper")
