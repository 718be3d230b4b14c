"""Segments stay consecutive whatever the report counts do, and a crash leads back to the right one."""

from raytune_rl.tune.trials.track import CHECKPOINTS, HISTORY, Track


def track_of(*openings: int) -> Track:
    track = Track.start({"lr": 0.0})
    for n, at in enumerate(openings, start=1):
        track.open(at=at, seconds=float(at), values={"lr": float(n)})
    return track


def test_segments_are_consecutive_at_uneven_report_counts() -> None:
    track = track_of(5, 10, 17)
    assert track.segment == 3
    assert [track.segment_at(at) for at in (0, 4, 5, 16, 17, 99)] == [0, 0, 1, 2, 3, 3]
    assert [opening.decision for opening in track.openings] == [0, 1, 2, 3]


def test_a_rewind_leads_to_the_segment_that_the_checkpoint_lies_in() -> None:
    track = track_of(5, 10, 15)
    track.reported = 15
    track.rewind(12)
    assert (track.segment, track.newest.at, track.newest.values, track.reported) == (2, 10, {"lr": 2.0}, 12)
    track.rewind(0)
    assert (track.segment, track.newest.values) == (0, {"lr": 0.0})


def test_a_decision_that_was_not_carried_out_leaves_the_one_before_in_force() -> None:
    track = track_of(5)
    track.open(at=10, seconds=10.0, values=None)
    assert (track.segment, track.newest.decision, track.newest.values) == (2, 1, {"lr": 1.0})
    track.open(at=15, seconds=15.0, values={"lr": 9.0})
    track.amend(copied_from=3, copied_segment=1)
    track.take_back()
    assert (track.newest.decision, track.newest.values, track.newest.copied_from) == (1, {"lr": 1.0}, None)


def test_forgotten_segments_are_skipped_not_renumbered() -> None:
    track = track_of(5)
    track.skip(3, at=22, seconds=1.0, values={"lr": 7.0})
    assert (track.segment, track.newest.at, track.newest.decision) == (4, 22, 4)
    track.rewind(6)
    assert track.segment == 4


def test_history_is_bounded_and_survives_plain_data() -> None:
    track = track_of(*range(1, 2 * HISTORY))
    assert len(track.openings) == HISTORY
    assert track.segment == 2 * HISTORY - 1
    for n in range(2 * CHECKPOINTS):
        track.note_saved(f"checkpoint_{n}", n, float(n))
    assert list(track.saved) == [f"checkpoint_{n}" for n in range(CHECKPOINTS, 2 * CHECKPOINTS)]
    again = Track.from_dict(track.to_dict())
    assert again == track
