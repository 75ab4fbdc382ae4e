"""A machine over SSH: the connection, a folder of its own there, and jobs in it."""
