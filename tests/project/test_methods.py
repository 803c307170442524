import pytest

from cotbal.balancing import DWA, RLW, TLA
from cotbal.project.config import load_project
from cotbal.project.methods import default_method, parse_method, parse_methods
from tests.project.toy import write


@pytest.fixture
def project(tmp_path):
    def project(**changes):
        return load_project(write(tmp_path, **changes))

    return project


def test_a_method_is_named_as_it_was_asked_for_and_trained_by_what_differs_from_the_file(project):
    toy = project()
    for text, name, run in [
        ("cotbal", "CoTBal", "CoTBal"),
        ("CoTBal T=0.50", "CoTBal T=0.5", "CoTBal"),
        ("CoTBal T=1.0 D=precise", "CoTBal T=1 D=precise", "CoTBal T=1 D=precise"),
        ("CoTBal D=real", "CoTBal D=real", "CoTBal"),
        ("difficulty alpha=1", None, None),
        ("CoTBal alpha=0", "CoTBal alpha=0", "CoTBal alpha=0"),
        ("CoTBal alpha=1", "CoTBal alpha=1", "CoTBal alpha=1"),
        ("dwa window=3", "DWA window=3", "DWA window=3"),
    ]:
        if name is None:
            with pytest.raises(ValueError, match=r"difficulty has the options: T, D$"):
                parse_method(text, toy)
            continue
        method = parse_method(text, toy)
        assert (method.name, method.run_name(toy)) == (name, run)


@pytest.mark.parametrize("text", ["CoTBal T=0.33333333 alpha=1e-7", "CoTBal T=1e6", "CoTBal T=12345678.5"])
def test_the_name_of_a_method_says_all_digits(project, text):
    """finals.json has the names alone: a model of rounded ones is another, and never found again."""
    toy = project()
    method = parse_method(text, toy)
    assert parse_method(method.name, toy) == method
    other = text.replace("T=0.33333333", "T=0.33333331").replace("T=12345678.5", "T=12345678.25")
    assert len(parse_methods([text, other], toy)) == 1 + (text != other)


def test_equal_methods_train_the_same_models(project):
    toy = project()
    assert parse_method("CoTBal T=0.5 alpha=0.5 D=real", toy) == parse_method("CoTBal", toy)
    assert parse_method("CoTBal T=1", toy) != parse_method("CoTBal", toy)
    assert parse_method("contribution", toy) != parse_method("one2all", toy)
    assert parse_method("CoTBal D=real", project(precise=True)) != parse_method(
        "CoTBal", project(precise=True)
    )


def test_the_suites_are_the_rows_of_the_papers_tables(project):
    toy = project()
    assert [method.name for method in parse_methods(["table2"], toy)] == [
        *("STL", "EW", "TLA", "RLW", "DWA", "IGBv1", "CoTBal")
    ]
    table3 = parse_methods(["table3", "EW"], toy)
    assert [method.options.get("T") for method in table3[1:4]] == [2, 1, 0.5]
    assert [method.rule for method in table3[4:9]] == [
        *("one2all", "all2one", "contribution", "difficulty", "cotbal")
    ]
    assert [method.options["D"] for method in table3[9:]] == ["precise", "real"]
    assert len(table3) == 11


def test_the_default_is_the_rule_of_the_file(project):
    assert default_method(project()).name == "CoTBal"
    assert default_method(project(rule="difficulty")).kind == "difficulty"
    assert default_method(project(rule="equal")).kind == "EW"


def test_a_dynamic_method_leaves_fixed_tasks_out_and_tla_counts_them(project):
    toy = project()
    dwa = parse_method("DWA window=3", toy).weighting({"chat": 1.5}, seed=4)
    assert (type(dwa), dwa.options["window"], dwa.fixed) == (DWA, 3, {"chat": 1.5})
    assert parse_method("TLA", toy).weighting({"chat": 1.5}, seed=4).fixed == {}
    drawn = [parse_method(text, toy).weighting({}, seed=4) for text in ("RLW", "RLW seed=7")]
    assert [(type(rule), rule.options["seed"]) for rule in drawn] == [(RLW, 4), (RLW, 7)]
    assert type(parse_method("TLA", toy).weighting({}, 0)) is TLA


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PCGrad", r"expected one of STL, EW, .*, or table2 or table3, got 'PCGrad'$"),
        ("dwaa", "did you mean DWA"),
        ("", "got ''"),
        ("STL T=1", "STL has no options"),
        ("CoTBal T", "expected option=value, each once, got 'T'"),
        ("CoTBal T=1 T=2", "each once"),
        ("CoTBal T=cold", "T: expected a number, got 'cold'"),
        ("CoTBal T=0", "T: expected a number > 0"),
        ("CoTBal T=nan", "T: expected a number > 0"),
        ("CoTBal T=inf", "T: expected a number > 0"),
        ("CoTBal alpha=2", r"alpha: expected a number in 0..1"),
        ("CoTBal D=guessed", "D: expected real or precise"),
        ("DWA T=1", "DWA has the options: window, temperature"),
        ("TLA window=1", "TLA has the options: none"),
        ("DWA window=0", "window"),
    ],
)
def test_a_mistake_says_what_there_is(project, text, message):
    with pytest.raises(ValueError, match=message):
        parse_method(text, project())


def test_the_precise_difficulty_has_no_items_to_shrink_by_which_is_told_before_its_runs(project):
    toy = project(shrink=True)
    assert parse_method("CoTBal T=1", toy).options["D"] == "real"
    for text in ("CoTBal D=precise", "difficulty D=precise", "table3"):
        with pytest.raises(ValueError, match="shrink: the runs of D=precise have no items"):
            parse_methods([text], toy)


def test_without_probes_there_is_cotbal_alone(project, tmp_path):
    (tmp_path / "equal").mkdir()
    (tmp_path / "equal" / "model.json").write_text("{}")
    toy = project(mode="no-probes", equal_model="equal")
    assert parse_method("CoTBal T=2", toy).rule == "cotbal"
    for text in ("one2all", "CoTBal D=precise"):
        with pytest.raises(ValueError, match="mode no-probes measures no contribution"):
            parse_method(text, toy)
