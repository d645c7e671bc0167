"""The entry point of the command `vfindex`; it imports nothing, so that Ctrl-C is quiet from the start."""


def main() -> None:
    """Run the command line and exit, see `app.main`."""
    try:
        from vfindex.cli import app

        app.main()
    except KeyboardInterrupt:  # before or after `app.main` handles it
        raise SystemExit(130) from None
