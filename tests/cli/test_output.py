"""Tables for people, whole also where they are piped."""

import pytest

from mm_pipelines.cli.output import show


def test_a_piped_table_keeps_every_column_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    row = {f"column_{number}": "x" * 30 for number in range(9)}
    show([row], as_json=False, empty="nothing")
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == [word for number in range(9) for word in ("column", str(number))]
    assert line.split() == list(row.values())


def test_columns_that_do_not_fit_are_left_out_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    row = {f"column_{number}": "x" * 30 for number in range(5)}
    show([row], as_json=False, empty="nothing", width=80)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].split() == ["x" * 30] * 2
    assert lines[2] == "Left out for lack of width: column 2, column 3, column 4"
