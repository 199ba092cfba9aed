"""What is multiplied in a run, from options and from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from enginebench.errors import UsageError
from enginebench.plan.plan import Plan, preset, rough_seconds
from enginebench.plan.sweep import Sweep, asked_for, cases, merged, read_sweep
from enginebench.plan.workload import parsed
from enginebench.store.record import Workload
from enginebench_models import catalogue

DEFAULT = Workload(n_prompt=128, n_gen=64)


def names(found: tuple[Workload, ...]) -> list[str]:
    return [workload.name for workload in found]


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


def test_what_is_not_counted_is_the_presets() -> None:
    assert names(asked_for([], ["512"], [], [], DEFAULT)) == ["pp512+tg64"]
    assert names(asked_for([], [], [], ["0,100"], DEFAULT)) == ["pp128+tg64", "pp128+tg64@d100"]
    assert asked_for([], [], [], [], DEFAULT) == ()


def test_a_depth_holds_for_named_workloads_that_have_none() -> None:
    found = asked_for(["tg8", "pp4+tg2@d7"], [], [], ["0,100"], DEFAULT)
    assert names(found) == ["tg8", "pp4+tg2@d7", "tg8@d100"]


def test_a_workload_is_given_in_one_way_only() -> None:
    with pytest.raises(UsageError, match="not by both"):
        asked_for(["decode"], ["512"], [], [], DEFAULT)


def test_a_sweep_file_holds_all_that_can_be_multiplied(tmp_path: Path) -> None:
    text = """
        engines = ["torch:half", "llamacpp"]
        models = ["llama3-1b", "q8.gguf"]
        precisions = ["16-bit"]
        n_prompt = "128-512*2"
        n_gen = 64
        n_depth = [0, "1024-4096*4"]
        threads = [1, 2]
    """
    sweep = read_sweep(written(tmp_path, text), DEFAULT)
    assert sweep.engines == ("torch:half", "llamacpp")
    assert sweep.models == ("llama3-1b", "q8.gguf")
    assert (sweep.precisions, sweep.threads) == (("16-bit",), (1, 2))
    assert names(sweep.workloads) == [
        *("pp128+tg64", "pp256+tg64", "pp512+tg64"),
        *("pp128+tg64@d1024", "pp256+tg64@d1024", "pp512+tg64@d1024"),
        *("pp128+tg64@d4096", "pp256+tg64@d4096", "pp512+tg64@d4096"),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("n_promt = 4", "unknown key in sweep.toml 'n_promt': did you mean 'n_prompt'"),
        ("n_prompt = 4.5", r"sweep.toml: Expected .* at `\$.n_prompt`"),
        ("threads = 0", "threads 0: must be greater than or equal to 1"),
        ('precisions = ["float16"]', "unknown precision 'float16'"),
        ('workloads = ["decoed"]', "did you mean 'decode'"),
        ('workloads = ["decode"]\nn_gen = 8', "not by both"),
        ("engines = 'torch'", r"Expected `array`.* at `\$.engines`"),
        ("engines = [", "sweep"),
    ],
)
def test_a_wrong_sweep_file_is_refused_with_key_and_value(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read_sweep(written(tmp_path, text), DEFAULT)


def test_an_empty_sweep_file_leaves_everything_as_it_is(tmp_path: Path) -> None:
    assert read_sweep(written(tmp_path, ""), DEFAULT) == Sweep()


def test_file_and_command_line_add_up_unless_they_say_the_same() -> None:
    file, typed = Sweep(threads=(1, 2), precisions=("float32",)), Sweep(engines=("torch",))
    assert merged(file, typed) == Sweep(engines=("torch",), threads=(1, 2), precisions=("float32",))
    with pytest.raises(UsageError, match="threads is given in the sweep file and on the command line"):
        merged(file, Sweep(threads=(4,)))


def test_cases_are_the_product_and_threads_belong_to_them_only_if_swept() -> None:
    chosen, work = [("a", "x"), ("b", "y")], [parsed("tg8"), parsed("tg8@d4")]
    swept = cases(chosen, ["m", "n"], work, [1, 4])
    assert len(swept) == len({case.id for case in swept}) == 16
    assert (swept[0].id, swept[0].label) == ("a:x/m/tg8/t1", "a:x t1")
    assert [case.id for case in cases(chosen, ["m"], work[:1], [4])] == ["a:x/m/tg8", "b:y/m/tg8"]


def test_the_estimate_of_a_product_is_the_sum_of_its_cases() -> None:
    configs, standard = {"tiny": catalogue.entry("tiny").config}, preset("standard")
    one, other = (cases([("a", "x")], ["tiny"], [parsed(name)], []) for name in ("pp8+tg8", "tg2000@d30"))
    each = [rough_seconds(Plan(standard, part, 0), configs, "cpu") for part in (one, other)]
    assert rough_seconds(Plan(standard, one + other, 0), configs, "cpu") == pytest.approx(sum(each))


def test_the_estimate_knows_the_requests_of_the_depth_alone() -> None:
    """Without a depth the same tokens are one prompt: four requests of 4000 tokens a launch are on top."""
    configs, standard = {"m": catalogue.entry("llama3-1b").config}, preset("standard")
    deep, flat = (cases([("a", "x")], ["m"], [parsed(name)], []) for name in ("pp96+tg4@d4000", "pp4096+tg4"))
    more = rough_seconds(Plan(standard, deep, 0), configs, "cpu") - rough_seconds(
        Plan(standard, flat, 0), configs, "cpu"
    )
    assert more == pytest.approx(10 * 4 * 4000 * configs["m"].read_elements_per_token() * 2 / 100e9)
