from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raytune_rl.rundir.plain import HIDDEN, plain


@dataclass(frozen=True)
class Settings:
    rate: float
    factory: Any
    api_key: str = "sk-1234"


class Opaque:
    def __repr__(self) -> str:
        return "<Opaque secret=sk-1234 at 0x7f00>"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.float64("nan"), None),
        (np.zeros((2, 3)), "array(2, 3) float64"),
        ((1, "a", None), [1, "a", None]),
        ({"b", "a"}, ["a", "b"]),
        ({1: Path("x/y")}, {"1": "x/y"}),
        (json.dumps, "json:dumps"),
        (Path, "pathlib:Path"),
        (Opaque(), f"{__name__}:Opaque"),
        (partial(print), "functools:partial"),
        (b"bytes", "builtins:bytes"),
    ],
)
def test_everything_becomes_standard_json(value: object, expected: object) -> None:
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_a_dataclass_becomes_its_fields_without_its_secrets() -> None:
    expected = {"rate": 0.1, "factory": "builtins:len", "api_key": HIDDEN}
    assert plain(Settings(rate=0.1, factory=len)) == expected


@pytest.mark.parametrize("name", ["password", "aws_secret", "API_KEY", "hf_token", "token", "env_vars", "accessKey"])
def test_secrets_are_hidden_by_name(name: str) -> None:
    assert "sk-1234" not in json.dumps(plain({"a": [{name: "sk-1234"}], "b": {name: {"X": "sk-1234"}}}))


def test_hyperparameters_that_sound_like_secrets_are_kept() -> None:
    values = {"tokens": "all", "token": 0.1, "max_tokens": 512, "keyframes": "x", "secret_sauce": True}
    assert plain(values) == values


def test_credentials_in_uris_are_dropped() -> None:
    text = "s3://AKIA:sk-1234@bucket/run?region=eu&secret_key=sk-1234&endpoint=x"
    assert plain(text) == f"s3://bucket/run?region=eu&secret_key={HIDDEN}&endpoint=x"
    assert plain("mail me@home.org") == "mail me@home.org"
