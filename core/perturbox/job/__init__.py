"""A job from its inputs to its result folder, and what reads such a folder again."""
