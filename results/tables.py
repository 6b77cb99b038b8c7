"""The table that a command ends with, and what it says of REKD: gap recovered, significance."""

import numpy as np

from rekd import sign_flip_test


def table(title, results):
    """{method: [result of each seed]} -> the table, and what it says of REKD; at most 100 wide."""
    rows = [["method", "accuracy", "rate", "F1", "parameters", "seconds"]]
    for method, runs in results.items():
        cells = [spread([run["test"].get(key) for run in runs], digits)
                 for key, digits in (("accuracy", 4), ("rate_mean", 3), ("f1", 3))]
        rows.append([method.upper(), *cells, f"{runs[0]['parameters']:,}",
                     spread([run["seconds"] for run in runs], 0)])
    lines = [title, "", *aligned(rows), ""]
    if "rekd" in results:
        teacher = results["rekd"][0]["teacher"]
        lines += ["teacher: {preset} (RE), dev accuracy {dev[accuracy]:.4f} at rate "
                  "{dev[rate_mean]:.3f}\n         {path}".format(**teacher)]
    if len(results) == 3:
        lines += comparison(*results.values())
    return "\n".join(lines)


def aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def spread(values, digits):
    """mean +- sample standard deviation; the value alone where there is one."""
    if None in values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):.{digits}f}"


def comparison(*results):
    """Results of CLS, RE and REKD, paired by seed -> what REKD gains, line by line."""
    accuracy = np.array([[run["test"]["accuracy"] for run in runs] for runs in results])  # (3, n)
    gap = accuracy[0] - accuracy[1]
    gain = accuracy[2] - accuracy[1]
    n = len(gap)
    if n > 1:
        error = gap.std(ddof=1) / n**0.5
    else:  # of one seed, the sampling error of the test set
        variance = accuracy[:2] * (1 - accuracy[:2]) / results[0][0]["test"]["examples"]
        error = variance.sum() ** 0.5
    lines = ["no gap to recover: CLS - RE is less than two standard errors"]
    if gap.mean() > 2 * error:
        share = gain.mean() / gap.mean()
        lines = [f"gap recovered, (REKD - RE) / (CLS - RE): {share:.0%}"]
    if n > 1:
        lines.append(f"REKD - RE, paired by seed: {spread(list(gain), 4)}")
    if n < 6:
        return [*lines, "significance: takes 6 seeds or more, --seeds 6"]
    return [*lines, f"exact two-sided sign-flip permutation test: p = "
                    f"{sign_flip_test(gain):.2g} ({n} seeds cannot go below {2 / 2**n:.2g})"]
