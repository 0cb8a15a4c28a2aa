"""What was measured and what it means: metrics, controls, verdicts, words."""
