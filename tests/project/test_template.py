import shlex

import pytest

from cotbal.project.template import LATE, TRAIN, check_template, fill, placeholders


def test_values_are_one_word_each_for_the_shell():
    values = {"data": "a b.json", "output": "it's {here}", "seed": 3}
    command = fill("run {data} --out {output} --seed {seed} '{{}}'", values)
    assert shlex.split(command) == ["run", "a b.json", "--out", "it's {here}", "--seed", "3", "{}"]


def test_what_is_known_early_is_filled_in_early_and_the_rest_later():
    template = "run {data} {seed} {{brace}} {run}"
    early = fill(template, {"seed": 3, "run": "probe {x}"}, LATE)
    assert placeholders(early) == ["data"]
    assert fill(early, {"data": "d"}) == "run d 3 {brace} 'probe {x}'"


@pytest.mark.parametrize("bad", ["{data!r}", "{data:>3}", "{data.x}", "{0}", "{}"])
def test_placeholders_are_plain_names(bad):
    with pytest.raises(ValueError, match="unknown placeholder"):
        check_template(bad, TRAIN, ())
