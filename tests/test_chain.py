"""The checksums of records: what each kind of tampering is called, what is left out, and what stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.store import chain, record_file

RUN, OTHER = "toy-ic-s0-0123456789ab", "toy-ot-s0-ba9876543210"


def record(step: int, metric: str = "w2", run: str = RUN, value: float = 0.5, final: bool = False, protocol: str = "aaaaaaaaaaaa") -> dict:
    return {"run": run, "step": step, "seconds": step / 7, "metric": metric, "value": value + step, "final": final, "protocol": protocol}


def records(run: str = RUN, steps: int = 6) -> list[dict]:
    rows = [record(step, metric, run) for step in range(1, steps + 1) for metric in ("w2", "in_mode")]
    return chain.linked([*rows, record(steps, run=run, final=True)], run)


def sealed(rows: list[dict], run: str = RUN) -> dict:
    return {"step": 6, **chain.seal(record_file.encode_lines(rows), rows, run)}


ROWS = records()
RESULT = sealed(ROWS)


def check(rows, result=RESULT) -> tuple[list[dict], str]:
    good, problems = chain.check(rows, RUN, result)
    return good, "\n".join(problems)


def without(rows: list[dict], *numbers: int) -> list[dict]:
    return [row for number, row in enumerate(rows) if number not in numbers]


def test_undamaged_records_are_all_good_with_and_without_a_seal():
    assert check(ROWS) == (ROWS, "") and check(ROWS, None) == (ROWS, "") and check([], None) == ([], "")
    assert all(len(row["check"]) == 24 for row in ROWS) and len({row["check"] for row in ROWS}) == len(ROWS)
    assert chain.end(ROWS, RUN) == ROWS[-1]["check"] == RESULT["check"] and RESULT["records"] == len(ROWS)


def test_the_chain_of_a_resumed_run_is_that_of_an_undisturbed_one():
    first, rest = ROWS[:5], [{key: value for key, value in row.items() if key != "check"} for row in ROWS[5:]]
    assert [*first, *chain.linked(rest, chain.end(first, RUN))] == ROWS


@pytest.mark.parametrize(
    "key,value", [("value", 0.25), ("seconds", 0.0), ("protocol", "bbbbbbbbbbbb"), ("n", 5), ("final", None), ("step", 5)]
)
@pytest.mark.parametrize("number", [0, 4, 12])
def test_a_changed_record_is_left_out_alone(number, key, value):
    rows = [dict(row) for row in ROWS]
    rows[number][key] = value
    good, problems = check(rows)
    assert good == without(ROWS, number)
    assert problems.startswith("1 record changed") and f"step {rows[number]['step']} {rows[number]['metric']}" in problems


def test_a_removed_record_is_missed_and_the_others_stay():
    for number in (0, 5, 11):
        good, problems = check(without(ROWS, number))
        assert good == without(ROWS, number)
        following = ROWS[number + 1]
        assert f"missing before step {following['step']} {following['metric']}" in problems and "1 of 13" in problems
    good, problems = check(ROWS[:-2])
    assert good == ROWS[:-2] and "2 of 13" in problems
    good, problems = check(without(ROWS, 5), None)
    assert good == without(ROWS, 5) and "missing before" in problems, "noticed before the run has ended as well"


def test_records_of_another_run_are_left_out():
    foreign = records(OTHER)
    good, problems = check([*ROWS[:4], *foreign[:3], *ROWS[4:]])
    assert good == ROWS and OTHER in problems and problems.startswith("3 records of another run")
    good, problems = check([ROWS[0], foreign[1], foreign[2], *ROWS[2:]])
    assert good == without(ROWS, 1) and "2 records of another run" in problems and "missing before" in problems
    good, problems = check(foreign)
    assert good == [] and OTHER in problems and "13 records" in problems


def test_renamed_records_of_another_run_are_changed_ones():
    renamed = [{**row, "run": RUN} for row in records(OTHER)]
    good, problems = check(renamed)
    assert good == [] and "13 records changed" in problems


def test_a_second_record_of_the_same_step_and_metric_is_left_out():
    second = {**ROWS[2], "value": 9.0}
    plain = {key: value for key, value in second.items() if key != "check"}
    for row, words in ((ROWS[2], "repeating"), (second, "changed"), (plain, "without a checksum")):
        for place in (3, 8):
            good, problems = check([*ROWS[:place], row, *ROWS[place:]])
            assert good == ROWS and words in problems and "step 2 w2" in problems
        good, problems = check([*ROWS, row])
        assert good == ROWS and "step 2 w2" in problems


def test_records_after_the_end_are_left_out():
    continued = chain.linked([record(6, "recall")], ROWS[-1]["check"])
    good, problems = check([*ROWS, *continued])
    assert good == ROWS and "added after the end" in problems and "step 6 recall" in problems
    assert check([*ROWS, *continued], None) == ([*ROWS, *continued], "")


def test_records_beyond_the_last_step_are_left_out():
    rows = chain.linked([*map(dict, ROWS[:2]), record(10**9)], RUN)
    good, problems = check(rows, {"step": 6})
    assert good == rows[:2] and "beyond the last step" in problems and "1000000000" in problems


def test_a_complete_chain_that_is_not_the_sealed_one_is_not_trusted():
    """The same run on another machine: each record fits, and the numbers are not those of result.json."""
    elsewhere = chain.linked([{**row, "value": row["value"] + 1e-9} for row in ROWS], RUN)
    good, problems = check(elsewhere)
    assert good == [] and "13 records" in problems and "result.json" in problems


def test_moved_records_are_noticed_and_stay():
    good, problems = check([*ROWS[:2], ROWS[3], ROWS[2], *ROWS[4:]])
    assert sorted(good, key=ROWS.index) == ROWS and "missing before" in problems


def test_another_protocol_is_left_out():
    rows = [record(step) for step in range(1, 5)]
    rows[1]["protocol"] = "bbbbbbbbbbbb"
    for given_rows in (rows, chain.linked(rows, RUN)):
        good, problems = check(given_rows, None)
        assert good == without(given_rows, 1) and "protocol" in problems and "step 2 w2" in problems


OLD = [{key: value for key, value in row.items() if key != "check"} for row in ROWS]


def test_records_of_earlier_versions_are_accepted_with_what_can_be_checked():
    result = {"step": 6, "records": len(OLD)}
    assert check(OLD, result) == (OLD, "")
    good, problems = check([*OLD, record(3), record(7), record(2, run=OTHER)], result)
    assert good == OLD
    assert "repeating" in problems and "step 3 w2" in problems and "beyond" in problems and "step 7 w2" in problems and OTHER in problems
    assert "2 of 13" in check(OLD[:-2], result)[1]


def test_a_run_of_an_earlier_version_that_is_resumed_continues_with_a_chain():
    rows = [*OLD[:6], *chain.linked(OLD[6:], chain.end(OLD[:6], RUN))]
    result = sealed(rows)
    assert check(rows, result) == (rows, "")
    tampered = [dict(row) for row in rows]
    tampered[2]["value"] = 9.0
    good, problems = check(tampered, result)
    assert good == rows[6:] and "6 records without checksums" in problems
    good, problems = check([*rows[:8], record(9), *rows[8:]], result)
    assert good == rows and "without a checksum" in problems


def test_stripped_checksums_do_not_hide_a_change():
    rows = [dict(row) for row in OLD]
    assert check(rows, RESULT) == (rows, ""), "the chain can be computed again"
    rows[4]["value"] = 9.0
    good, problems = check(rows, RESULT)
    assert good == [] and "result.json" in problems


TAMPERINGS = st.lists(
    st.tuples(st.sampled_from(["change", "remove", "repeat", "foreign", "strip"]), st.integers(0, 12), st.integers(0, 13)),
    min_size=1,
    max_size=4,
)


@given(TAMPERINGS, st.booleans())
@settings(max_examples=150)
def test_whatever_is_done_to_the_file_no_number_is_used_that_was_not_measured(tamperings, with_result):
    rows = [dict(row) for row in ROWS]
    for kind, number, place in tamperings:
        if not rows:
            break
        row = rows[number % len(rows)]
        if kind == "change":
            row["value"] = -1.0
        elif kind == "remove":
            rows.remove(row)
        elif kind == "repeat":
            rows.insert(place % (len(rows) + 1), dict(row))
        elif kind == "strip":
            row.pop("check", None)
            row["value"] = -1.0
        else:
            rows.insert(place % (len(rows) + 1), records(OTHER)[number])
    good, problems = check(rows, RESULT if with_result else None)
    measured = {json.dumps({k: v for k, v in row.items() if k != "check"}) for row in ROWS}
    kept = [json.dumps({k: v for k, v in row.items() if k != "check"}) for row in good]
    no_checksums = not with_result and not any("check" in row for row in rows)
    assert len(set(kept)) == len(kept) and (set(kept) <= measured or no_checksums)
    if with_result and rows != ROWS:
        assert problems


# --- the file


def test_a_file_is_restored_from_the_copy_in_the_checkpoint(tmp_path):
    path = tmp_path / "records.jsonl"
    saved = ROWS[:9]

    def restored(rows, result=None):
        path.write_bytes(record_file.encode_lines(rows))
        again, faults = record_file.restored(path, RUN, result, saved)
        assert [json.loads(line) for line in path.read_text().splitlines()] == again
        return again, "\n".join(faults)

    assert restored(ROWS) == (ROWS, "") and restored(ROWS[:9]) == (ROWS[:9], "")
    assert restored(ROWS[:4]) == (ROWS[:9], ""), "a cut file is completed"
    assert not list(tmp_path.glob("*.damaged"))
    rows = [dict(row) for row in ROWS]
    rows[2]["value"] = 9.0
    again, faults = restored(rows)
    assert again == ROWS and "changed" in faults
    assert len(list(tmp_path.glob("records-*.damaged"))) == 1
    again, faults = restored([*ROWS[:3], *records(OTHER)])
    assert again == ROWS[:9] and OTHER in faults
    elsewhere = chain.linked([{**row, "value": row["value"] + 1e-9} for row in ROWS], RUN)
    again, faults = restored(elsewhere)
    assert again[:9] == ROWS[:9] and "9 records differ" in faults
    path.unlink()
    assert record_file.restored(path, RUN, None, saved)[0] == ROWS[:9]


def test_the_fault_of_a_file_is_what_the_check_names(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(record_file.encode_lines(ROWS))
    assert record_file.fault(path, RUN, RESULT) == "" and record_file.seal(path, RUN) | {"step": 6} == RESULT
    path.write_bytes(record_file.encode_lines(ROWS)[:-1])
    assert record_file.fault(path, RUN, RESULT) == "", "only the last newline is missing"
    path.write_bytes(record_file.encode_lines(ROWS).replace(b'"value":2.5', b'"value":0.5', 1))
    assert "step 2 w2" in record_file.fault(path, RUN, RESULT)
    path.write_bytes(record_file.encode_lines(ROWS[:-3]))
    assert "3 of" in record_file.fault(path, RUN, RESULT) and record_file.lost(path, RESULT) == 3
    assert record_file.fault(path, RUN, {"step": 6}) == "", "results of earlier versions do not count their records"
