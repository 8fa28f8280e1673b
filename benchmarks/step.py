"""Where a step of training spends its seconds, by torch's own profiler.

`python -m benchmarks.step ours|trl pairs|examples` prints a line for each part of the work; in a process of its own, as
what ran before changes how memory is had. Knows the names and shapes of torch's operators; which posts and settings,
`training.py` knows.
"""

import sys
import time
from collections import Counter

from torch.profiler import ProfilerActivity, profile

from benchmarks.training import WARM, ours, trl
from ram_demo.settings import from_environment
from ram_demo.training.recipe import Recipe

STEPS = 2  # that are looked at, after the WARM ones
WIDTHS = {192, 576, 1536}  # what the embedded model's matrices take
VOCABULARY = 32_768  # TRL cuts it into pieces of that size
PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm"}
PARTS = ("products of the layers", "gradients of weights", "attention", "vocabulary", "adapter", "optimiser", "rest")


class Watch:
    """Profiles STEPS steps of a training that tells it after each."""

    def __init__(self):
        self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def __call__(self, taken: int) -> None:
        if taken == WARM:
            self.profile.start()
            self.began = time.perf_counter()
        elif taken == WARM + STEPS:
            self.wall = (time.perf_counter() - self.began) / STEPS
            self.profile.stop()

    def seconds(self) -> Counter:
        """Of a step, by part."""
        found = Counter()
        for row in self.profile.key_averages(group_by_input_shape=True):
            found[part(row.key, row.input_shapes)] += row.self_cpu_time_total / 1e6 / STEPS
        return found


def part(name: str, shapes: list[list[int]]) -> str:
    """Which of PARTS an operator belongs to. A product that sums over the tokens makes a weight's gradient."""
    sizes = {size for shape in shapes for size in shape}
    if max(sizes, default=0) >= VOCABULARY or "softmax" in name or "LogProb" in name:
        return "vocabulary"
    if "scaled_dot_product" in name:
        return "attention"
    if name in PRODUCTS:
        if Recipe.lora_rank in sizes:
            return "adapter"
        left = [shape for shape in shapes if len(shape) > 1][-2]
        return "products of the layers" if left[-1] in WIDTHS else "gradients of weights"
    return "optimiser" if any(word in name for word in ("ptim", "adam", "lerp", "addcdiv", "addcmul")) else "rest"


def main(who: str, kind: str) -> None:
    watch = Watch()
    {"ours": ours, "trl": trl}[who](kind, from_environment(), watch)
    found = watch.seconds()
    print(f"{who}: {watch.wall:.2f} s a step, {found.total():.2f} of them in operators")
    for name in PARTS:
        print(f"{name:24}{found[name]:8.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
