"""Figures, terminal tables and a page made from results: pure functions of the results dictionary.

Import what is needed from its module, so that a terminal table does not load matplotlib: `write_figures` from
`cotbal.report.figures`, `print_results` from `cotbal.report.tables`, `write_page` from `cotbal.report.page`.
"""
