"""How far two right computations of one number may lie apart, on whatever processor they run.

Each operation rounds its result by at most u of it, u = 2⁻²⁴ in float32 and 2⁻⁵³ in float64. Which way depends on the
order of the sums, and that on vector width, BLAS kernel and batch. So two right float32 results of a network lie apart
like the ends of two random walks of k steps, each step within ±u: standard deviation √(2k/3)·u, of which four are
allowed. A float64 sum is short enough for the worst case: all steps one way.
"""

import math

# Steps through a model of tiny_models.py. In each of two layers: sums over 32 hidden units (two norms, projections into
# and out of the attention and into the feed-forward part), 8 units of a head, 64 inner units; then a norm and the head.
# The attention's average over positions is left out: an average of errors is no larger than they are.
_STEPS = 2 * (5 * 32 + 8 + 64) + 2 * 32
_NETWORK = 4 * math.sqrt(2 * _STEPS / 3) * 2.0**-24  # 4.5e-6, relative to the size of what the network computes
_LARGEST_LOGIT = 16.0  # of these models

SIMILARITY = 2 * _NETWORK  # of two texts' vectors of length 1; relative where a similarity has no such bound


def log_likelihood(tokens: int) -> float:
    """Nats by which the sum of the log-likelihoods of `tokens` tokens may be off.

    Each is the difference of two numbers as large as the logits, and the errors of different tokens are independent.
    """
    return 2 * _LARGEST_LOGIT * _NETWORK * math.sqrt(tokens)


def perplexity(tokens: int) -> float:
    """Relative tolerance of exp(−mean log-likelihood) over `tokens` predicted tokens: that of the mean, in nats."""
    return log_likelihood(tokens) / tokens


def sum64(terms: int, magnitude: float) -> float:
    """Tolerance of a float64 sum whose terms have this sum of magnitudes, each after a few roundings of its own."""
    return (terms + 8) * 2.0**-53 * magnitude
