"""Starting points for a run that a person makes by hand. Knows recipes; see `recipe.py` for what each value means."""

PRESETS: dict[str, tuple[str, dict]] = {
    "quick": (
        "about two minutes on two cores for 60 short examples",
        {
            "epochs": 3,
            "batch_size": 4,
            "learning_rate": 5e-4,
            "lora_rank": 8,
            "max_tokens": 256,
            "synthesis_tokens": 24,
        },
    ),
    "standard": (
        "a quarter of an hour for 250 short examples",
        {
            "epochs": 3,
            "batch_size": 4,
            "learning_rate": 3e-4,
            "lora_rank": 16,
            "max_tokens": 512,
            "synthesis_tokens": 64,
        },
    ),
    "paper": (
        "every weight, small steps: hours on a CPU",
        {
            "method": "full",
            "epochs": 1,
            "batch_size": 4,
            "accumulate": 16,
            "learning_rate": 1e-5,
            "max_tokens": 1024,
            "synthesis_tokens": 256,
        },
    ),
}
