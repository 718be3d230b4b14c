"""Reads TensorBoard's event files with tensorboardX's own definition of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c


def read_events(folder: Path) -> Iterator[Any]:
    """The events of all files in a folder, file by file. An event that a killed writer left incomplete is the last."""
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            if at + 16 + length > len(data):
                break
            body = data[at + 12 : at + 12 + length]
            assert struct.unpack_from("<I", data, at + 12 + length) == (masked_crc32c(body),)
            yield Event.FromString(body)
            at += 16 + length


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of a tag, in the order of their writing."""
    return [
        (event.step, value.simple_value)
        for event in read_events(folder)
        for value in event.summary.value
        if value.tag == tag
    ]


def hyperparameters(folder: Path) -> list[dict[str, Any]]:
    """What TensorBoard's table of runs shows, once per session of a run."""
    found = [
        HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info.hparams
        for event in read_events(folder)
        for value in event.summary.value
        if value.tag == "_hparams_/session_start_info"
    ]
    return [{name: MessageToDict(value) for name, value in one.items()} for one in found]
