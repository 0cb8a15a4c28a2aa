"""What command line, server, Slicer, margin and ensemble take where the user names nothing; light, so that `--help`
needs no torch."""

ATTACK = "annealed"
"""The strongest attack per call of the model that was measured (docs/adr/0012, docs/benchmarks.md)."""
STEPS = 20
"""Of most attacks; those that need more to reach their limit say so (`Recipe.steps`)."""
EPS = 4.0
"""The largest change in HU, of attacks that have no budget of their own (`Recipe.limit`)."""
UNITS = ("native", "sigma", "percent")
"""What a limit may be given in: the scan's own unit (HU on CT), its noise, or percent of its 1-99 % range."""
MAX_EPS = 32.0
"""The largest limit that a search for the margin tries, in the scan's own unit."""
VICTIMS = ("ct-organs", "ct-organs-2d")
"""What a server serves."""
TAU, ALPHA, CHOOSERS = 0.75, 0.001, 10
"""Of a certificate: the share of noisy copies that agree, the chance that it is wrong, copies that choose answers."""
CORRECTIONS = ("holm", "bonferroni")
"""How a certificate's tests of many voxels are corrected (`certificates.statistics`)."""
