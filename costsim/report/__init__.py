"""How a plan is shown: `table` for terminals, `page` for a self-contained HTML file."""
