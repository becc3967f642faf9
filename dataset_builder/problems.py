"""What may go wrong in the dataset builder through no bug of ours."""


class BuildProblem(Exception):
    """The recipe or the world is at fault; the text says where, what and how to mend it. Commands print it, exit 1."""


class CostCapReached(BuildProblem):
    """`generator.max_cost_usd` would be passed by the next call; nothing of what was paid is lost."""


class Stopped(BuildProblem):
    """Ctrl-C or SIGTERM: everything paid so far is in the ledger, and the same command goes on from there."""
