"""The `handoff` command: the only place that knows every program of the project.

`commands` is the whole command line on one page; what a command does stands in the module of its noun, which is
imported only when it runs.
"""
