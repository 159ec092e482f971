import itertools
import math

import pytest

from lightning_interp.methods.bias.result import Score
from lightning_interp.methods.bias.verdict import alarms, verdict
from tests.helpers.bias_results import bias_result, scores
from tests.helpers.results import HOSTILE

ONE = {"contexts": {"makeup": "eyes"}, "signal": {"makeup": True}, "relations": None, "missing": {}}


def one_context(**values):
    return verdict(bias_result(scores(**values), **ONE), {})


def test_a_shortcut_by_hand():
    lines = verdict(bias_result(), {"crr/makeup": 0.7, "crr/blond": math.nan})
    assert lines == [
        "lipstick: shortcut: 91 % of the reliance is on makeup (eyes), 9 % on the mouth "
        "[88 to 94 % by hiding parts, 95 % by pasting parts; untrained 70 %]; "
        "hiding the mouth takes away 4 % of the score; hiding the eyes takes away 94 % of the score",
        "lipstick: no shortcut seen, the context changes the score little: 20 % of the reliance is on blond (hair), "
        "80 % on the mouth [by hiding parts]; hiding the mouth takes away 4 % of the score; "
        "hiding the hair adds 1 % of the score",
        "accuracy of the worst group of lipstick and makeup is 0.00, over all 0.96",
        "accuracy of the worst group of lipstick and blond is 0.95, over all 0.96",
        "failure mode: lipstick and makeup have a mean cosine of 0.90 and ought to be unrelated",
        "blind spot: red and lipstick have a mean cosine of 0.10 and ought to be related",
        "left out: slices: the layer has no embedding",
    ]


@pytest.mark.parametrize(
    ("reliance", "words"),
    [
        (0.0, "no shortcut seen: 0 % of the reliance is on makeup (eyes), 100 % on the mouth"),
        (0.19, "no shortcut seen: 19 %"),
        (0.2, "partly a shortcut: 20 %"),
        (0.49, "partly a shortcut: 49 %"),
        (0.5, "shortcut: 50 %"),
        (1.0, "shortcut: 100 % of the reliance is on makeup (eyes), 0 % on the mouth"),
    ],
)
def test_levels_of_reliance(reliance, words):
    assert one_context(exact_reliance__makeup=reliance)[0].startswith(f"lipstick: {words}")


def test_the_surest_check_is_the_headline():
    checks = {"scr__makeup": 0.1, "crr__makeup": 0.7, "exact_reliance__makeup": 0.3}
    assert "partly a shortcut: 30 %" in one_context(**checks)[0]
    assert "[by re-rendering, 70 % by hiding parts, 10 % by pasting parts]" in one_context(**checks)[0]
    checks["exact_reliance__makeup"] = math.nan
    assert "shortcut: 70 %" in one_context(**checks)[0]
    checks["crr__makeup"] = math.nan
    assert "no shortcut seen: 10 %" in one_context(**checks)[0]


def test_names_with_slashes_alarm_as_others():
    told = alarms([{"epoch": 0, "scalars": {"lip/crr/make/up": 0.9}}], 0.5)
    assert told == {
        ("lip", "make/up"): "lip: reliance on make/up is 90 % (by hiding parts), 50 % or more since epoch 0"
    }


def test_a_ratio_of_two_small_effects_is_no_shortcut():
    # A network that looks at the eyes only, asked about the hair: 0.19 / (0.19 + 0.04).
    small = {"crr__makeup": 0.83, "e_context__makeup": -0.19, "e_region": 0.04}
    assert "the context changes the score little" in one_context(**small)[0]
    assert "lipstick: shortcut: 83 %" in one_context(**small | {"e_context__makeup": 0.94})[0]
    # Each ratio is judged by its own effect.
    pasted = {"scr__makeup": 0.95, "e_context__makeup": 0.01}
    assert "lipstick: shortcut: 95 %" in one_context(**pasted, swap_context__makeup=1.3)[0]
    assert "the context changes the score little" in one_context(**pasted, swap_context__makeup=0.1)[0]
    exact = {"exact_reliance__makeup": 0.6, "effect_context__makeup": 0.1, "e_context__makeup": 0.9}
    assert "the context changes the score little" in one_context(**exact)[0]


@pytest.mark.parametrize("value", [0.1, 0.6])
def test_a_wide_interval_decides_nothing(value):
    wide = {"crr/makeup": Score(value, 0.0, 0.9)}
    assert "undecided, the interval is too wide" in verdict(bias_result(wide, **ONE), {})[0]


@pytest.mark.parametrize("accuracy", [Score(0.52, 0.48, 0.56, 0.5), Score(0.9)])
def test_no_signal_is_said_instead_of_ratios(accuracy):
    silent = bias_result(
        {"balanced_accuracy": accuracy, "crr/makeup": Score(0.9), "worst_group_accuracy/makeup": Score(0.1)},
        signal={"makeup": False, "blond": False},
    )
    assert verdict(silent, {}) == [
        "lipstick: no signal yet: the network's answers tell lipstick no better than chance",
        "left out: slices: the layer has no embedding",
    ]


def test_bad_logits_are_told_first_and_are_not_taken_for_ignorance():
    found = {"nonfinite": Score(32.0, count=64), "balanced_accuracy": Score(math.nan)}
    assert verdict(bias_result(found, signal={"makeup": False}, missing={}), {}) == [
        "lipstick: the logits of 32 of 64 images are NaN or infinite; the scores leave them out",
        "lipstick: no signal: no two values of lipstick are left to tell apart",
    ]
    told = verdict(bias_result({"nonfinite": Score(1.0, count=64), "crr/makeup": Score(0.9)}, **ONE), {})
    assert told[0] == "lipstick: the logits of 1 of 64 images are NaN or infinite; the scores leave them out"
    assert "reliance is on makeup" in told[1]
    assert one_context(nonfinite=0.0, crr__makeup=0.9) == one_context(crr__makeup=0.9)


def test_no_signal_of_a_network_that_knows_the_target_has_another_reason():
    silent = bias_result(signal={"makeup": False, "blond": False})
    assert verdict(silent, {})[0] == (
        "lipstick: no signal yet: balanced accuracy is 0.95, but the scores are too small, or "
        "hiding mouth or eyes or hair changes them too little, for reliance to mean anything"
    )


def test_no_signal_for_one_context_leaves_the_others():
    lines = verdict(bias_result(signal={"makeup": True, "blond": False}), {})
    assert "lipstick: shortcut: 91 %" in lines[0]
    assert lines[1] == "lipstick: no signal yet for blond (hair)"


def test_scores_that_are_missing_leave_no_nan():
    assert verdict(bias_result({}, **ONE), {}) == ["lipstick: reliance on makeup (eyes) was not measured"]
    nothing = {"contexts": {}, "signal": {}, "relations": None, "missing": {}}
    assert verdict(bias_result({}, **nothing), {}) == []
    assert verdict(bias_result(scores(e_region=0.5), **nothing), {}) == [
        "lipstick: hiding the mouth takes away 50 % of the score"
    ]
    assert not any("nan" in line for line in one_context(crr__makeup=0.4, worst_group_accuracy__makeup=0.3))


def test_names_stay_on_one_line():
    for name in HOSTILE:
        made = bias_result({f"crr/{name}": Score(0.9)}, target=name, region=name, contexts={name: name}, signal={})
        assert all(line.isprintable() for line in verdict(made, {}))


def history(*values, name="bias/lipstick/crr/makeup"):
    return [{"epoch": epoch - 1, "scalars": {name: value, "bias/seconds": 9.0}} for epoch, value in enumerate(values)]


def only(told):
    (line,) = told.values()
    return line


def test_alarm_by_hand():
    assert alarms(history(math.nan, 0.2, 0.6, 0.84), 0.5) == {
        ("lipstick", "makeup"): "lipstick: reliance on makeup is 84 % (by hiding parts), 50 % or more since epoch 1"
    }


def test_alarm_counts_from_the_last_time_it_passed():
    assert only(alarms(history(math.nan, 0.9, 0.2, 0.6), 0.5)).endswith("since epoch 2")
    assert only(alarms(history(math.nan, 0.9, math.nan, 0.6), 0.5)).endswith("since epoch 2")
    assert only(alarms(history(0.9, 0.9), 0.5)).endswith("since before training")


@pytest.mark.parametrize("values", [(), (math.nan,), (0.2, 0.9, 0.49), (0.9, math.nan)])
def test_no_alarm_below_the_threshold_or_without_signal(values):
    assert alarms(history(*values), 0.5) == {}


def test_alarm_at_the_threshold_is_news_once():
    probes = history(math.nan, 0.4, 0.5, 0.6)
    told = [set(alarms(probes[:i], 0.5)) for i in range(5)]
    assert [bool(now - before) for before, now in itertools.pairwise(told)] == [False, False, True, False]


def test_alarm_takes_the_surest_check_of_each_context():
    scalars = {"crr/makeup": 0.9, "exact_reliance/makeup": 0.1, "exact_reliance/blond": math.nan, "scr/blond": 0.6}
    told = alarms([{"epoch": 3, "scalars": {**scalars, "crr": 0.9, "accuracy": 0.9}}], 0.5)
    assert told == {("", "blond"): "reliance on blond is 60 % (by pasting parts), 50 % or more since epoch 3"}


def test_alarm_of_each_context_is_a_line():
    told = alarms([{"epoch": 0, "scalars": {"crr/makeup": 0.9, "crr/blond": 0.6}}], 0.5)
    assert set(told) == {("", "makeup"), ("", "blond")}
    assert not any("\n" in line for line in told.values())
