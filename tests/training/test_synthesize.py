"""y- from the proposal: sampled once for each content, with the paper's settings, each cut at its first ending."""

import pytest
import torch

from ram_demo.errors import StorageError
from ram_demo.training.synthesize import synthesize
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread
ENDS = frozenset({2, 0})
PROMPTS = [(5, 6, 7), (8,), (9, 10)]


class Scripted:
    """Answers each prompt with ids of the test's choosing, and notes what it was asked."""

    device = torch.device("cpu")

    def __init__(self, answers):
        self.answers, self.calls = answers, []

    def generate(self, ids, attention_mask, **options):
        prompts = [tuple(row[kept.bool()].tolist()) for row, kept in zip(ids, attention_mask, strict=True)]
        self.calls.append({"prompts": prompts, "ids": ids, "mask": attention_mask, **options})
        return torch.cat([ids, torch.tensor([self.answers[prompt] for prompt in prompts])], -1)


@pytest.fixture
def model():
    return Scripted({(5, 6, 7): [11, 2, 2, 2], (8,): [12, 13, 0, 2], (9, 10): [14, 15, 16, 17]})


def ask(model, cache, prompts=PROMPTS, ends=ENDS, tokens=4, seed=3, revision="r1", progress=lambda done, total: None):
    return synthesize(model, prompts, ends, tokens, seed, revision, cache, progress)


def test_each_answer_ends_at_its_first_ending(model, tmp_path):
    assert ask(model, tmp_path) == [[11, 2], [12, 13, 0], [14, 15, 16, 17]]


def test_the_prompts_are_padded_on_the_left_and_masked(model, tmp_path):
    ask(model, tmp_path)
    call = model.calls[0]
    assert call["prompts"] == PROMPTS
    assert call["mask"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert set(call["ids"][call["mask"] == 0].tolist()) <= ENDS


def test_the_sampling_is_the_papers(model, tmp_path):
    ask(model, tmp_path)
    paper = {"do_sample": True, "temperature": 0.5, "top_p": 0.95, "top_k": 10, "repetition_penalty": 1.05}
    assert paper.items() <= model.calls[0].items()
    assert model.calls[0]["max_new_tokens"] == 4
    assert set(model.calls[0]["eos_token_id"]) == ENDS


def test_a_second_asking_is_answered_from_the_cache(model, tmp_path):
    first = ask(model, tmp_path)
    assert ask(Scripted({}), tmp_path) == first
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1, "one answer file, nothing half written"


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": [(5, 6, 7), (9, 10), (8,)]},
        {"prompts": [(5, 6, 7), (8,)]},
        {"ends": frozenset({2})},
        {"tokens": 5},
        {"seed": 4},
        {"revision": "r2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_the_answers_decides_the_cache(model, tmp_path, change):
    ask(model, tmp_path)
    ask(model, tmp_path, **change)
    assert len(model.calls) == 2


def test_many_prompts_are_told_as_they_are_done(tmp_path):
    prompts = [(20 + i,) for i in range(35)]
    told = []
    model = Scripted({prompt: [prompt[0], 2] for prompt in prompts})
    answers = ask(model, tmp_path, prompts, progress=lambda done, total: told.append((done, total)))
    assert answers == [[prompt[0], 2] for prompt in prompts], "in the prompts' order, over all batches"
    assert [total for _, total in told] == [35] * len(told)
    assert [done for done, _ in told] == sorted({done for done, _ in told}) and told[-1][0] == 35


def test_a_real_model_answers_alike_for_one_seed(tmp_path):
    model = tiny.model()
    prompts = [tuple(range(20, 30)), (40, 41)]
    first, again, other = (
        ask(model, tmp_path / d, prompts, tokens=12, seed=s) for d, s in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other
    assert all(1 <= len(answer) <= 12 and not ENDS & set(answer[:-1]) for answer in first)


def test_a_cache_that_cannot_be_written_is_one_sentence(model, tmp_path):
    cache = tmp_path / "cache"
    cache.write_text("a file stands where the folder should")
    with pytest.raises(StorageError, match="written"):
        ask(model, cache)
