"""Many cells, each computed once: solvers on many problems, methods on many tasks."""
