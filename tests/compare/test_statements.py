"""The sentences of a comparison."""

from cotbal.compare.statements import SIGNS, statements


def test_a_difference_is_beyond_the_noise_where_its_interval_leaves_out_0():
    ends = {"up": [0.1, 0.4], "down": [-0.4, -0.1], "touches": [0.0, 0.5], "below": [-0.5, 0.0]}
    rows = [
        {
            **{"name": name, "same_as": None, "delta_i_interval": span},
            **{f"{key}_difference_interval": span for key in SIGNS},
        }
        for name, span in ends.items()
    ]
    told = {
        **{"columns": [], "reference": "EW", "baseline": "STL", "level": 0.95, "seeds": [0, 1]},
        **{"no_measures": None, "no_intervals": None, "methods": rows, "missing": {}},
    }
    lines = statements(told)
    rest = "not told apart for touches, below."
    assert lines[0] == f"ΔI against EW: better for up; worse for down; {rest}"
    assert lines[1].startswith(f"ΔE against EW: better for down; worse for up; {rest} Of 8 such comparisons")
    assert not any(line.startswith("One seed") for line in lines)
    assert any(line.startswith("One seed") for line in statements({**told, "seeds": [0]}))
    assert "Of 8 such comparisons more than one in twenty is beyond" in lines[1]
    assert "Of 8 such comparisons one in twenty is beyond" in statements({**told, "seeds": [*range(9)]})[1]
    assert [line[:8] for line in lines if "the truth in some 82 to 95 % of cases" in line] == ["2 seeds:"]
    for name in ("twin", "third"):
        rows.append({**rows[0], "name": name, "same_as": "up"})
    again = statements({**told, "missing": {"late": ["a"]}})
    assert again[:2] == lines[:2]
    assert again[-2:] == ["The same model: up, twin, third.", "Not finished, and so left out: late."]
