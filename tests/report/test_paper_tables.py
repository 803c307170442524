import pytest

from cotbal.report.paper_tables import paper_rows

ROWS = paper_rows()


def test_all_rows_of_both_tables_are_there():
    assert [row.table for row in ROWS] == ["table2"] * 6 + ["table4"] * 11
    assert "STL" not in {row.method for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table}-{row.method}")
def test_the_printed_improvement_comes_out_to_two_decimals(row):
    assert f"{row.delta_i:.2f}" == f"{row.printed_delta_i:.2f}"
    assert f"{row.delta_e:.2f}" == f"{row.printed_delta_e:.2f}"
    assert row.agrees
