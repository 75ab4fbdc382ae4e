"""A study of methods as LaTeX and as CSV."""

import csv
import io

from costsim.report.study_table import (
    cost_cells,
    domain_columns,
    footnote,
    groups,
    marked,
    memory_heading,
    percent,
)
from costsim.studies.methods.analysis import AVERAGE, MethodFindings
from costsim.studies.methods.store import COLUMNS

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    }
)  # fmt: skip


def study_latex(findings: MethodFindings, accounting: str = "peak") -> str:
    """The table for a paper, one `tabular` for each model and device; needs `booktabs`."""

    def text(value: str) -> str:
        return value.translate(_LATEX)

    def number(value: str) -> str:
        return "--" if value == "-" else text(value).replace(" ± ", r" $\pm$ ").replace("-", "$-$")

    parts = [f"% {text(footnote(findings, accounting))}"]
    for title, lines in groups(findings):
        columns = domain_columns(findings)
        best = {
            name: max((m.value for line in lines if (m := line.accuracy[name])), default=None)
            for name in columns
        }
        costs = [memory_heading(accounting), "MACs", "time", "energy"]
        headings = ["method", *columns, f"over {findings.reference}", *costs]
        parts += [
            f"% {text(title)}",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            " & ".join(map(text, headings)) + r" \\",
            r"\midrule",
        ]
        for line in lines:
            cells = [text(marked(line))]
            for name in columns:
                mean = line.accuracy[name]
                cell = number(percent(mean))
                is_best = mean is not None and mean.value == best[name]
                cells.append(rf"\textbf{{{cell}}}" if is_best else cell)
            own = line.method == findings.reference
            cells.append(
                "--" if own else number(percent(line.over_reference[AVERAGE], signed=True))
            )
            cells += [number(cell) for cell in cost_cells(line, accounting)]
            parts.append(" & ".join(cells) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"


def study_csv(findings: MethodFindings) -> str:
    """The rows as they are, one a cell; plans and predictions left out."""
    names = [name for name in COLUMNS if name not in ("plan", "predictions")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in findings.rows)
    return text.getvalue()
