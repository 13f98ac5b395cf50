"""Class weights λ of the KTO loss: they give positive and negative rows the same total weight."""

from scorers.errors import UserError


def class_weights(positive: int, negative: int) -> tuple[float, float]:
    """λ+ = N/(2·N+) and λ− = N/(2·N−) with N = N+ + N−, so that λ+·N+ = λ−·N− = N/2 (GRACE-KTO, eq. 11).

    Args:
        positive: N+, number of rows with label true, ≥ 0.
        negative: N−, number of rows with label false, ≥ 0.

    Returns:
        (λ+, λ−), without unit, each above 1/2. Where one label is absent there is nothing to balance: both are 1.

    Raises:
        UserError: there is no row at all.

    >>> class_weights(1, 3)
    (2.0, 0.6666666666666666)
    >>> class_weights(5, 0)
    (1.0, 1.0)
    """
    total = positive + negative
    if total == 0:
        raise UserError("the dataset has no rows, so the loss has no class weights; build a dataset with rows")
    if positive == 0 or negative == 0:
        return 1.0, 1.0
    return total / (2 * positive), total / (2 * negative)
