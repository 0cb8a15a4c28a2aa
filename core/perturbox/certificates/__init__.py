"""Certified segmentation: voxels whose answer no small change can alter, proved for the model smoothed by noise.

Fischer, Baader & Vechev 2021 (SegCertify, ICML, arXiv 2107.00228) and, over a tree of structures, Anani, Lorenz,
Schiele & Fritz 2024 (AdaptiveCertify, ICML, arXiv 2402.08400). The smoothed model gives each voxel the answer that more
than a share tau of all noisy copies of the scan agree on. With probability 1 - alpha every certified voxel has it, and
then no change with an L2 norm up to sigma * Phi^-1(tau) over the whole volume takes it away.

`statistics` tests counts of votes, `tree` holds the answers, `sampling` makes the noisy copies and counts, `smoothed`
puts them together, `document` says in numbers and words what was found.
"""
