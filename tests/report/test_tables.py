import io

import pytest
from rich.console import Console

from cotbal.report.tables import print_columns, print_results
from tests.report.results_example import make_results


def printed(results, width=80):
    stream = io.StringIO()
    print_results(results, Console(file=stream, width=width))
    return stream.getvalue()


def row_of(text, title, name):
    lines = text[text.index(title) :].splitlines()
    return next(line.split()[-1:] and line.split() for line in lines if line.strip().startswith(name))


@pytest.mark.parametrize("width", [50, 80, 200])
@pytest.mark.parametrize("results", [make_results(), make_results(seeds=(0, 1, 2)), make_results(64)])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(results, width):
    text = printed(results, width)
    assert max(map(len, text.splitlines())) <= width
    weights = results["by_seed"]["0"]["weights"]["difficulty"] if len(results["seeds"]) == 1 else {}
    assert all(f"{weights[task]:.3f}" in text for task in weights)


def test_the_numbers_are_those_of_the_results():
    results = make_results()
    seed, text = results["by_seed"]["0"], printed(make_results(), width=160)
    weights = [
        f"{seed['weights'][rule]['vqa']:.3f}" for rule in ("cotbal", "contribution", "one2all", "all2one")
    ]
    assert row_of(text, "Weights by rule", "vqa")[1:5] == weights
    test = [f"{seed['test'][method]['ocr']['EM']:.3f}" for method in ("STL", "EW", "CoTBal")]
    assert row_of(text, "Test scores", "ocr") == ["ocr", "EM", *test]
    signals = [f"{seed[key][0]:.2f}" for key in ("one2all", "all2one", "difficulty")]
    assert row_of(text, "Contribution to and from", "1 caption")[2:] == signals
    assert row_of(text, "Contribution C", "2 vqa")[2] == f"{seed['contribution'][1][0]:.2f}"
    scores = seed["scores"]
    own = [f"{scores['mini']['bbox']:.3f}", f"{scores['probes']['bbox']['bbox']:.3f}"]
    assert row_of(text, "Validation", "bbox")[2:] == own
    assert row_of(text, "Improvement", "CoTBal")[1] == f"{seed['delta_i']['CoTBal']:.2f}"


def test_several_seeds_carry_their_standard_errors():
    results = make_results(seeds=(0, 1, 2))
    delta = results["summary"]["delta_i"]["CoTBal"]
    assert f"{delta['mean']:.2f} ± {delta['stderr']:.2f}" in printed(results)


def test_statements_and_names_are_printed_as_they_are():
    results = make_results(3)
    results["statements"] = ["[bold]not markup[/bold]"]
    results["tasks"][0] = "[red]task"
    for entry in results["by_seed"].values():
        for rule in entry["weights"].values():
            rule["[red]task"] = rule.pop("caption")
        for table in (
            entry["scores"]["mini"],
            *entry["scores"]["probes"].values(),
            entry["scores"]["probes"],
        ):
            table["[red]task"] = table.pop("caption")
        for method in entry["test"].values():
            method["[red]task"] = method.pop("caption")
    results["metrics"]["[red]task"] = results["metrics"].pop("caption")
    text = printed(results)
    assert "- [bold]not markup[/bold]" in text
    assert "[red]task" in text


def test_a_wide_table_is_continued_below_with_its_names():
    stream = io.StringIO()
    columns = {f"column {i}": ["1.000", "2.000"] for i in range(6)}
    print_columns("Wide", ["first", "second"], columns, console=Console(file=stream, width=40))
    text = stream.getvalue()
    assert text.count("Wide (continued)") == text.count("first") - 1 >= 1
    assert all(f"column {i}" in text for i in range(6))


def test_results_of_another_version_are_refused():
    with pytest.raises(ValueError, match="schema_version"):
        printed({**make_results(), "schema_version": 3})


def test_wide_letters_leave_the_numbers_whole():
    stream = io.StringIO()
    columns = {
        name * 2: ["-0.7100"] for name in ("表格", "图像", "文字", "指代", "多轮", "数学", "视频", "文档")
    }
    print_columns("C", ["表格问答"], columns, console=Console(file=stream, width=80))
    assert stream.getvalue().count("-0.7100") == 8
    assert all(name in stream.getvalue() for name in columns)


def test_rows_of_long_names_stay_apart():
    stream = io.StringIO()
    names = [f"llava_onevision_subset_{number}_of_the_mixture" for number in (1, 2)]
    print_columns("C", names, {"D": ["1", "2"]}, console=Console(file=stream, width=80))
    assert all(f"llava_onevision_subset…{number}" in stream.getvalue() for number in (1, 2))
