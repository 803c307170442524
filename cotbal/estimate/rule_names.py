"""The rules that make weights of signals, and what each takes."""

RULES = ("cotbal", "contribution", "one2all", "all2one", "difficulty", "equal")
USE_ONE2ALL = ("cotbal", "contribution", "one2all")
USE_ALL2ONE = ("cotbal", "contribution", "all2one")
USE_DIFFICULTY = ("cotbal", "difficulty")
