"""`python -m app` is `event-captioner`."""

from app.cli import main

main()
