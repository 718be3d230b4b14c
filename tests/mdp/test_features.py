"""The table can be printed, and it names every action head."""

import subprocess
import sys

from raytune_rl.mdp.features import ACTIONS, MEMBER_FEATURES, SLOT_FEATURES, table


def test_the_command_prints_a_row_for_everything() -> None:
    command = [sys.executable, "-m", "raytune_rl.mdp"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == table() + "\n"
    for row in (*MEMBER_FEATURES, *SLOT_FEATURES, *ACTIONS):
        assert f"| `{row.name}` | {row.unit} | {row.range} | {row.meaning} |" in printed


def test_the_table_is_valid_markdown() -> None:
    rows = [line for line in table().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {5}


def test_names_are_unique_within_a_block() -> None:
    for block in (MEMBER_FEATURES, SLOT_FEATURES):
        assert len({row.name for row in block}) == len(block)
