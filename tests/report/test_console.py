"""Tables on the console: wide ones in parts, texts as they are."""

import pytest

from parrot_jax.report.console import print_table
from parrot_jax.report.page import Table


def test_a_table_of_sixty_turns_shows_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"turn {n}" for n in range(1, 61)]
    values = [f"{n}.5 (1.00 to 10.00)" for n in range(1, 61)]
    print_table(Table(columns=["model", *names], rows=[["[b]m", *values]]), "By turn")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 160
    said = "\n".join(lines).split()
    assert said.count("By") == 1
    assert [word for word in said if word.endswith(".5")] == [f"{n}.5" for n in range(1, 61)]
    assert said.count("10.00)") == 60
    # Each part says again whose numbers they are: eight turns fit beside the name.
    assert said.count("[b]m") == said.count("model") == 8
