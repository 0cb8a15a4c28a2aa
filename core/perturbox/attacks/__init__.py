"""What climbs: budgets, objectives, spaces, solvers and, one file per paper, the recipes."""
