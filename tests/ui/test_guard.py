"""What visitors of a page that others reach may do, and what the owner may, without a browser between."""

import json
from dataclasses import replace

import pytest

from ram_demo.errors import UserError
from ram_demo.training.jobs import Job
from ram_demo.training.recipe import Recipe
from ram_demo.ui import guard
from tests import tiny_workbench

RECIPE = Recipe(name="mine", description="", data="", data_license="")


class Started:
    """Jobs that note what was started and say what they are told to."""

    def __init__(self):
        self.jobs, self.calls = [], []

    def all(self):
        return self.jobs

    def start(self, recipe, data, max_steps=None):
        job = Job(recipe.name, "running", "", None)
        self.jobs = [job, *(j for j in self.jobs if j.name != recipe.name)]
        self.calls.append((recipe.name, max_steps))
        return job


@pytest.fixture
def data(tmp_path):
    def write(count: int):
        file = tmp_path / f"{count}.jsonl"
        file.write_text("\n".join(json.dumps({"prompt": f"p{n}", "completion": "c"}) for n in range(count)))
        return file

    return write


def made(tmp_path, host="0.0.0.0", token="secret") -> guard.Guard:
    settings = replace(tiny_workbench.settings(tmp_path), host=host, owner_token=token)
    return guard.Guard(settings, Started())


def over(found: guard.Guard) -> None:
    found.jobs.jobs = [replace(job, state="done") for job in found.jobs.jobs]


def test_a_page_for_this_machine_alone_has_no_limits(tmp_path, data):
    here = made(tmp_path, host="127.0.0.1")
    assert not here.is_needed
    here.start("", "a", replace(RECIPE, method="full"), data(guard.ROWS + 1))
    here.require("", "b", "mine")
    assert here.jobs.calls == [("mine", None)]


def test_the_owners_token_lifts_them_and_no_other_does(tmp_path, data):
    found = made(tmp_path)
    found.start("secret", "a", replace(RECIPE, method="full"), data(guard.ROWS + 1))
    assert found.jobs.calls == [("mine", None)]
    for wrong in ("", "Secret", "secret ", "s\N{LATIN SMALL LETTER E WITH ACUTE}cret"):
        assert not found.is_owner(wrong)
        with pytest.raises(UserError, match="owner"):
            found.require_owner(wrong, "Training on the votes")
    assert not made(tmp_path, token="").is_owner(""), "no token is nobody's"


def test_a_visitors_run_is_short_and_small(tmp_path, data):
    found = made(tmp_path)
    with pytest.raises(UserError, match=str(guard.ROWS)):
        found.start("", "a", RECIPE, data(guard.ROWS + 1))
    for large in ({"method": "full"}, {"lora_rank": 64}, {"batch_size": 17}, {"batch_size": 9, "accumulate": 2}):
        with pytest.raises(UserError, match="adapters"):
            found.start("", "a", replace(RECIPE, **large), data(3))
    found.start("", "a", RECIPE, data(guard.ROWS))
    assert found.jobs.calls == [("mine", guard.STEPS)]


def test_visitors_start_one_run_at_a_time_and_take_no_name_of_others(tmp_path, data):
    found = made(tmp_path)
    found.start("", "a", RECIPE, data(3))
    with pytest.raises(UserError, match="going on"):
        found.start("", "b", replace(RECIPE, name="other"), data(3))
    over(found)
    with pytest.raises(UserError, match="taken"):
        found.start("", "b", RECIPE, data(3))
    found.start("", "a", RECIPE, data(3))  # one's own may be done again
    over(found)
    (found.settings.own_aligners / "theirs").mkdir(parents=True)
    with pytest.raises(UserError, match="taken"):
        found.start("", "a", replace(RECIPE, name="theirs"), data(3))


def test_only_who_started_a_run_may_touch_it(tmp_path, data):
    found = made(tmp_path)
    found.start("", "a", RECIPE, data(3))
    found.require("", "a", "mine")
    found.require("secret", "b", "mine")
    for run in ("mine", "of another time"):
        with pytest.raises(UserError, match="Only who started"):
            found.require("", "b", run)
