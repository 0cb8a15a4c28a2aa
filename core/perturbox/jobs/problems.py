"""What may end a job beside its own input, in words."""

from perturbox.jobs.records import Problem

INTERRUPTED = Problem("interrupted", "The server ended while this job was waiting or running.", "Submit it again.")
DIED = Problem("worker-died", "The worker process that ran this job was lost.", "Submit it again.")
MEMORY = Problem(
    "out-of-memory",
    "The worker process ran out of memory.",
    "Crop the scan to the organ, or use a machine with more memory.",
)
FAILED = Problem("internal", "The worker could not take this job on.", "Install the same Perturbox there as here.")
FULL = Problem("disk-full", "The server's disk is full.", "Delete old jobs or ask the operator for space.")
LOCKED = Problem("unavailable", "The server can't change its records now.", "Try again in a moment.")
GONE = Problem("bad-input", "The job's own copy of the scan is gone.", "Submit the scan again.")
UNREADABLE = Problem(
    "bad-input",
    "Reading the scan took too long, so it was given up.",
    "Export the scan again, as .nii.gz if you can, and crop it to what is needed.",
)
STUCK = Problem("stuck", "The job gave no sign of life for too long and was ended.", "Submit it again; report it.")
