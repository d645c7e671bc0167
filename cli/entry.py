"""Where the command `vfindex` begins: a file that imports nothing, so that Ctrl-C ends it quietly from the first."""


def main() -> None:
    """Run the command line and exit, see `app.main`."""
    try:
        from vfindex.cli import app

        app.main()
    except KeyboardInterrupt:  # pressed before `app.main` could take it, or when it no longer could
        raise SystemExit(130) from None
