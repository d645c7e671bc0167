"""One module a subcommand of `vfindex`."""
