"""The comparison study: solvers on many problems, every answer one row that is kept.

    spec (the file) ──► cells ──► runner (processes) ──► store (SQLite) ──► analysis

The solvers come in as a function from a name, so that nothing here knows which there are.
"""
