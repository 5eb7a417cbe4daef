"""`python -m clipcls`."""

from clipcls.cli import main

main()
