"""Recall, precision and speed of `dataset_builder.duplicates` on templated questions that differ in one identifier.

Each fact (an option of a made-up tool, with one of four attributes) is asked in one to five wordings; a true duplicate
is another wording of the same fact, and the hardest non-duplicates differ in the option's name alone (`cache_size_12`,
`cache_size_13`) or in the attribute alone.

    python benchmarks/duplicates.py [ROWS]
"""

import random
import sys
import time

from dataset_builder.duplicates import Item, duplicates

ATTRIBUTES = {
    "default": (
        "What is the default value of `{o}`?",
        "Which value does `{o}` have by default?",
        "What's the default of `{o}`?",
        "By default, what value is `{o}` set to?",
        "what is teh default value of `{o}`?",
    ),
    "type": (
        "What type is `{o}`?",
        "Which data type does `{o}` have?",
        "What is the type of `{o}`?",
        "Of which type is `{o}`?",
        "`{o}` type?",
    ),
    "effect": (
        "How does `{o}` affect memory?",
        "What effect does `{o}` have on memory?",
        "In what way does `{o}` affect memory usage?",
        "What is the effect of `{o}` on memory?",
        "How is memory affected by `{o}`?",
    ),
    "unit": (
        "In which unit is `{o}` given?",
        "What unit is `{o}` given in?",
        "Which unit is `{o}` given in?",
        "`{o}` is given in which unit?",
        "What is the unit in which `{o}` is given?",
    ),
}


def sample(rows: int, seed: int = 0) -> tuple[list[Item], dict[str, str]]:
    """Items in random order and, for each id, the fact it asks for."""
    chance = random.Random(seed)
    items: list[Item] = []
    fact_of: dict[str, str] = {}
    number = 0
    while len(items) < rows:
        first, second = chance.choice(("lora", "cache", "batch", "queue")), chance.choice(("size", "rank", "depth"))
        option = f"{first}_{second}_{number}"
        number += 1
        for place, (attribute, wordings) in enumerate(ATTRIBUTES.items()):
            start = number * 100 + 20 * place
            for wording in chance.sample(wordings, chance.randint(1, len(wordings))):
                text, name = wording.format(o=option), f"{len(items):08d}"
                items.append(Item(name, text, f"page-{number // 40}", start, start + 30))
                fact_of[name] = f"{option} {attribute}"
    chance.shuffle(items)
    return items[:rows], fact_of


def score(items: list[Item], fact_of: dict[str, str], dropped: dict[str, str]) -> tuple[float, float]:
    """(recall, precision): of the rows that repeat a fact the share that went, and of those that went the share that
    repeats the very fact it was merged into."""
    superfluous = len(items) - len({fact_of[item.id] for item in items})
    right = sum(fact_of[gone] == fact_of[kept] for gone, kept in dropped.items())
    return right / superfluous, right / max(1, len(dropped))


if __name__ == "__main__":
    items, fact_of = sample(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    begun = time.perf_counter()
    dropped = duplicates(items)
    seconds = time.perf_counter() - begun
    recall, precision = score(items, fact_of, dropped)
    print(f"{len(items):,} rows: recall {recall:.3f}, precision {precision:.3f}, {seconds:.1f} s")
