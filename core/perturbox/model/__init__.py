"""A model on a scan: its pipeline, the sliding window and the exact gradient."""
