"""Tables of the results: ours, the paper's, and one row a metric for CSV."""

# The paper's best model and the public one it compares with stand beside
# ours; all twelve rows are in a table of their own.
BESIDE = ("BRN summary large 164 M, proprietary", "MERT-330")


def table_columns(runs, paper):
    """The measures to show, those of the paper's table first.

    Returns
    -------
    list of dict
        ``dataset``, ``task``, ``metric`` and ``title``.
    """
    known = [
        {**column, "title": f"{column['title']}, {column['metric']}"}
        for column in paper["columns"]
    ]
    tasks = {(column["dataset"], column["task"]) for column in known}
    for run in runs:
        if (run["dataset"], run["task"]) not in tasks:
            tasks.add((run["dataset"], run["task"]))
            for metric in run["metrics"][:2]:
                title = f"{run['dataset']} {run['task']}, {metric}"
                known.append(
                    {
                        "dataset": run["dataset"],
                        "task": run["task"],
                        "metric": metric,
                        "title": title,
                    }
                )
    present = {
        (run["dataset"], run["task"], metric)
        for run in runs
        for metric in run["test"]
    }
    return [c for c in known if _key(c) in present]


def _key(column):
    return column["dataset"], column["task"], column["metric"]


def cells(runs, columns):
    """Measures by row and column.

    Returns
    -------
    dict
        ``{row: {(dataset, task, metric): {"mean", "interval", ...}}}``
    """
    table = {run["row"]: {} for run in runs}
    for run in runs:
        for column in columns:
            same = (run["dataset"], run["task"]) == _key(column)[:2]
            if same and column["metric"] in run["test"]:
                value = run["test"][column["metric"]]
                table[run["row"]][_key(column)] = value
    return table


def our_table(runs, paper):
    """Header and lines: a line a measure, a column an encoder.

    Example
    -------
    >>> paper = {"columns": [], "rows": []}
    >>> run = {"dataset": "d", "task": "t", "metrics": ["accuracy"],
    ...        "row": "mel", "test": {"accuracy": {"mean": 0.5,
    ...        "std": 0.01, "interval": [0.4, 0.6]}}}
    >>> our_table([run], paper)
    (['Task, metric', 'mel'], [['d t, accuracy', '.500 [.400, .600]']])
    """
    columns = table_columns(runs, paper)
    values = cells(runs, columns)
    beside = [row for row in paper["rows"] if row["name"] in BESIDE]
    header = ["Task, metric", *values]
    header += [f"paper: {row['name']}" for row in beside]
    places = {_key(c): i for i, c in enumerate(paper["columns"])}
    lines = []
    for column in columns:
        line = [column["title"]]
        for row in values.values():
            line.append(format_cell(row.get(_key(column))))
        place = places.get(_key(column))
        for row in beside:
            number = "" if place is None else _number(row["values"][place])
            line.append(number)
        lines.append(line)
    return header, lines


def paper_table(paper):
    """Header and lines of the paper's twelve rows."""
    header = ["Encoder"]
    for column in paper["columns"]:
        header.append(f"{column['title']}, {column['paper_metric']}")
    return header, [
        [row["name"], *map(_number, row["values"])] for row in paper["rows"]
    ]


def format_cell(value):
    """Mean and interval, three digits.

    Example
    -------
    >>> format_cell({"mean": 0.5, "interval": [-0.02, 1.0]})
    '.500 [-.020, 1.000]'
    """
    if value is None:
        return ""
    low, high = value["interval"]
    return f"{_number(value['mean'])} [{_number(low)}, {_number(high)}]"


def _number(value):
    return f"{value:.3f}".replace("0.", ".", 1)


def signed(value):
    """Three digits with a sign.

    Example
    -------
    >>> signed(0.25), signed(-0.5)
    ('+.250', '-.500')
    """
    return f"{value:+.3f}".replace("0.", ".", 1)


def markdown(header, lines):
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def long_rows(runs):
    """One row a run and metric, for the CSV."""
    return [
        {
            "encoder": run["row"],
            "dataset": run["dataset"],
            "task": run["task"],
            "protocol": run["protocol"],
            "metric": metric,
            "mean": f"{value['mean']:.6g}",
            "low": f"{value['interval'][0]:.6g}",
            "high": f"{value['interval'][1]:.6g}",
            "std_over_seeds": f"{value['std']:.6g}",
            "seeds": len(run["seeds"]),
            "layer": run["layer"],
            "learning_rate": run["learning_rate"],
            "test_rows": run["counts"]["test"]["rows"],
            "folder": run["folder"],
        }
        for run in runs
        for metric, value in run["test"].items()
    ]
