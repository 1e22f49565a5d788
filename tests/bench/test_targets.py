"""`python -m bench.targets` on a small scale: it measures, and says what meets its goal."""

from __future__ import annotations

from pathlib import Path

from bench.targets.__main__ import (
    Row,
    crowd_rows,
    decision_rows,
    latency_rows,
    render_table,
    run_llb,
    translation_rows,
)


def test_requests_through_llb_and_the_list_of_many_models(tmp_path: Path) -> None:
    with run_llb(tmp_path / "home") as llb:
        rows = [*latency_rows(llb, [("vllm", "as it is")], 1), *crowd_rows(llb, 3, 2, 1)]
    assert [row.unit for row in rows] == ["ms", "ms", "ms", "ms", "MB"]
    assert rows[3].name.startswith("`/v1/models`, 6 entries")


def test_work_within_the_process() -> None:
    rows = [*translation_rows(1, chunks=3), *decision_rows(endpoints=3, models=2, decisions=3)]
    assert len(rows) == 8
    assert all(row.figure > 0 for row in rows)


def test_the_table_says_what_meets_its_goal() -> None:
    table = render_table([Row("fast", 1.0, "ms", 2), Row("slow", 3.0, "ms", 2), Row("free", 4.0, "µs")])
    assert table.splitlines()[2:] == [
        "| fast | 1 ms | < 2 ms | met |",
        "| slow | 3 ms | < 2 ms | missed |",
        "| free | 4 µs | – |  |",
    ]
