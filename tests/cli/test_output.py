"""Tables for people, whole also where they are piped."""

import pytest

from mm_pipelines.cli.output import show


def test_a_piped_table_keeps_every_column_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    row = {f"column_{number}": "x" * 30 for number in range(9)}
    show([row], as_json=False, empty="nothing")
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == [word for number in range(9) for word in ("column", str(number))]
    assert line.split() == list(row.values())
