import math
import statistics

import pytest

from cotbal.report import seeds
from tests.report.results_example import make_results


def test_mean_and_standard_error_of_three_seeds():
    assert seeds.estimate([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7.0 / 3.0)))


def test_a_missing_value_is_left_out_and_one_value_has_no_error():
    assert seeds.estimate([None, 4.0]) == (4.0, None)
    assert seeds.estimate([None, None]) == (None, None)


def test_contribution_is_the_mean_over_the_seeds_that_identified_it():
    results = make_results(seeds=(0, 1, 2))
    cells = [results["by_seed"][seed]["contribution"][1][3] for seed in "012"]
    assert cells[0] is None
    assert seeds.contribution(results)[1][3].mean == pytest.approx(statistics.fmean(cells[1:]))
    assert seeds.unidentified(results) == {"<b>x</b>": 1}
    assert "1 of 3 seeds" in seeds.unidentified_note(results)


def test_test_rows_hold_every_metric_and_the_fixed_task():
    results = make_results()
    rows = seeds.test_rows(results)
    assert [row.task for row in rows] == [*results["tasks"], "chat"]
    assert rows[-1].by_method["STL"].mean is None
    assert rows[0].by_method["EW"].mean == results["by_seed"]["0"]["test"]["EW"]["caption"]["CIDEr"]


@pytest.mark.parametrize(
    ("value", "sign", "text"), [(-0.0004, False, "0.000"), (1.2345, True, "+1.234"), (None, False, "n/a")]
)
def test_spelling(value, sign, text):
    assert seeds.spell(value, sign=sign) == text


def test_another_schema_version_and_a_missing_seed_are_refused():
    with pytest.raises(ValueError, match="schema_version 1, got 2"):
        seeds.check_results({**make_results(), "schema_version": 2})
    with pytest.raises(ValueError, match="by_seed"):
        seeds.check_results({**make_results(), "seeds": [0, 1]})


def test_names_are_cut_in_the_middle_but_not_what_tells_two_apart():
    assert seeds.shortened(["vqa", "the_cauldron_docvqa_train"]) == ["vqa", "the_cauldro…docvqa_train"]
    names = [f"llava_onevision_subset_{number:02d}_with_a_rather_long_name" for number in range(40)]
    assert seeds.shortened(names)[7] == "llava_onevision_subse…07"
    assert len(set(seeds.shortened(names))) == 40
    assert seeds.shortened(["a" * 9000 + "b" + "a" * 9000, "a" * 18001])[0] != "a" * 18001
