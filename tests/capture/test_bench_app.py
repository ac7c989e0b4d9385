"""What `bench --app` times is the app's own work, whole."""

from __future__ import annotations

import pytest

from sdv2live.bench_app import MOST_MS, time_app


def test_every_stage_of_a_frame_is_timed() -> None:
    entries = time_app(chunks=3)
    assert [(entry["source"], entry["wet"]) for entry in entries] == [
        (source, wet) for source in ([832, 480], [1280, 720], [1920, 1080]) for wet in (1.0, 0.5)
    ]
    for entry in entries:
        assert len(entry["stage_ms"]) == 6 and all(ms > 0 for ms in entry["stage_ms"].values())
        assert entry["frame_ms"] == pytest.approx(sum(entry["stage_ms"].values()))
    assert MOST_MS == 2
